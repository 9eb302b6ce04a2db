package receive

import (
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"

	"github.com/sluicemail/sluice/pipeline"
)

// The sentences that a peer hears from Session callbacks, beside those of package pipeline; what the gate answers by
// itself stands in command.go. None of them ever holds the text of an error.
var (
	replyBadLogin   = pipeline.Reply{Code: 535, Enhanced: "5.7.8", Text: "Authentication failed"}
	replyLoginLater = pipeline.Reply{Code: 454, Enhanced: "4.7.0", Text: "Authentication is not possible now, please try again later"}
	replyMechanism  = pipeline.Reply{Code: 504, Enhanced: "5.5.4", Text: "This mechanism is not supported"}
	replyNotYours   = pipeline.Reply{Code: 550, Enhanced: "5.7.1", Text: "The sender is not an address of your account"}
	replyFromYours  = pipeline.Reply{Code: 550, Enhanced: "5.7.1", Text: "From or Sender is missing, unreadable, or not an address of your account"}
	replyCrooked    = pipeline.Reply{Code: 554, Enhanced: "5.6.0", Text: "From, Sender or Bcc is not written as RFC 5322 section 2.2 wants it"}
	replyIncomplete = pipeline.Reply{Code: 451, Enhanced: "4.4.2", Text: "The message did not arrive as a whole"}
	replyNoMessage  = pipeline.Reply{Code: 503, Enhanced: "5.5.1", Text: "There is no message under way"}
)

// replies are the answers to content that is refused before the pipeline sees it.
var replies = [...]pipeline.Reply{
	flawSize:       {Code: 552, Enhanced: "5.3.4", Text: "The message is too large"},
	flawBareCR:     {Code: 550, Enhanced: "5.6.11", Text: "The message has a CR without LF"},
	flawBareLF:     {Code: 550, Enhanced: "5.6.11", Text: "The message has an LF without CR"},
	flawNUL:        {Code: 550, Enhanced: "5.6.11", Text: "The message has an octet 0"},
	flawHeader:     {Code: 552, Enhanced: "5.3.4", Text: "The header of the message is too large"},
	flawFields:     {Code: 552, Enhanced: "5.3.4", Text: "The header of the message has too many fields"},
	flawLine:       {Code: 550, Enhanced: "5.6.0", Text: "The message has a line that is too long"},
	flawLoop:       {Code: 554, Enhanced: "5.4.6", Text: "Too many hops, the message seems to run in a circle"},
	flawSpool:      pipeline.ReplyTryLater,
	flawIncomplete: replyIncomplete,
}

var whys = [...]string{
	flawSize: "larger than max_size", flawBareCR: "bare CR", flawBareLF: "bare LF", flawNUL: "NUL", flawHeader: "larger than max_header",
	flawFields: "more fields than max_header_fields", flawLine: "longer line than max_line", flawLoop: "more Received than max_received",
	flawSpool: "could not be stored", flawIncomplete: "did not arrive as a whole",
}

// smtpError makes of a reply what the library writes to the peer; it knows the type only, not what wraps it. A reply that
// says something else than its caller may say becomes a passing failure.
func smtpError(r pipeline.Reply) *smtp.SMTPError {
	class := r.Code / 100
	if r.Code < 200 || r.Code > 599 || class == 3 {
		r, class = pipeline.ReplyTryLater, 4
	}
	r = r.Clean()
	return &smtp.SMTPError{Code: r.Code, EnhancedCode: enhanced(r.Enhanced, class), Message: r.Text}
}

// enhanced reads "5.7.1" (RFC 3463 section 2); what is malformed or of another class becomes CLASS.0.0.
func enhanced(s string, class int) smtp.EnhancedCode {
	otherwise := smtp.EnhancedCode{class, 0, 0}
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return otherwise
	}
	var code smtp.EnhancedCode
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 || n > 999 {
			return otherwise
		}
		code[i] = n
	}
	if code[0] != class {
		return otherwise
	}
	return code
}
