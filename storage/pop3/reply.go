package pop3

import "errors"

// What a session can run into. Errors of the store that are none of these are
// temporary troubles.
var (
	errCredentials = errors.New("wrong user or password")
	errThrottled   = errors.New("too many failed logins")
	errDenied      = errors.New("this account may not use POP3")
	errInUse       = errors.New("maildrop is in use")
	errTooSoon     = errors.New("login too soon after the last")
	errGone        = errors.New("message was removed by another session")
)

// Sentences for -ERR. Codes in brackets are those of RFC 2449 section 8 and RFC
// 3206.
const (
	errTextSyntax      = "I cannot read that command"
	errTextUnknown     = "I do not know that command"
	errTextState       = "that command has no place here"
	errTextLong        = "line is too long"
	errTextTooMany     = "too many commands"
	errTextBadArgument = "wrong arguments"
	errTextNoMessage   = "no such message"
	errTextDeleted     = "message is deleted"
	errTextGone        = "message was removed by another session"
	errTextNeedTLS     = "[SYS/PERM] a password needs TLS: use STLS first"
	errTextNoTLS       = "TLS is not available here"
	errTextInjected    = "commands behind STLS are not allowed"
	errTextMechanism   = "mechanism is not supported"
	errTextCancelled   = "authentication cancelled"
	errTextBase64      = "that is no valid answer"
	errTextTrouble     = "[SYS/TEMP] temporary trouble, please try again later"
	errTextNotRemoved  = "[SYS/TEMP] some deleted messages were not removed"
)

// loginErrorText says to the client why it could not log in.
func loginErrorText(err error) string {
	switch {
	case errors.Is(err, errCredentials):
		return "[AUTH] wrong user or password"
	case errors.Is(err, errThrottled):
		return "[SYS/TEMP] too many failed logins, please wait"
	case errors.Is(err, errDenied):
		return "[SYS/PERM] this account may not use POP3"
	case errors.Is(err, errInUse):
		return "[IN-USE] another session has this maildrop"
	case errors.Is(err, errTooSoon):
		return "[LOGIN-DELAY] too soon after the last login"
	}
	return errTextTrouble
}
