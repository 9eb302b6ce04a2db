package bayes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/sluicemail/sluice/sdk"
)

// usage is what `sluice plugin tell NAME` prints for words that are no command.
var usage = []string{
	"stats               what was learned, and how much room it takes",
	"stats ADDRESS       the same of one account's database, with per_account",
	"learn spam|ham PATH an mbox, a message or a folder of messages that you put below the state directory",
	"export              writes a copy of the database into the state directory",
	"forget ADDRESS      drops one account's database, with per_account",
	"forget everything   drops every database; nothing is said until enough is learned again",
}

// command answers an administrator. What failed is said in words, because a person reads it.
func (p *plugin) command(ctx context.Context, words []string) sdk.Verdict {
	var lines []string
	var err error
	switch {
	case len(words) == 1 && words[0] == "stats":
		lines, err = p.stats(siteName)
	case len(words) == 2 && words[0] == "stats" && strings.Contains(words[1], "@"):
		lines, err = p.stats("@" + words[1])
	case len(words) == 3 && words[0] == "learn" && words[1] == "spam":
		lines, err = p.teach(ctx, spam, words[2])
	case len(words) == 3 && words[0] == "learn" && words[1] == "ham":
		lines, err = p.teach(ctx, ham, words[2])
	case len(words) == 1 && words[0] == "export":
		lines, err = p.export()
	case len(words) == 2 && words[0] == "forget" && words[1] == "everything":
		lines, err = p.forget(func(string) bool { return true })
	case len(words) == 2 && words[0] == "forget" && strings.Contains(words[1], "@"):
		lines, err = p.forget(func(name string) bool { return name == "@"+words[1] })
	default:
		return say("USAGE", usage...)
	}
	if err != nil {
		return say("ERROR", err.Error())
	}
	return say("OK", lines...)
}

func (p *plugin) stats(name string) (lines []string, err error) {
	limits := p.settings.limits()
	err = p.store.db.View(func(tx *bolt.Tx) error {
		d := view(tx, name)
		if d == nil {
			lines = append(lines, "nothing learned yet")
			return nil
		}
		c := d.counts
		lines = append(lines,
			fmt.Sprintf("learned: %d spam, %d ham", c.Spam, c.Ham),
			fmt.Sprintf("counted: %d spam, %d ham (the others were recognised already)", c.CountedSpam, c.CountedHam),
			fmt.Sprintf("tokens: %d of at most %d", c.Tokens, limits.tokens),
			fmt.Sprintf("file: %d KiB, %d KiB of them free for new tokens", tx.Size()>>10, int64(p.store.db.Stats().FreeAlloc)>>10))
		if d.ready(limits) {
			lines = append(lines, "it speaks")
		} else {
			lines = append(lines, fmt.Sprintf("it is silent until it has learned %d spam and %d ham", limits.minSpam, limits.minHam))
		}
		return nil
	})
	return lines, err
}

// export writes a copy that holds together whatever is learned meanwhile, under its name only when it is complete.
func (p *plugin) export() (lines []string, err error) {
	path := filepath.Join(filepath.Dir(p.store.db.Path()), "bayes-export.db")
	draft := path + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("export: %w", err)
	}
	err = p.store.db.View(func(tx *bolt.Tx) error { return tx.CopyFile(draft, 0o600) })
	if err == nil {
		err = os.Rename(draft, path)
	}
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	return []string{"written to " + path, "to use it elsewhere, put it in place of bayes.db there while that server is stopped"}, nil
}

// forget drops databases. The room in the file is used again, not given back.
func (p *plugin) forget(which func(name string) bool) (lines []string, err error) {
	dropped := 0
	err = p.store.db.Update(func(tx *bolt.Tx) error {
		var names [][]byte
		err := tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
			if n := string(name); (n == siteName || n[0] == '@') && which(n) {
				names = append(names, append([]byte(nil), name...))
			}
			return nil
		})
		for _, name := range names {
			if err == nil {
				err = tx.DeleteBucket(name)
			}
			dropped++
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("forget: %w", err)
	}
	return []string{fmt.Sprintf("%d databases dropped", dropped)}, nil
}
