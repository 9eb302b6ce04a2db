package bayes

import (
	"bytes"
	"math"
)

// What the classifier computes with. The values were chosen by cross-validation on the training part of the corpus
// (cmd/internal/interop/bayes_test.go says how that is cut), never by looking at the part that was held back.
const (
	belief  = 0.3    // messages that an unknown token's neutral value is worth (Robinson's s)
	neutral = 0.5    // probability of a token that nothing is known of
	weakest = 0.1    // tokens nearer to neutral than this say nothing
	evenly  = 0.9    // power of the number of telling tokens that the sum of what they say is divided by
	usual   = 100    // number of telling tokens at which that is the same as a square root
	thick   = 6      // a message is recognised without being learned from this strength on
	enough  = 20     // messages of each kind before any is held for recognised
	steep   = 1.1382 // strength times this is the logarithm of the odds that we tell: 0.99 where the training part had 0.1% of its ham
)

// evidence is what a database says of a message.
type evidence struct {
	strength   float64    // sum of the logarithms of the tokens' odds, made comparable: positive for spam
	used       int        // telling tokens
	spam, ham  int        // those that speak for each
	spamByKind [kinds]int // of what kind those for spam are
}

// probability is the strength as a number between 0, ham, and 1, spam.
func (e evidence) probability() float64 { return 1 / (1 + math.Exp(-steep*e.strength)) }

// evidence asks the table about each token. A token's probability is Robinson's: the share of spam among the messages
// that had it, as if as many of both kinds had been learned, drawn towards neutral while these are few. The
// naive sum of their logarithms grows with the length of a message, because tokens are not independent. Were
// they, the square root of their number would undo that; they are not, and a higher power keeps long newsletters
// comparable with short letters, so that one threshold serves all.
func (d *database) evidence(tokens []token) evidence {
	var e evidence
	spams, hams := max(float64(d.counts.CountedSpam), 1), max(float64(d.counts.CountedHam), 1)
	sum := 0.0
	var key [8]byte
	cursor := d.tokens.Cursor() // Get makes one each time
	for _, t := range tokens {
		putKey(&key, t.hash)
		found, value := cursor.Seek(key[:])
		if !bytes.Equal(found, key[:]) {
			continue
		}
		c := decodeCount(value)
		n := float64(c.spam + c.ham)
		if n == 0 {
			continue
		}
		s, h := float64(c.spam)/spams, float64(c.ham)/hams
		p := (belief*neutral + n*s/(s+h)) / (belief + n)
		switch {
		case p > 0.5+weakest:
			e.spam++
			e.spamByKind[t.kind]++
		case p < 0.5-weakest:
			e.ham++
		default:
			continue
		}
		sum += math.Log(p / (1 - p))
	}
	if e.used = e.spam + e.ham; e.used > 0 {
		n := float64(e.used)
		e.strength = sum / math.Pow(n/usual, evenly) / math.Sqrt(usual)
	}
	return e
}
