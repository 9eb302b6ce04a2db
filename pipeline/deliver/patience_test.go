package deliver

import (
	"bufio"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/wire"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
	"github.com/sluicemail/sluice/pipeline/units"
)

// TestPatience: an answer to the end of the content has its ten minutes (RFC 5321 section 4.5.3.2.6) also where the attempt's time is
// over before: who goes away then sends the message again, each time, to a server that has taken it.
func TestPatience(t *testing.T) {
	for name, c := range map[string]struct {
		final time.Duration
		kind  pipeline.OutcomeKind
	}{"late": {10 * time.Second, pipeline.Delivered}, "never": {500 * time.Millisecond, pipeline.Delayed}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go answerLate(l, 2*time.Second)
			r := asking(t, resolvertest.MustParse(zoneText), func(o *Options, config *Config) {
				config.Timeout, config.ConnectTimeout = units.Of(time.Second), units.Of(time.Second)
				times := wire.DefaultTimes()
				times.Final = c.final
				o.Times = &times
			})
			p := parcelTo("many.test")
			p.Via = "smtp://" + l.Addr().String()
			start := time.Now()
			sent, done, err := r.Send(t.Context(), pipeline.NextHop{}, p)
			done()
			if err != nil || sent.Outcomes[0].Kind != c.kind || c.kind == pipeline.Delayed && time.Since(start) > 1900*time.Millisecond {
				t.Errorf("%+v, %v after %v", sent, err, time.Since(start))
			}
		})
	}
}

// answerLate takes messages, and says so after a while.
func answerLate(l net.Listener, late time.Duration) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			in := bufio.NewReader(conn)
			fmt.Fprint(conn, "220 here\r\n")
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				switch line {
				case "DATA\r\n":
					fmt.Fprint(conn, "354 go\r\n")
					for line != ".\r\n" {
						if line, err = in.ReadString('\n'); err != nil {
							return
						}
					}
					time.Sleep(late)
					fmt.Fprint(conn, "250 2.0.0 taken\r\n")
				default:
					fmt.Fprint(conn, "250 ok\r\n")
				}
			}
		}()
	}
}
