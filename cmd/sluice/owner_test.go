package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sluicemail/sluice/cmd/internal/config"
)

// TestServeBecomesTheOwner (RULES D5): a server that root starts leaves no files in a data_dir that its owner could not open.
// It becomes another user for good, so that happens in a process of its own.
func TestServeBecomesTheOwner(t *testing.T) {
	const variable, nobody = "SLUICE_TEST_DATA_DIR", 65534
	if dir := os.Getenv(variable); dir != "" {
		c := config.Default()
		c.DataDir = dir
		s := &server{config: c, logger: slog.New(slog.DiscardHandler)}
		err := s.openStore(t.Context())
		fmt.Printf("user %d, %v\n", os.Geteuid(), err)
		if err := s.stop(); err != nil {
			fmt.Println(err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	dir, err := os.MkdirTemp("", "sluice-owner-") // t.TempDir lies in a directory of root's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestServeBecomesTheOwner$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), fmt.Sprintf("user %d, <nil>", nobody)) {
		t.Fatalf("%v\n%s", err, out)
	}
	err = filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Sys().(*syscall.Stat_t).Uid != nobody {
			t.Errorf("%s belongs to user %d", name, info.Sys().(*syscall.Stat_t).Uid)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
