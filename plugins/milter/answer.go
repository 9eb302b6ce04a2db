package milter

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"github.com/emersion/go-milter"

	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

// Replies that go-milter does not name.
const (
	connFail = 'f' // SMFIR_CONN_FAIL
	shutdown = '4' // SMFIR_SHUTDOWN: 421
)

// answer is what a milter says to a step.
type answer struct {
	code   milter.ActionCode
	action sdk.Action
	reply  *sdk.Reply
	step   string // after which step it came, for people
}

var goOn = answer{code: milter.ActContinue}

func (a answer) goOn() bool    { return a.code == milter.ActContinue }
func (a answer) refuses() bool { return a.action == sdk.Defer || a.action == sdk.Reject }

func (a answer) at(step string) answer {
	a.step = step
	return a
}

// parseAnswer reads a reply that is no modification.
func parseAnswer(code byte, data []byte) (answer, error) {
	a := answer{code: milter.ActionCode(code)}
	switch a.code {
	case milter.ActContinue, milter.ActAccept:
	case milter.ActDiscard:
		a.action = sdk.Discard
	case milter.ActReject:
		a.action = sdk.Reject
	case milter.ActTempFail, connFail, shutdown:
		a.action = sdk.Defer
	case milter.ActReplyCode:
		return parseReply(a, string(data))
	case milter.ActSkip:
		return answer{}, errors.New("it wants to skip the rest of the body, which we do not offer")
	default:
		return answer{}, fmt.Errorf("its answer %q of %d octets is none", code, len(data)+1)
	}
	return a, nil
}

// parseReply reads the data of SMFIR_REPLYCODE: "550 5.7.1 text", or several such lines, "550-" all
// but the last. libmilter wants a percent sign doubled, because Sendmail formats the text.
func parseReply(a answer, data string) (answer, error) {
	data = strings.TrimSuffix(data, "\x00")
	if len(data) < 3 || strings.ContainsRune(data, 0) || data[1] < '0' || data[1] > '5' || data[2] < '0' || data[2] > '9' || len(data) > 3 && data[3] != ' ' && data[3] != '-' {
		return answer{}, fmt.Errorf("its reply %q is none of SMTP", plain.Line(data, 100))
	}
	code := int(data[0]-'0')*100 + int(data[1]-'0')*10 + int(data[2]-'0')
	class := data[:1]
	a.reply = &sdk.Reply{Code: code, Enhanced: class + ".7.1"}
	switch class {
	case "4":
		a.action = sdk.Defer
		if code == 421 { // the server decides when it closes a connection
			a.reply.Code = 451
		}
	case "5":
		a.action = sdk.Reject
	default:
		return answer{}, fmt.Errorf("its reply %q is neither 4xx nor 5xx", plain.Line(data, 100))
	}
	var lines []string
	for line := range strings.SplitSeq(strings.ReplaceAll(data, "\r\n", "\n"), "\n") {
		line = strings.TrimLeft(strings.TrimPrefix(line, data[:3]), "- ")
		word, rest, _ := strings.Cut(line, " ")
		if isEnhanced(word, class) {
			a.reply.Enhanced, line = word, rest
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	a.reply.Text = strings.ReplaceAll(strings.Join(lines, " "), "%%", "%")
	a.reply.Text = plain.ASCII(plain.Line(a.reply.Text, 350))
	if a.reply.Text == "" {
		a.reply = nil // in the server's words
	}
	return a, nil
}

// isEnhanced reports whether a word is an enhanced status code of a class (RFC 3463 section 2).
func isEnhanced(word, class string) bool {
	parts := strings.Split(word, ".")
	if len(parts) != 3 || parts[0] != class {
		return false
	}
	for _, p := range parts[1:] {
		if p == "" || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return false
		}
	}
	return true
}

// opinion gathers what the milter says on the way.
type opinion struct {
	own     []sdk.RecipientVerdict
	reasons []sdk.Reason
}

// maxNotes is how many notes a verdict may carry.
const maxNotes = 50

// note puts something into the trace.
func (o *opinion) note(symbol, format string, args ...any) {
	if len(o.reasons) < maxNotes {
		o.reasons = append(o.reasons, sdk.Reason{Symbol: symbol, Text: plain.Line(fmt.Sprintf(format, args...), 1000)})
	}
}

// refuse is the milter's no to one recipient. Should one be there twice, the stronger no counts.
func (o *opinion) refuse(address string, a answer) {
	r := sdk.RecipientVerdict{Recipient: address, Action: a.action, Reply: a.reply, Reasons: []sdk.Reason{a.reason()}}
	for i := range o.own {
		if o.own[i].Recipient == address {
			if o.own[i].Action < a.action {
				o.own[i] = r
			}
			return
		}
	}
	o.own = append(o.own, r)
}

// refused reports whether the milter said no to every recipient: then an SMTP server would not
// have taken DATA.
func (o *opinion) refused(all []sdk.Recipient) bool {
	no := make(map[string]bool, len(o.own))
	for i := range o.own {
		no[o.own[i].Recipient] = true
	}
	for i := range all {
		if !no[all[i].Address] {
			return false
		}
	}
	return true
}

// verdict joins the last word with what was said before. A no to the whole message counts for those
// to whom a weaker one was said.
func (o *opinion) verdict(a answer) sdk.Verdict {
	v := sdk.Verdict{Action: a.action, Reply: a.reply, Recipients: o.own, Reasons: o.reasons}
	if a.action != sdk.Accept {
		v.Reasons = append([]sdk.Reason{a.reason()}, v.Reasons...)
	}
	for i := range v.Recipients {
		if r := &v.Recipients[i]; r.Action < v.Action {
			r.Action, r.Reply = v.Action, v.Reply
		}
	}
	return v
}

func (a answer) reason() sdk.Reason {
	text := a.action.String()
	if a.reply != nil {
		text = fmt.Sprintf("%d %s %s", a.reply.Code, a.reply.Enhanced, a.reply.Text)
	}
	return sdk.Reason{Symbol: "MILTER", Text: fmt.Sprintf("the milter said at %s: %s", a.step, text)}
}

var actionWords = []string{
	"add fields", "replace the body", "add recipients", "remove recipients", "change fields", "quarantine", "change the sender",
	"add recipients with parameters", "choose macros",
}

var stepWords = []string{
	"connect", "helo", "mail", "rcpt", "body", "header", "end of header", "replies to header", "unknown commands", "data", "skip",
	"refused recipients", "replies to connect", "replies to helo", "replies to mail", "replies to rcpt", "replies to data",
	"replies to unknown commands", "replies to end of header", "replies to body", "fields without their leading space",
}

// words names the bits of a mask.
func words(mask uint32, names []string) string {
	var list []string
	for ; mask != 0; mask &= mask - 1 {
		if at := bits.TrailingZeros32(mask); at < len(names) {
			list = append(list, names[at])
		} else {
			list = append(list, fmt.Sprintf("bit %d", at))
		}
	}
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}
