package milter

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/emersion/go-milter"
)

const (
	// maxFrame is the longest frame that is read, in octets. libmilter sends at most 64 KiB.
	maxFrame = 1 << 20
	// maxProgress is how many frames that only say "wait" are read for one reply.
	maxProgress = 10000
	// progress is SMFIR_PROGRESS: the milter needs more time. Our deadline stays what it is.
	progress = 'p'
)

// link sends and receives frames: a length of four octets in network order, a code, data. What is
// sent is kept back until a reply is needed or much has gathered.
type link struct {
	r   *bufio.Reader
	w   *bufio.Writer
	buf []byte
}

func newLink(c io.ReadWriter) *link {
	return &link{r: bufio.NewReaderSize(c, 4<<10), w: bufio.NewWriterSize(c, 32<<10)}
}

// send writes a frame.
func (l *link) send(code milter.Code, data []byte) error {
	head := [5]byte{4: byte(code)}
	binary.BigEndian.PutUint32(head[:], uint32(len(data)+1))
	_, err := l.w.Write(head[:])
	if err == nil {
		_, err = l.w.Write(data)
	}
	if err != nil {
		return fmt.Errorf("send to it: %w", err)
	}
	return nil
}

// flush sends what was kept back.
func (l *link) flush() error {
	if err := l.w.Flush(); err != nil {
		return fmt.Errorf("send to it: %w", err)
	}
	return nil
}

// receive reads the next frame that says something. data is good until the next call.
func (l *link) receive() (code byte, data []byte, err error) {
	if err := l.flush(); err != nil {
		return 0, nil, err
	}
	for range maxProgress {
		code, data, err := l.frame()
		if err != nil {
			return 0, nil, fmt.Errorf("read its answer: %w", err)
		}
		if code != progress {
			return code, data, nil
		}
	}
	return 0, nil, fmt.Errorf("read its answer: %d times nothing but progress", maxProgress)
}

func (l *link) frame() (code byte, data []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d octets, expected 1 to %d", n, maxFrame)
	}
	if cap(l.buf) < int(n) {
		l.buf = make([]byte, n)
	}
	b := l.buf[:n]
	if _, err := io.ReadFull(l.r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return b[0], b[1:], nil
}

// appendText appends a string as the protocol has it, with a NUL behind. A NUL inside becomes a space.
func appendText(b []byte, text string) []byte {
	return append(append(b, strings.ReplaceAll(text, "\x00", " ")...), 0)
}

// texts reads data that is strings with a NUL behind each, between least and most of them.
func texts(data []byte, least, most int) ([]string, error) {
	if len(data) == 0 || data[len(data)-1] != 0 {
		return nil, errors.New("a string without an end")
	}
	n := bytes.Count(data, []byte{0})
	if n < least || n > most {
		return nil, fmt.Errorf("%d strings, expected %d to %d", n, least, most)
	}
	return strings.Split(string(data[:len(data)-1]), "\x00"), nil
}
