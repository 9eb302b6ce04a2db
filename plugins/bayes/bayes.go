// Package bayes is the shipped plugin that learns from the users what spam is: the default against spam that needs
// no server beside it. README.md is its section of the manual.
//
// It counts in how many messages of each kind a word, two words that follow each other, a link's host or a header
// field's value were seen, and adds up what the tokens of a new message say. Users teach it by moving mail into
// Junk and out of it, an administrator by `sluice plugin tell bayes learn spam PATH`. A stranger
// cannot: nothing is learned because it was received. Until it has seen enough of both kinds it says
// nothing.
//
// It promises: a lesson that was answered is on disk, survives kill -9, and counts once; time and memory for a
// message are bounded by 256 KiB of it, however large and deep it is; the table and the list of lessons
// are bounded, and forget the oldest first. It owns StateDir/bayes.db, which holds hashes under a secret key of
// its own and no word of anybody's mail; nor do its reasons.
//
// A database that cannot be opened, or is damaged, keeps the plugin from starting, and the start is tried again; one that cannot be read or
// written fails the question or the lesson. The content of messages is hostile: tokens.go, mime.go and html.go read it, and never
// fail. RFC 2045, 2046, 2047 and 5322 are read as leniently as mail programs read them.
package bayes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/sluicemail/sluice/sdk"
)

// maxDatabases is how many accounts' databases are asked about one message; more recipients are judged by the site's.
const maxDatabases = 50

type plugin struct {
	settings settings
	store    *store
	now      func() time.Time
}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{now: time.Now} }

// Describe implements sdk.Plugin. The database has one writer, so two instances do not overlap.
func (p *plugin) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "bayes", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent},
		Events: []sdk.EventKind{sdk.EventLearnSpam, sdk.EventLearnHam, sdk.EventCommand},
		Want:   sdk.WantAll, MaxContent: maxContent, MaxLanes: 16, CheckOnly: true,
	}
}

// Configure implements sdk.Plugin.
func (p *plugin) Configure(ctx context.Context, s sdk.Settings) error {
	p.settings = defaults()
	if err := errors.Join(s.Decode(&p.settings), p.settings.check()); err != nil || s.CheckOnly {
		return err
	}
	if s.StateDir == "" {
		return errors.New("bayes has no state directory to keep its lessons in")
	}
	var err error
	if p.store, err = openStore(ctx, s.StateDir); err != nil {
		return &sdk.Unready{Err: err}
	}
	return nil
}

// Close implements io.Closer.
func (p *plugin) Close() error {
	if p.store == nil {
		return nil
	}
	return p.store.close()
}

// Ask implements sdk.Plugin.
func (p *plugin) Ask(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	if m.Event == nil {
		return p.judge(m)
	}
	switch m.Event.Kind {
	case sdk.EventLearnSpam:
		return p.learn(m, spam)
	case sdk.EventLearnHam:
		return p.learn(m, ham)
	case sdk.EventCommand:
		return p.command(ctx, m.Event.Words), nil
	}
	return sdk.Verdict{}, nil
}

func (p *plugin) tokens(m *sdk.Message) ([]token, error) {
	content, err := io.ReadAll(io.LimitReader(m.Content, maxContent))
	if err != nil {
		return nil, fmt.Errorf("read the message: %w", err)
	}
	return tokenize(p.store.k0, p.store.k1, content), nil
}

// database says which database an account's lessons go to.
func (p *plugin) database(account string) string {
	if p.settings.PerAccount && account != "" {
		return "@" + account
	}
	return siteName
}

func (p *plugin) learn(m *sdk.Message, o opinion) (sdk.Verdict, error) {
	tokens, err := p.tokens(m)
	if err != nil {
		return sdk.Verdict{}, err
	}
	account := m.Event.Account
	result, err := p.store.learn(p.database(account), account, o, tokens, p.settings.limits(), p.now())
	if errors.Is(err, errQuota) {
		// To repeat it would not help, so it is no failure.
		log.Printf("id=%s action=ignored why=%q", m.ID, "an account taught more than lessons_per_day")
		return say("LEARN", "ignored: the account has given its lessons for today"), nil
	}
	if err != nil {
		return sdk.Verdict{}, err
	}
	return say("LEARN", o.String()+": "+result), nil
}

// judge answers about a message. With per_account each recipient has the opinion of the own database as soon
// as that knows enough, until then the site's.
func (p *plugin) judge(m *sdk.Message) (sdk.Verdict, error) {
	tokens, err := p.tokens(m)
	if err != nil {
		return sdk.Verdict{}, err
	}
	var v sdk.Verdict
	limits := p.settings.limits()
	err = p.store.db.View(func(tx *bolt.Tx) error {
		common := p.opinion(view(tx, siteName), tokens, limits)
		if !p.settings.PerAccount {
			v.Score, v.Reasons = common.score, common.reasons
			return nil
		}
		known := map[string]said{}
		for _, r := range m.Recipients {
			mine := common
			if len(r.Accounts) > 0 && len(known) < maxDatabases {
				name := p.database(r.Accounts[0])
				cached, ok := known[name]
				if !ok {
					cached = common
					if d := view(tx, name); d.ready(limits) {
						cached = p.opinion(d, tokens, limits)
					}
					known[name] = cached
				}
				mine = cached
			}
			if mine.score != 0 || len(mine.reasons) > 0 {
				v.Recipients = append(v.Recipients, sdk.RecipientVerdict{Recipient: r.Address, Score: mine.score, Reasons: mine.reasons})
			}
		}
		return nil
	})
	if err != nil {
		return sdk.Verdict{}, fmt.Errorf("ask the database of lessons: %w", err)
	}
	return v, nil
}

// said is what a database says of a message.
type said struct {
	score   float64
	reasons []sdk.Reason
}

// opinion turns evidence into a score: all of spam_score from spam_at on, parts of it below, and the same for ham.
func (p *plugin) opinion(d *database, tokens []token, limits limits) said {
	if !d.ready(limits) {
		return said{}
	}
	e := d.evidence(tokens)
	if e.used == 0 {
		return said{}
	}
	s := p.settings
	symbol, score := "BAYES_50", 0.0
	switch odds := e.probability(); {
	case odds >= s.SpamAt:
		symbol, score = "BAYES_99", s.SpamScore
	case odds >= 0.95:
		symbol, score = "BAYES_95", s.SpamScore/2
	case odds >= 0.80:
		symbol, score = "BAYES_80", s.SpamScore/4
	case odds <= s.HamAt:
		symbol, score = "BAYES_00", s.HamScore
	case odds <= 0.05:
		symbol, score = "BAYES_05", s.HamScore/2
	case odds <= 0.20:
		symbol, score = "BAYES_20", s.HamScore/4
	}
	// Which words it were is not said: they would tell who reads the trace what is in other people's mail.
	text := fmt.Sprintf("probability of spam %.4f: of %d tokens known and telling %d speak for spam (%d of the header, %d of links, %d of shape)",
		e.probability(), e.used, e.spam, e.spamByKind[kindHeader], e.spamByKind[kindLink], e.spamByKind[kindShape])
	return said{score, []sdk.Reason{{Symbol: symbol, Score: score, Text: text}}}
}

func say(symbol string, lines ...string) sdk.Verdict {
	var v sdk.Verdict
	for _, line := range lines {
		v.Reasons = append(v.Reasons, sdk.Reason{Symbol: symbol, Text: line})
	}
	return v
}
