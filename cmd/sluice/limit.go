package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
)

// limitFlag adds --limit to a list: 1 or more, and not more than most; 0 is no bound. limit has the default already.
func limitFlag(cmd *cobra.Command, limit *int, most int, usage string) {
	usage += "; 1 or more"
	if most > 0 {
		usage += fmt.Sprintf(", up to %d", most)
	}
	cmd.Flags().Var(&limitValue{limit, most}, "limit", usage)
}

// limitValue is the value of a flag (github.com/spf13/pflag).
type limitValue struct {
	n    *int
	most int
}

func (l *limitValue) String() string {
	if l.n == nil {
		return ""
	}
	return strconv.Itoa(*l.n)
}

func (l *limitValue) Type() string { return "int" }

func (l *limitValue) Set(text string) error {
	n, err := strconv.Atoi(text)
	switch {
	case err != nil || n < 1 && l.most == 0:
		return errors.New("expected a number, 1 or more")
	case l.most > 0 && (n < 1 || n > l.most):
		return fmt.Errorf("expected a number from 1 to %d", l.most)
	}
	*l.n = n
	return nil
}

// noteCut says that a list has ended at a limit that nobody asked for.
func (a *app) noteCut(cmd *cobra.Command, limit int) {
	if a.shown >= limit && !cmd.Flags().Changed("limit") {
		a.note = fmt.Sprintf("these are %d, and there may be more; --limit N shows more", a.shown)
	}
}
