package conformance

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"unicode"

	"google.golang.org/grpc/status"

	"github.com/sluicemail/sluice/sdk/wire"
)

// observer looks at every frame of the plugin during all checks, and keeps the first fault of each kind.
type observer struct {
	mu       sync.Mutex
	manifest *wire.DescribeResponse

	answers int
	faults  map[string]string // by check
}

// The checks that the observer decides.
const (
	checkOnce    = "one answer to each question"
	checkVerdict = "verdicts are valid"
	checkChanges = "changes are those announced"
)

func (o *observer) fault(check, format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.faults == nil {
		o.faults = make(map[string]string)
	}
	if _, ok := o.faults[check]; !ok {
		o.faults[check] = fmt.Sprintf(format, args...)
	}
}

func (o *observer) stray(a *wire.Answer, q *question) {
	o.fault(checkOnce, "an answer with id %d while the question was %d", a.GetId(), q.id)
}

func (o *observer) twice(a *wire.Answer) {
	o.fault(checkOnce, "a second answer to question %d of a lane", a.GetId())
}

func (o *observer) tooLarge(err error) {
	if text := status.Convert(err).Message(); strings.Contains(text, fmt.Sprintf("vs. %d)", maxFrame)) {
		o.fault(checkVerdict, "a frame larger than 1 MiB (%s)", printable(text, 120))
	}
}

func (o *observer) body(b *wire.Body, q *question) {
	switch {
	case len(b.GetData()) > wire.MaxChunk:
		o.fault(checkVerdict, "a Body frame of %d octets, more than %d", len(b.GetData()), wire.MaxChunk)
	case b.GetId() == q.id && q.answers > 0:
		o.fault(checkVerdict, "a Body frame after the answer to question %d", q.id)
	}
}

func (o *observer) answer(a *wire.Answer, q *question) {
	o.mu.Lock()
	o.answers++
	o.mu.Unlock()
	v := a.GetVerdict()
	if v == nil {
		if a.GetResult() == nil {
			o.fault(checkVerdict, "an answer with neither verdict nor error")
		}
		return
	}
	if err := checkAnswer(v, q); err != nil {
		o.fault(checkVerdict, "in %s: %v", phaseWord(q.phase), err)
	}
	for _, c := range allChanges(v) {
		if !slices.Contains(o.manifest.GetChanges(), c.GetKind()) {
			o.fault(checkChanges, "%s, which the manifest does not list", c.GetKind())
		}
	}
}

func allChanges(v *wire.Verdict) []*wire.Change {
	list := slices.Clone(v.GetChanges())
	for _, r := range v.GetRecipients() {
		list = append(list, r.GetChanges()...)
	}
	return list
}

// checkAnswer holds a verdict against sections 5 and 11.
func checkAnswer(v *wire.Verdict, q *question) error {
	if err := checkOpinion(v.GetAction(), v.GetScore(), v.GetReasons(), v.GetDetections(), v.GetReply(), v.GetChanges()); err != nil {
		return err
	}
	if len(v.GetTags()) > 100 {
		return fmt.Errorf("%d tags, more than 100", len(v.GetTags()))
	}
	for name, value := range v.GetTags() {
		if bad(name, 200, false) || bad(value, 2000, true) {
			return fmt.Errorf("the tag %.40q is too long or has control characters", name)
		}
	}
	for _, a := range v.GetAlerts() {
		if bad(a.GetKey(), 200, false) || bad(a.GetText(), 2000, false) {
			return fmt.Errorf("the alert %.40q is empty, too long or has control characters", a.GetKey())
		}
	}
	known := make(map[string]bool, len(v.GetRecipients()))
	for _, r := range v.GetRecipients() {
		to := r.GetRecipient()
		switch {
		case !q.to[to]:
			return fmt.Errorf("a verdict for %.80q, who is no recipient", to)
		case known[to]:
			return fmt.Errorf("two verdicts for %.80q", to)
		}
		known[to] = true
		if err := checkOpinion(r.GetAction(), r.GetScore(), r.GetReasons(), r.GetDetections(), r.GetReply(), r.GetChanges()); err != nil {
			return fmt.Errorf("for %.80q: %w", to, err)
		}
	}
	replaces := slices.ContainsFunc(allChanges(v), func(c *wire.Change) bool { return c.GetKind() == wire.ChangeKind_CHANGE_KIND_REPLACE_BODY })
	if q.body > 0 && !replaces {
		return errors.New("Body frames before an answer that replaces no body")
	}
	return nil
}

func checkOpinion(action wire.Action, score float64, reasons []*wire.Reason, detections []string, reply *wire.Reply, changes []*wire.Change) error {
	if _, ok := wire.Action_name[int32(action)]; !ok {
		return fmt.Errorf("the action %d, which there is not", action)
	}
	if !finite(score) {
		return errors.New("a score that is not a finite number")
	}
	if len(reasons) > 500 || len(detections) > 100 || len(changes) > 200 {
		return fmt.Errorf("%d reasons, %d detections and %d changes, at most 500, 100 and 200", len(reasons), len(detections), len(changes))
	}
	for _, r := range reasons {
		switch {
		case !finite(r.GetScore()):
			return fmt.Errorf("the score of reason %.40q is not a finite number", r.GetSymbol())
		case bad(r.GetSymbol(), 200, false):
			return fmt.Errorf("the symbol %.40q is empty, too long or has control characters", r.GetSymbol())
		case bad(r.GetText(), 2000, true):
			return fmt.Errorf("the text of reason %.40q is too long or has control characters", r.GetSymbol())
		}
	}
	for _, d := range detections {
		if bad(d, 200, false) {
			return fmt.Errorf("the detection %.40q is empty, too long or has control characters", d)
		}
	}
	for i, c := range changes {
		if err := checkChange(c); err != nil {
			return fmt.Errorf("change %d: %w", i+1, err)
		}
	}
	return checkReply(action, reply)
}

func checkReply(action wire.Action, reply *wire.Reply) error {
	class := map[wire.Action]uint32{wire.Action_ACTION_DEFER: 4, wire.Action_ACTION_REJECT: 5}[action]
	if reply == nil || class == 0 {
		return nil
	}
	if reply.GetCode()/100 != class {
		return fmt.Errorf("the reply %d to %s, expected %dxx", reply.GetCode(), action, class)
	}
	if strings.ContainsFunc(reply.GetText(), unicode.IsControl) {
		return fmt.Errorf("the reply %.80q has control characters, expected one line", reply.GetText())
	}
	return nil
}

func checkChange(c *wire.Change) error {
	switch c.GetKind() {
	case wire.ChangeKind_CHANGE_KIND_ADD_FIELD, wire.ChangeKind_CHANGE_KIND_REPLACE_FIELD, wire.ChangeKind_CHANGE_KIND_REMOVE_FIELD:
		name := c.GetName()
		if name == "" || len(name) > 200 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }) {
			return fmt.Errorf("%.80q is not the name of a field", name)
		}
		if len(c.GetValue()) > 60000 || strings.ContainsAny(c.GetValue(), "\r\n\x00") {
			return fmt.Errorf("the value of %.80q is longer than 60,000 octets or has CR, LF or NUL", name)
		}
	case wire.ChangeKind_CHANGE_KIND_ADD_RECIPIENT, wire.ChangeKind_CHANGE_KIND_REMOVE_RECIPIENT:
		if !strings.Contains(c.GetAddress(), "@") || bad(c.GetAddress(), 1000, false) {
			return fmt.Errorf("%.80q is no address", c.GetAddress())
		}
	case wire.ChangeKind_CHANGE_KIND_REPLACE_BODY, wire.ChangeKind_CHANGE_KIND_CHANGE_SENDER:
	default:
		return fmt.Errorf("the kind of change %d, which there is not", c.GetKind())
	}
	return nil
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

func bad(s string, most int, mayBeEmpty bool) bool {
	return s == "" && !mayBeEmpty || len(s) > most || strings.ContainsFunc(s, unicode.IsControl)
}

// printable makes text of the plugin fit for a terminal.
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "?"))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + " ..."
	}
	return s
}

// phaseWord is "content" for PHASE_CONTENT.
func phaseWord(p wire.Phase) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_"))
}
