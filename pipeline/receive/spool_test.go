package receive

import (
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sluicemail/sluice/storage/blob"
)

// TestSpoolFails: a disk that is full or broken is a passing failure, the content is read to its end all the same, and the
// peer hears nothing about the disk (E1.13).
func TestSpoolFails(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{{syscall.ENOSPC, "452 4.3.1 "}, {syscall.EIO, "451 4.3.0 "}} {
		broken := errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileWrite {
				return c.err
			}
			return nil
		})
		store, err := blob.Open(errorfs.Wrap(vfs.NewMem(), broken), "blob", blob.NewBudget(1<<20), 4096, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := serve(t, func(o *Options) { o.Blobs = store })
		_, send, read := dial(t, s)
		for _, how := range []string{"DATA\r\n" + strings.Repeat("0123456789\r\n", 10000) + ".\r\n", "BDAT 20000 LAST\r\n" + strings.Repeat("z", 20000)} {
			if how[0] == 'D' {
				begin(t, send, read)
			} else {
				send(envelopeOf1)
				for range 3 {
					expect(t, read(), "250 ")
				}
			}
			send(how + "NOOP\r\n")
			have := read()
			if strings.HasPrefix(have, "354 ") {
				have = read()
			}
			expect(t, have, c.want)
			if strings.Contains(have, c.err.Error()) {
				t.Errorf("the peer hears %q", have)
			}
			expect(t, read(), "250 2.0.0 I have")
		}
		if log := s.log.String(); strings.Count(log, c.err.Error()) != 2 {
			t.Errorf("the log is %s", log)
		}
	}
}
