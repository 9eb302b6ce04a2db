package deliver

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/wire"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
	"github.com/sluicemail/sluice/pipeline/units"
)

// chaos is two servers that do anything at any time, and remember for whom they said 250 to the content, or were about to.
type chaos struct {
	mu     sync.Mutex
	random *rand.Rand
	taken  map[string]int  // by recipient
	heard  map[string]bool // the 250 was written before anything else went wrong
}

func (c *chaos) chance(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n) == 0
}

func (c *chaos) number(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

// TestChaos (DRILLS E5.6) holds what came of each recipient against what the servers know: delivered is what one of them took, once;
// failed is what none of them took; and delayed is what none took, or what was taken without the answer arriving.
func TestChaos(t *testing.T) {
	c := &chaos{random: rand.New(rand.NewPCG(7, 11)), taken: make(map[string]int), heard: make(map[string]bool)}
	first, err := net.Listen("tcp", "127.0.7.11:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	port := first.Addr().(*net.TCPAddr).Port
	second, err := net.Listen("tcp", fmt.Sprintf("127.0.7.12:%d", port))
	if err != nil {
		t.Skip(err) // somebody has that port: another run will do
	}
	defer second.Close()
	for _, l := range []net.Listener{first, second} {
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go c.serve(conn)
			}
		}()
	}
	zone := resolvertest.MustParse("example.test. MX 10 one.example.test.\nexample.test. MX 10 two.example.test.\none.example.test. A 127.0.7.11\ntwo.example.test. A 127.0.7.12\n")
	r := asking(t, zone, func(o *Options, config *Config) {
		config.Port, config.Timeout, config.MaxRecipients = port, units.Of(20*time.Second), 3
		times := wire.DefaultTimes()
		times.Quit = 20 * time.Millisecond
		o.Times = &times
	})
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for n := range 40 {
				c.send(t, r, fmt.Sprintf("%d.%d", worker, n))
			}
		})
	}
	wg.Wait()
	kinds := make(map[string]int)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.taken {
		kinds["taken"] += n
	}
	t.Log(kinds)
}

func (c *chaos) send(t *testing.T, r *Remote, name string) {
	p := &pipeline.Parcel{Pipeline: "outbound", Domain: "example.test", Sender: "sender@example.org"}
	for i := range 1 + c.number(6) {
		p.Recipients = append(p.Recipients, pipeline.ParcelRecipient{Address: fmt.Sprintf("%s.%d@example.test", name, i)})
	}
	content := plainMessage + strings.Repeat("x\r\n.\r\n", c.number(4)/3*50_000)
	p.Size = int64(len(content))
	p.Open = func(context.Context) (pipeline.Octets, error) { return octets{strings.NewReader(content)}, nil }
	for len(p.Recipients) > 0 {
		c.once(t, r, p)
	}
}

// once makes one attempt, and leaves in p those who are to come again.
func (c *chaos) once(t *testing.T, r *Remote, p *pipeline.Parcel) {
	sent, done, err := r.Send(t.Context(), pipeline.NextHop{}, p)
	if err != nil {
		t.Errorf("%s: %v", p.Recipients[0].Address, err)
		p.Recipients = nil
		return
	}
	var again []pipeline.ParcelRecipient
	c.mu.Lock()
	for i, o := range sent.Outcomes {
		to := p.Recipients[i].Address
		taken, heard := c.taken[to], c.heard[to]
		if o.Again {
			again = append(again, p.Recipients[i])
			if taken != 0 || heard {
				t.Errorf("%s was taken and is to come again", to)
			}
			continue
		}
		var wrong bool
		switch o.Kind {
		case pipeline.Delivered:
			wrong = taken != 1
		case pipeline.Failed:
			wrong = taken != 0
		case pipeline.Delayed:
			wrong = taken > 1 || heard || taken == 1 && !strings.Contains(o.Text, "may have been delivered")
		default:
			wrong = true
		}
		if wrong {
			t.Errorf("%s: taken %d times, answered %v, and the outcome is %+v", to, taken, heard, o)
		}
	}
	c.mu.Unlock()
	if len(again) == len(p.Recipients) {
		t.Errorf("all of %d are to come again", len(again))
		again = nil
	}
	p.Recipients = again
	done()
}

// serve is one connection.
func (c *chaos) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	s := &chaosSession{c: c, conn: conn, in: in}
	if !s.say(true, "220 chaos") {
		return
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil || !s.command(strings.TrimRight(line, "\r\n")) {
			return
		}
	}
}

type chaosSession struct {
	c      *chaos
	conn   net.Conn
	in     *bufio.Reader
	sender bool
	to     []string
}

// say answers, or does something else. It reports whether the connection goes on. good says whether text was said.
func (s *chaosSession) say(mayFail bool, text string) (on bool) {
	on, _ = s.answer(mayFail, text)
	return on
}

func (s *chaosSession) answer(mayFail bool, text string) (on, good bool) {
	if !mayFail || !s.c.chance(12) {
		_, err := io.WriteString(s.conn, text+"\r\n")
		return err == nil, true
	}
	switch s.c.number(8) {
	case 0:
		io.WriteString(s.conn, "421 4.3.2 going\r\n")
		return false, false
	case 1:
		return false, false
	case 2:
		io.WriteString(s.conn, "what?\r\n")
		return false, false
	case 3:
		io.WriteString(s.conn, text[:2])
		return false, false
	case 4:
		io.WriteString(s.conn, "554 5.0.0 never\r\n")
	case 5:
		io.WriteString(s.conn, "452 4.5.3 too many recipients\r\n")
	default:
		io.WriteString(s.conn, "450 4.0.0 later\r\n")
	}
	return true, false
}

func (s *chaosSession) command(line string) bool {
	switch verb, rest, _ := strings.Cut(line, " "); verb {
	case "EHLO":
		offer := []string{"250-chaos\r\n250 DSN", "250-chaos\r\n250-PIPELINING\r\n250 DSN", "250-chaos\r\n250-PIPELINING\r\n250 CHUNKING"}[s.c.number(3)]
		return s.say(true, offer)
	case "HELO":
		return s.say(true, "250 chaos")
	case "RSET":
		s.sender, s.to = false, nil
		return s.say(false, "250 ok")
	case "MAIL":
		if s.sender {
			return s.say(false, "503 5.5.1 MAIL was said")
		}
		on, good := s.answer(true, "250 ok")
		s.sender = good
		return on
	case "RCPT":
		if !s.sender {
			return s.say(false, "503 5.5.1 MAIL first")
		}
		on, good := s.answer(true, "250 ok")
		if good {
			address, _, _ := strings.Cut(strings.TrimPrefix(rest, "TO:<"), ">")
			s.to = append(s.to, address)
		}
		return on
	case "DATA":
		if len(s.to) == 0 {
			if s.c.chance(2) {
				s.say(false, "354 go on")
				s.in.ReadString('\n')
				return s.say(false, "554 5.5.1 nobody")
			}
			return s.say(false, "503 5.5.1 RCPT first")
		}
		on, good := s.answer(true, "354 go")
		if !on || !good {
			return on
		}
		last := 0 // the line after which it goes away
		if s.c.chance(20) {
			last = s.c.number(100_000)
		}
		for n := 1; n != last; n++ {
			line, err := s.in.ReadSlice('\n')
			if err != nil {
				return false
			}
			if string(line) == ".\r\n" {
				return s.end()
			}
		}
		return false
	case "BDAT":
		var n int64
		fmt.Sscanf(rest, "%d", &n)
		if _, err := io.CopyN(io.Discard, s.in, n); err != nil {
			return false
		}
		return s.end()
	case "QUIT":
		s.say(false, "221 bye")
		return false
	}
	return s.say(false, "500 what?")
}

// end is the end of the content: it is taken or not, and the client hears of it or not.
func (s *chaosSession) end() bool {
	to := s.to
	s.sender, s.to = false, nil
	fate := s.c.number(10)
	if fate < 8 { // taken
		s.c.mu.Lock()
		for _, address := range to {
			s.c.taken[address]++
			s.c.heard[address] = fate < 7
		}
		s.c.mu.Unlock()
	}
	switch fate {
	case 7:
		return false // taken, and nobody hears of it
	case 8:
		return s.say(false, "451 4.0.0 later")
	case 9:
		return s.say(false, "554 5.0.0 never")
	}
	return s.say(false, "250 ok")
}
