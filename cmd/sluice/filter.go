package main

import (
	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/units"
)

// filterFlags are the flags that say which messages are meant.
type filterFlags struct {
	queue.Filter
	older, newer, size string
	all                bool
}

// filterHelp explains them, behind a command's own words.
const filterHelp = `

The filters are AND-ed. A pattern is compared without case; * stands for any text, ? for one character. They let recipients
through: of a message with two recipients, only one may be meant.`

// add gives the flags to a command.
func (f *filterFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.From, "from", "", "the sender is like `PATTERN`; '<>' is the null sender")
	flags.StringVar(&f.To, "to", "", "the recipient is like `PATTERN`")
	flags.StringVar(&f.Domain, "domain", "", "the recipient's domain is like `PATTERN`")
	flags.StringVar(&f.NextHop, "next-hop", "", "the next hop, or one of its servers, is like `PATTERN`; sluice queue sites lists them; \"local\" is a mailbox here")
	flags.StringVar(&f.older, "older-than", "", "accepted more than `TIME` ago: 90m, 12h, 2d")
	flags.StringVar(&f.newer, "newer-than", "", "accepted less than `TIME` ago")
	flags.StringVar(&f.State, "state", "", "in this `STATE`: queued, held or quarantined")
	flags.StringVar(&f.Pipeline, "pipeline", "", "came in by a pipeline like `PATTERN`")
	flags.StringVar(&f.Origin, "origin", "", "of this `ORIGIN`: stranger, trusted, login, lmtp or generated")
	flags.StringVar(&f.size, "size-over", "", "larger than `SIZE`: 500KB, 10MB")
	flags.IntVar(&f.Attempts, "attempts-over", 0, "tried more than `N` times")
	flags.StringVar(&f.Reason, "reason", "", "the last attempt, or why it is in quarantine, says `TEXT` somewhere; with * or ? a pattern of all of it")
}

// ready reads what the flags say.
func (f *filterFlags) ready() error {
	if f.older != "" {
		d, err := units.ParseDuration(f.older)
		if err != nil {
			return usagef("--older-than: %v", err)
		}
		f.OlderThan = d.Std()
	}
	if f.newer != "" {
		d, err := units.ParseDuration(f.newer)
		if err != nil {
			return usagef("--newer-than: %v", err)
		}
		f.NewerThan = d.Std()
	}
	if f.size != "" {
		n, err := units.ParseSize(f.size)
		if err != nil {
			return usagef("--size-over: %v", err)
		}
		f.SizeOver = n.Int64()
	}
	if err := f.Validate(); err != nil {
		return usagef("%v", err)
	}
	return nil
}
