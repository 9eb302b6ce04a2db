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

	asked   int    // whole questions that nobody cancelled, with an answer
	errors  int    // of those were answered with an error
	refusal string // the first: about what, and its text
}

// opinion counts the answer to a question that nobody cancelled. An error is the plugin's right, but its author should know.
func (o *observer) opinion(a *answer, m *message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	if a.verdict != nil {
		return
	}
	if o.errors++; o.errors == 1 {
		o.refusal = m.what + ": " + or(a.err, "an error without a word")
	}
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
	if tooLarge(err) {
		o.fault(checkVerdict, "a frame larger than 1 MiB (%s)", printable(status.Convert(err).Message(), 120))
	}
}

// tooLarge reports whether a lane ended because we didn't take a frame.
func tooLarge(err error) bool {
	return strings.Contains(status.Convert(err).Message(), fmt.Sprintf("vs. %d)", maxFrame))
}

// newBody is what has come of Body frames.
type newBody struct {
	frames int
	octets int64
	cr     bool // the last octet was CR
	bareCR bool
}

// maxBody is the default of max_size, in octets.
const maxBody = 50 << 20

func (o *observer) body(f *wire.Body, q *question) {
	if f.GetId() != q.id {
		return // late: ignored
	}
	b, data := &q.body, f.GetData()
	for _, octet := range data {
		b.bareCR = b.bareCR || b.cr && octet != '\n'
		b.cr = octet == '\r'
	}
	b.frames++
	b.octets += int64(len(data))
	switch {
	case len(data) > wire.MaxChunk:
		o.fault(checkVerdict, "a Body frame of %d octets, more than %d", len(data), wire.MaxChunk)
	case q.answers > 0:
		o.fault(checkVerdict, "a Body frame after the answer to question %d", q.id)
	case b.octets > maxBody:
		o.fault(checkVerdict, "a new body of more than %d MB", maxBody>>20)
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
	if len(v.GetAlerts()) > 20 {
		return fmt.Errorf("%d alerts, more than 20", len(v.GetAlerts()))
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
	return errors.Join(checkBody(v, q), checkRoutes(v, q))
}

// checkBody holds Body frames and changes of the body against each other (section 3, rule 11).
func checkBody(v *wire.Verdict, q *question) error {
	replaces := slices.ContainsFunc(allChanges(v), func(c *wire.Change) bool { return c.GetKind() == wire.ChangeKind_CHANGE_KIND_REPLACE_BODY })
	switch {
	case q.body.frames > 0 && !replaces:
		return errors.New("Body frames before an answer that replaces no body")
	case !replaces:
		return nil
	case q.body.frames == 0:
		return errors.New("REPLACE_BODY without a Body frame")
	case q.phase != wire.Phase_PHASE_CONTENT:
		return errors.New("REPLACE_BODY in a phase that has no body to replace")
	case q.body.bareCR || q.body.cr:
		return errors.New("a new body with a bare CR")
	}
	return nil
}

// checkRoutes: a route counts in PHASE_ROUTE alone, and one recipient has no sender.
func checkRoutes(v *wire.Verdict, q *question) error {
	routes := []*wire.Route{v.GetRoute()}
	for _, r := range v.GetRecipients() {
		routes = append(routes, r.GetRoute())
		for _, c := range r.GetChanges() {
			if c.GetKind() == wire.ChangeKind_CHANGE_KIND_CHANGE_SENDER {
				return errors.New("CHANGE_SENDER for one recipient")
			}
		}
	}
	for _, r := range routes {
		if len(r.GetTo()) > 0 && q.phase != wire.Phase_PHASE_ROUTE {
			return errors.New("a route in another phase than route")
		}
		if len(r.GetTo()) > 100 {
			return fmt.Errorf("a route with %d addresses, more than 100", len(r.GetTo()))
		}
		for _, to := range r.GetTo() {
			if !isAddress(to) {
				return fmt.Errorf("the route %.80q, which is no address", to)
			}
		}
	}
	return nil
}

// isAddress: local part and domain, at most 320 octets, no control characters or angle brackets (section 11).
func isAddress(s string) bool {
	at := strings.LastIndexByte(s, '@')
	return at > 0 && at < len(s)-1 && !bad(s, 320, false) && !strings.ContainsAny(s, "<>")
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
		if !isAddress(c.GetAddress()) {
			return fmt.Errorf("%.80q is no address", c.GetAddress())
		}
	case wire.ChangeKind_CHANGE_KIND_CHANGE_SENDER:
		if c.GetAddress() != "" && !isAddress(c.GetAddress()) {
			return fmt.Errorf("%.80q is no address", c.GetAddress())
		}
	case wire.ChangeKind_CHANGE_KIND_REPLACE_BODY:
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
