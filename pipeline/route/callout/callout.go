// Package callout asks the next hop of a relayed domain, while the client waits for the reply to RCPT, whether it takes mail for an
// address: verify_recipients in [domain.X]. So what the next hop would refuse is refused at once, and not returned later.
//
// What it promises:
//
//   - Only a definite refusal refuses. Whatever keeps the next hop from answering (it is down, slow, says 4yz, or has too much to
//     answer) lets the recipient in: mail for it waits in the queue, as without this package. The log says so.
//   - Nobody but the domain's own next hop is asked: callers give addresses of domains that the administrator relays, and
//     the pipeline.RecipientAsker goes where their mail would go.
//   - The next hop is not bothered more than it has to be: answers are remembered (a day those that take, an hour those that
//     refuse, a minute those that may change), one question about an address is asked at a time, few at once to one
//     domain, none for half a minute after one that nobody answered, and each client has a budget of questions that
//     are not answered from memory, which grows back slowly.
//   - A question takes ten seconds at most, the wait for its turn included. Memory is bounded: answers, clients, and what is under way.
//
// It owns nothing durable: a restart, or a reload, forgets the answers. What the next hop said goes to the log alone, never to the client,
// whose reply is that for a mailbox of ours that does not exist. Untrusted input: addresses, whose form was checked before.
//
// RFCs: 5321 sections 3.3 and 4.5.5 (the null sender), 5321 section 3.5.3 (what verifying can say).
package callout

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage"
)

// How long things are waited for and remembered.
const (
	Time       = 10 * time.Second // for one question
	takenFor   = 24 * time.Hour
	refusedFor = time.Hour
	laterFor   = time.Minute
	silentFor  = 30 * time.Second
)

// Bounds.
const (
	maxAnswers   = 20_000 // of each kind
	maxAtOnce    = 32
	maxPerDomain = 4
)

// Options is what a Verifier is made of.
type Options struct {
	Asker  pipeline.RecipientAsker
	Logger *slog.Logger     // nil: none
	Now    func() time.Time // nil: time.Now
}

// Verifier asks and remembers. Its methods may be called from any goroutine.
type Verifier struct {
	Options
	turns chan struct{}

	mu      sync.Mutex
	taken   map[string]time.Time // addresses, and until when that holds
	refused map[string]time.Time
	domains map[string]*domain // those that were asked, which are in the configuration
	flights map[string]*flight // addresses that are being asked about
	clients budgets
}

// domain is what is known of one next hop.
type domain struct {
	turns  chan struct{}
	silent time.Time // until then it is not asked, since it does not answer
}

// flight is a question under way; refused holds once done is closed.
type flight struct {
	done    chan struct{}
	refused bool
}

// Question is about one recipient.
type Question struct {
	ID       storage.ID // of the message, for the log
	Pipeline string     // whose delivery settings hold
	Address  string     // as it would be sent
	Client   netip.Addr // on whose behalf; invalid: somebody who is not counted
}

// New returns a Verifier that knows nothing.
func New(o Options) *Verifier {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Verifier{
		Options: o, turns: make(chan struct{}, maxAtOnce),
		taken: make(map[string]time.Time), refused: make(map[string]time.Time), domains: make(map[string]*domain), flights: make(map[string]*flight),
	}
}

// Refused reports whether the next hop refuses mail for an address for good.
func (v *Verifier) Refused(ctx context.Context, q Question) bool {
	ctx, cancel := context.WithTimeout(ctx, Time)
	defer cancel()
	d, f, known, refused := v.recall(&q)
	switch {
	case known:
		return refused
	case d == nil: // somebody is asking
		select {
		case <-f.done:
			return f.refused
		case <-ctx.Done():
			v.letIn(&q, "there was no answer in time")
			return false
		}
	}
	defer func() { // also after a panic
		v.mu.Lock()
		delete(v.flights, q.Address)
		v.mu.Unlock()
		close(f.done)
	}()
	if !turn(ctx, d.turns) {
		v.letIn(&q, "too many questions to the domain are under way")
		return false
	}
	defer func() { <-d.turns }()
	if !turn(ctx, v.turns) {
		v.letIn(&q, "too many questions are under way")
		return false
	}
	defer func() { <-v.turns }()
	answer, why := v.Asker.AskRecipient(ctx, q.Pipeline, q.Address)
	f.refused = v.learn(d, &q, answer, why)
	return f.refused
}

func turn(ctx context.Context, turns chan struct{}) bool {
	select {
	case turns <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// recall answers from memory (known). Otherwise f is the question under way, and with d it is the caller who has to ask it.
func (v *Verifier) recall(q *Question) (d *domain, f *flight, known, refused bool) {
	now := v.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	if until, ok := v.refused[q.Address]; ok && now.Before(until) {
		return nil, nil, true, true
	}
	if until, ok := v.taken[q.Address]; ok && now.Before(until) {
		return nil, nil, true, false
	}
	if f = v.flights[q.Address]; f != nil {
		return nil, f, false, false
	}
	name := strings.ToLower(q.Address[strings.LastIndexByte(q.Address, '@')+1:])
	if d = v.domains[name]; d == nil {
		d = &domain{turns: make(chan struct{}, maxPerDomain)}
		v.domains[name] = d
	}
	if now.Before(d.silent) { // the log has it
		return nil, nil, true, false
	}
	if ok, first := v.clients.spend(q.Client, now); !ok {
		if first {
			v.letIn(q, "the client has asked about too many addresses; its others are taken unasked for a while")
		}
		return nil, nil, true, false
	}
	f = &flight{done: make(chan struct{})}
	v.flights[q.Address] = f
	return d, f, false, false
}

// learn remembers an answer, and says what there is to say.
func (v *Verifier) learn(d *domain, q *Question, answer pipeline.RecipientAnswer, why string) (refused bool) {
	now := v.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.refused, q.Address)
	switch answer {
	case pipeline.AnswerTaken:
		remember(v.taken, q.Address, now, takenFor)
	case pipeline.AnswerRefused:
		delete(v.taken, q.Address)
		remember(v.refused, q.Address, now, refusedFor)
		v.Logger.Info("the next hop refuses a recipient", "id", q.ID, "stage", pipeline.StageRoute, "action", "reject", "rcpt", q.Address, "why", why)
		return true
	case pipeline.AnswerLater:
		remember(v.taken, q.Address, now, laterFor)
		v.letIn(q, why)
	default:
		d.silent = now.Add(silentFor)
		v.letIn(q, "no answer, and the domain is not asked for "+silentFor.String()+": "+why)
	}
	return false
}

// letIn tells the log of a recipient that is taken although nobody could say whether it exists.
func (v *Verifier) letIn(q *Question, why string) {
	v.Logger.Warn("recipient not verified", "id", q.ID, "stage", pipeline.StageRoute, "action", "accept", "rcpt", q.Address, "why", why)
}

// remember adds an answer. A full map makes room: what is over, and if that is not enough, a tenth of the rest.
func remember(answers map[string]time.Time, address string, now time.Time, span time.Duration) {
	if len(answers) >= maxAnswers {
		for a, until := range answers {
			if !now.Before(until) {
				delete(answers, a)
			}
		}
		for a := range answers {
			if len(answers) <= maxAnswers*9/10 {
				break
			}
			delete(answers, a)
		}
	}
	answers[address] = now.Add(span)
}
