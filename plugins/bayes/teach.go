package bayes

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	teachTime  = 40 * time.Second // of one command; the server waits a minute
	teachBatch = 20               // lessons in one transaction
)

// errTime: there is more to learn than fits into one command.
var errTime = errors.New("out of time")

// teacher learns many messages that the administrator put into the state directory, the only place that the plugin can
// read. It is one command's.
type teacher struct {
	ctx     context.Context
	p       *plugin
	o       opinion
	waiting [][]token
	learned int
	known   int
}

// teach learns what is below a path of the state directory: an mbox, a message, or a folder of them, one each file. It
// stops in good time; called again it goes on, because a message that is known costs little.
func (p *plugin) teach(ctx context.Context, o opinion, path string) (lines []string, err error) {
	dir := filepath.Dir(p.store.db.Path())
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("learn: %w", err)
	}
	defer func() { _ = root.Close() }()
	ctx, cancel := context.WithTimeout(ctx, teachTime)
	defer cancel()
	t := &teacher{ctx: ctx, p: p, o: o}
	err = fs.WalkDir(root.FS(), path, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !entry.Type().IsRegular():
			return nil // a folder, or nothing that could be mail
		}
		return t.file(root, name)
	})
	if err == nil || errors.Is(err, errTime) {
		err = errors.Join(t.flush(), err)
	}
	lines = []string{fmt.Sprintf("%d messages learned as %s, %d were known", t.learned, o, t.known)}
	switch {
	case errors.Is(err, errTime):
		return append(lines, "there are more: give the same command again"), nil
	case err != nil:
		return nil, fmt.Errorf("learn from %s, which has to be below %s: %w", path, dir, err)
	}
	return lines, nil
}

// file learns a message, or each of an mbox (RFC 4155): what begins with "From " up to an empty line and the next.
func (t *teacher) file(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReaderSize(f, 64<<10)
	first, err := r.Peek(5)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if string(first) != "From " {
		content, err := io.ReadAll(io.LimitReader(r, maxContent))
		if err != nil {
			return err
		}
		return t.message(content)
	}
	return t.mbox(r)
}

func (t *teacher) mbox(r *bufio.Reader) error {
	var content []byte
	empty, start := true, true // the line before; this is the start of a line
	for {
		line, err := r.ReadSlice('\n')
		if start && empty && bytes.HasPrefix(line, []byte("From ")) && len(content) > 0 {
			if err := t.message(content); err != nil {
				return err
			}
			content = content[:0]
		}
		if len(content)+len(line) <= maxContent {
			content = append(content, line...)
		}
		if start {
			empty = len(bytes.TrimRight(line, "\r\n")) == 0
		}
		switch start = !errors.Is(err, bufio.ErrBufferFull); {
		case errors.Is(err, io.EOF):
			if len(content) == 0 {
				return nil
			}
			return t.message(content)
		case err != nil && start:
			return err
		}
	}
}

func (t *teacher) message(content []byte) error {
	if t.ctx.Err() != nil {
		return errTime
	}
	t.waiting = append(t.waiting, tokenize(t.p.store.k0, t.p.store.k1, content))
	if len(t.waiting) < teachBatch {
		return nil
	}
	return t.flush()
}

// flush learns what is waiting, in one transaction.
func (t *teacher) flush() error {
	full, learned, known := false, 0, 0
	limits, now := t.p.settings.limits(), t.p.now()
	err := t.p.store.db.Update(func(tx *bolt.Tx) error {
		for _, tokens := range t.waiting {
			result, over, err := t.p.store.learnIn(tx, siteName, "", t.o, tokens, limits, now)
			if err != nil {
				return err
			}
			if result == "learned" {
				learned++
			} else {
				known++
			}
			full = over
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.learned, t.known, t.waiting = t.learned+learned, t.known+known, t.waiting[:0]
	if full {
		return t.p.store.expire(siteName, limits.tokens/4*3, now)
	}
	return nil
}
