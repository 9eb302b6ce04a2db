package conformance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/sluicemail/sluice/sdk/wire"
)

// alikeCheck finds a plugin that keeps what it knows about a message in one place for all lanes.
func alikeCheck() check {
	return check{
		name: "own answers with all lanes busy", section: "3, rule 2",
		sent:     "a message of its own on each lane: alone, with all lanes busy, and alone again",
		expected: "the answers that it gave alone: what is asked on other lanes changes nothing", do: checkAlike,
		skip: func(r *run) string {
			if why := content(r); why != "" {
				return why
			}
			return unless(r.lanes > 1, "it has one lane")
		},
	}
}

// checkAlike compares answers. A plugin whose answers change by themselves, because it counts or draws lots, has nothing to compare.
func checkAlike(ctx context.Context, r *run) (string, error) {
	const few = 3
	messages := make([]*message, r.lanes)
	for i := range messages {
		messages[i] = mail(fmt.Sprintf("message %d of %d", i+1, r.lanes), plainHeader+strings.Repeat("Shall we have lunch on Friday?\n", 1+7*i))
		messages[i].recipients = 1 + i%20
	}
	before, steady, err := r.alone(ctx, messages, few)
	if err != nil || !steady {
		return "not compared: its answers change by themselves", err
	}
	busy := make([]string, r.lanes)
	var mu sync.Mutex
	next := slices.Clone(messages)
	err = r.together(ctx, func(l *lane) error {
		mu.Lock()
		m := next[0]
		next = next[1:]
		mu.Unlock()
		i := slices.Index(messages, m)
		for range rounds {
			a, err := l.ask(ctx, r.contentPhase(), m, nil)
			if err != nil {
				return err
			}
			if opinion := fingerprint(a); opinion != "" && opinion != before[i] && busy[i] == "" {
				busy[i] = opinion
			}
		}
		return nil
	})
	at := slices.IndexFunc(busy, func(opinion string) bool { return opinion != "" })
	if err != nil || at < 0 {
		return fmt.Sprintf("%d answers", r.lanes*rounds), err
	}
	after, steady, err := r.alone(ctx, messages, rounds) // as many as there were together: it may be chance
	if err != nil || !steady || !slices.Equal(before, after) {
		return "not compared: its answers change by themselves", err
	}
	return "", fmt.Errorf("%s: %s; alone it was %s", messages[at].what,
		printable(busy[at], 200), printable(before[at], 200))
}

// alone asks about each message so often, one after the other, and reports whether the answers were always the same.
func (r *run) alone(ctx context.Context, messages []*message, times int) (opinions []string, steady bool, err error) {
	l, err := r.open(ctx)
	if err != nil {
		return nil, false, err
	}
	defer l.close()
	opinions, steady = make([]string, len(messages)), true
	for i, m := range messages {
		for n := range times {
			a, err := l.ask(ctx, r.contentPhase(), m, nil)
			if err != nil {
				return nil, false, err
			}
			opinion := fingerprint(a)
			steady = steady && opinion != "" && (n == 0 || opinion == opinions[i])
			opinions[i] = opinion
		}
	}
	return opinions, steady, nil
}

// fingerprint is what counts of an answer, without texts, which may say how long it took; empty for an error.
func fingerprint(a *answer) string {
	if a.verdict == nil {
		return ""
	}
	v := a.verdict
	text := opinionOf(v.GetAction(), v.GetScore(), v.GetReasons(), v.GetDetections(), v.GetChanges(), v.GetRoute())
	for _, to := range v.GetRecipients() {
		text += "; for " + to.GetRecipient() + " " +
			opinionOf(to.GetAction(), to.GetScore(), to.GetReasons(), to.GetDetections(), to.GetChanges(), to.GetRoute())
	}
	return text
}

func opinionOf(action wire.Action, score float64, reasons []*wire.Reason, detections []string, changes []*wire.Change, route *wire.Route) string {
	words := []string{strings.ToLower(strings.TrimPrefix(action.String(), "ACTION_"))}
	if score != 0 {
		words = append(words, fmt.Sprintf("score %.4g", score))
	}
	var more []string // in no order that matters
	for _, reason := range reasons {
		more = append(more, reason.GetSymbol())
	}
	for _, detection := range detections {
		more = append(more, "found "+detection)
	}
	for _, change := range changes {
		more = append(more, strings.ToLower(strings.TrimPrefix(change.GetKind().String(), "CHANGE_KIND_"))+" "+or(change.GetName(), change.GetAddress()))
	}
	slices.Sort(more)
	if words = append(words, more...); route != nil {
		words = append(words, "to "+or(route.GetVia(), strings.Join(route.GetTo(), " ")))
	}
	return strings.Join(words, ", ")
}
