package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) benchCommand() *cobra.Command {
	var load smtpLoad
	cmd := &cobra.Command{
		Use:   "smtp --address HOST:PORT --to ADDRESS",
		Short: "load an SMTP listener of this machine and print rate and latency",
		Long: `Sends messages over several connections, with PIPELINING, and prints how many were accepted in a second and how long
each took from its first octet to its 250. It goes to loopback addresses only.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := load.check(); err != nil {
				return err
			}
			result, err := load.run(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return json.NewEncoder(a.stdout).Encode(result)
			}
			result.print(a)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&load.address, "address", "", "`host:port` of the listener, on loopback")
	f.StringVar(&load.from, "from", "bench@example.net", "sender `address`")
	f.StringVar(&load.to, "to", "", "recipient `address`; {n} stands for 0 to --users less one, in turn")
	f.IntVar(&load.users, "users", 1, "how many recipients {n} stands for")
	f.IntVar(&load.messages, "messages", 10000, "how many messages")
	f.IntVar(&load.connections, "connections", 32, "how many connections at a time")
	f.IntVar(&load.perConnection, "per-connection", 50, "messages on one connection")
	f.IntVar(&load.size, "size", 4096, "octets of a message")
	return group("bench", "measure the server", cmd)
}

// smtpLoad is one run against an SMTP listener.
type smtpLoad struct {
	address, from, to                                 string
	users, messages, connections, perConnection, size int
}

// loadResult is what `sluice bench smtp` prints. Times are milliseconds.
type loadResult struct {
	Messages int     `json:"messages"`
	Failed   int     `json:"failed"`
	Seconds  float64 `json:"seconds"`
	PerS     float64 `json:"per_s"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	Max      float64 `json:"max_ms"`
	Error    string  `json:"error,omitempty"` // the first one
}

func (r *loadResult) print(a *app) {
	fmt.Fprintf(a.stdout, "%d messages accepted, %d failed, in %.2f s: %.0f/s\n", r.Messages, r.Failed, r.Seconds, r.PerS)
	fmt.Fprintf(a.stdout, "from the first octet to the 250: p50 %.2f ms, p99 %.2f ms, max %.2f ms\n", r.P50, r.P99, r.Max)
	if r.Error != "" {
		fmt.Fprintf(a.stdout, "first failure: %s\n", r.Error)
	}
}

func (l *smtpLoad) check() error {
	host, _, err := net.SplitHostPort(l.address)
	if err != nil {
		return usagef("--address %q is not host:port", l.address)
	}
	if addr, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !addr.IsLoopback()) {
		return usagef("--address %s is not on loopback; this command loads its own machine only", l.address)
	}
	if l.to == "" {
		return usagef("--to is missing: an address of an account here")
	}
	for name, n := range map[string]int{"users": l.users, "messages": l.messages, "connections": l.connections, "per-connection": l.perConnection} {
		if n < 1 {
			return usagef("--%s %d, expected at least 1", name, n)
		}
	}
	if l.size < 100 || l.size > 100<<20 {
		return usagef("--size %d, expected 100 to 104857600 octets", l.size)
	}
	return nil
}

func (l *smtpLoad) run(ctx context.Context) (*loadResult, error) {
	var (
		next, failed atomic.Int64
		mu           sync.Mutex
		times        []time.Duration
		first        error
		wg           sync.WaitGroup
	)
	body := l.body()
	start := time.Now()
	for range min(l.connections, l.messages) {
		wg.Go(func() {
			var own []time.Duration
			for ctx.Err() == nil {
				done, err := l.connection(ctx, &next, body, &own)
				if err != nil {
					failed.Add(1)
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
				if done {
					break
				}
			}
			mu.Lock()
			times = append(times, own...)
			mu.Unlock()
		})
	}
	wg.Wait()
	took := time.Since(start)
	if len(times) == 0 {
		return nil, fmt.Errorf("load %s: no message was accepted: %w", l.address, first)
	}
	slices.Sort(times)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	r := &loadResult{
		Messages: len(times), Failed: int(failed.Load()), Seconds: took.Seconds(),
		PerS: float64(len(times)) / took.Seconds(),
		P50:  ms(times[len(times)/2]), P99: ms(times[len(times)*99/100]), Max: ms(times[len(times)-1]),
	}
	if first != nil {
		r.Error = first.Error()
	}
	return r, nil
}

// body is what all messages have in common: a short text, padded to the size.
func (l *smtpLoad) body() []byte {
	var b strings.Builder
	b.WriteString("From: <" + l.from + ">\r\nSubject: bench\r\nDate: " + time.Now().Format(time.RFC1123Z) + "\r\n\r\n")
	for b.Len() < l.size-78 {
		b.WriteString("The quick brown fox jumps over the lazy dog, again and again and again, ok.\r\n")
	}
	b.WriteString(strings.Repeat("x", max(l.size-b.Len()-2, 0)) + "\r\n.\r\n")
	return []byte(b.String())
}

// connection sends messages until it had its share or all are sent.
func (l *smtpLoad) connection(ctx context.Context, next *atomic.Int64, body []byte, times *[]time.Duration) (done bool, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", l.address)
	if err != nil {
		return true, err
	}
	defer conn.Close()
	c := &loadConn{Conn: conn, in: bufio.NewReader(conn)}
	if err := c.expect(220); err != nil {
		return true, err
	}
	if err := c.say("EHLO bench.example.net\r\n", 250); err != nil {
		return true, err
	}
	for range l.perConnection {
		n := next.Add(1)
		if n > int64(l.messages) {
			_ = c.say("QUIT\r\n", 221)
			return true, nil
		}
		start := time.Now()
		if err := c.send(l.from, strings.ReplaceAll(l.to, "{n}", strconv.Itoa(int(n)%l.users)), n, body); err != nil {
			return false, err
		}
		*times = append(*times, time.Since(start))
	}
	_ = c.say("QUIT\r\n", 221)
	return false, nil
}

// loadConn is one connection of the load.
type loadConn struct {
	net.Conn
	in *bufio.Reader
}

func (c *loadConn) send(from, to string, n int64, body []byte) error {
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := fmt.Fprintf(c, "MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\nDATA\r\n", from, to); err != nil {
		return err
	}
	for _, code := range []int{250, 250, 354} {
		if err := c.expect(code); err != nil {
			return err
		}
	}
	head := fmt.Appendf(nil, "Message-ID: <%d.%d@bench.example.net>\r\nTo: <%s>\r\n", n, time.Now().UnixNano(), to)
	if _, err := c.Write(append(head, body...)); err != nil {
		return err
	}
	return c.expect(250)
}

func (c *loadConn) say(line string, code int) error {
	if _, err := c.Write([]byte(line)); err != nil {
		return err
	}
	return c.expect(code)
}

// expect reads a reply to its last line.
func (c *loadConn) expect(code int) error {
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("wait for %d: %w", code, err)
		}
		if len(line) < 4 || line[:3] != strconv.Itoa(code) {
			return fmt.Errorf("expected %d, the server said: %s", code, strings.TrimSpace(line))
		}
		if line[3] == ' ' {
			return nil
		}
	}
}
