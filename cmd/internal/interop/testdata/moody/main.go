// Command moody is a plugin that misbehaves when it is configured, as its table says, for the tests of package interop. It leaves a
// file in its home when it starts. With the argument "old" it does not know what a check is.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/serve"
)

func main() {
	if err := os.WriteFile(filepath.Join(os.Getenv("HOME"), "was-here"), nil, 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	serve.Main(&moody{})
}

type moody struct {
	Mood string `config:"mood"`
	Size int    `config:"size"`
}

func (*moody) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "moody", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, CheckOnly: len(os.Args) < 2,
	}
}

func (m *moody) Configure(_ context.Context, s sdk.Settings) error {
	if err := s.Decode(m); err != nil {
		return err
	}
	switch m.Mood {
	case "hang":
		time.Sleep(time.Hour)
	case "crash":
		fmt.Fprintln(os.Stderr, "the licence has expired")
		os.Exit(3)
	case "flood":
		for range 50_000 {
			fmt.Fprintln(os.Stderr, strings.Repeat("y", 200))
		}
	case "who":
		return &sdk.SettingError{Key: "mood", Problem: fmt.Sprintf("I am user %d, a check: %v", os.Getuid(), s.CheckOnly)}
	}
	return nil
}

func (*moody) Ask(context.Context, *sdk.Message) (sdk.Verdict, error) { return sdk.Verdict{}, nil }
