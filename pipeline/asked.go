package pipeline

import "context"

// RecipientAnswer is what the servers of a domain say about an address of it before there is a message.
type RecipientAnswer uint8

// The answers.
const (
	AnswerNone    RecipientAnswer = iota // nobody said anything: they can't be reached, or do not get as far as the recipient
	AnswerLater                          // it can't be said now (4yz), or not without a message
	AnswerTaken                          // mail for it is taken
	AnswerRefused                        // mail for it is refused for good
)

// String returns the word used in logs.
func (a RecipientAnswer) String() string {
	switch a {
	case AnswerLater:
		return "later"
	case AnswerTaken:
		return "taken"
	case AnswerRefused:
		return "refused"
	}
	return "none"
}

// RecipientAsker asks the next hop of a domain about an address, from the null sender, as a message would be sent there, and sends
// none. It is called from any goroutine and ends with ctx; the answer is for callers to remember. why says more, clean, for
// the log alone: it may name servers and quote them.
type RecipientAsker interface {
	AskRecipient(ctx context.Context, pipeline, address string) (answer RecipientAnswer, why string)
}
