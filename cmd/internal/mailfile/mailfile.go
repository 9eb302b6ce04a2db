// Package mailfile reads messages from where people keep them: a file with one, a folder with many (a Maildir too), or an
// mbox in its forms mboxrd and mboxo (RFC 4155, appendix A).
//
// It promises to hold no more than a few kilobytes of a message in memory, however large the files are, and to hand on
// octets as they are, but for two things: an mbox's separators and its quoting (">From ") are undone, and Spool ends
// lines with CR LF, as they are when a message comes by SMTP.
//
// The files are untrusted: a line may be of any length, and a message of any size up to the bound that the caller gives.
// A file that cannot be read is the caller's to report; the others go on.
package mailfile

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
	"strings"
)

// Message is one message on its way. It is valid until the function that was given it returns.
type Message struct {
	Name   string // "inbox.mbox:17", "cur/1234.eml", as a person finds it
	Sender string // of the separator line of an mbox, or ""
	R      io.Reader
	Err    error // why it cannot be read; R is nil then
}

// Walk calls do for each message of path: a file, an mbox, a folder with everything below it, or "-" for stdin. Files whose
// name begins with a dot are left out, and so is what is no file. Of a Maildir and its folders only cur and new have messages:
// tmp has what is not complete, and what else lies there are indexes of programs. An error of do ends the walk and is returned.
func Walk(ctx context.Context, path string, stdin io.Reader, do func(Message) error) error {
	if path == "-" {
		return each(ctx, "-", stdin, do)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return file(ctx, path, path, do)
	}
	return filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		switch hidden := strings.HasPrefix(entry.Name(), ".") && name != path; {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return do(Message{Name: name, Err: err})
		case entry.IsDir() && hidden && !has(name, "cur"):
			return fs.SkipDir
		case entry.IsDir() && entry.Name() == "tmp" && name != path && isMaildir(filepath.Dir(name)):
			return fs.SkipDir
		case !entry.Type().IsRegular() || hidden || isMaildir(filepath.Dir(name)):
			return nil
		}
		return file(ctx, name, name, do)
	})
}

// isMaildir reports whether a directory is a Maildir, or a folder of one, whose name begins with a dot (Maildir++).
func isMaildir(dir string) bool { return has(dir, "cur") && has(dir, "new") }

func has(dir, name string) bool {
	info, err := os.Stat(filepath.Join(dir, name))
	return err == nil && info.IsDir()
}

func file(ctx context.Context, path, name string, do func(Message) error) error {
	f, err := os.Open(path)
	if err != nil {
		return do(Message{Name: name, Err: err})
	}
	defer f.Close()
	return each(ctx, name, f, do)
}

// each hands on the messages of one file: one, or those of an mbox, which begins with a separator.
func each(ctx context.Context, name string, r io.Reader, do func(Message) error) error {
	b := bufio.NewReaderSize(r, 64<<10)
	start, err := b.Peek(1000)
	if err != nil && !errors.Is(err, io.EOF) {
		return do(Message{Name: name, Err: err})
	}
	line, _, _ := bytes.Cut(start, []byte("\n"))
	if !isSeparator(line) {
		return do(Message{Name: name, R: b})
	}
	s := &splitter{r: b, lineStart: true, first: true}
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		sender, err := s.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		at := fmt.Sprintf("%s:%d", name, n)
		if err != nil {
			return do(Message{Name: at, Err: err})
		}
		if err := do(Message{Name: at, Sender: sender, R: s}); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, s); err != nil {
			return do(Message{Name: at, Err: err})
		}
	}
}
