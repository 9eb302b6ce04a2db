package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/sdk/wire"
)

// version is this release. What exactly was built is in the revision, which Go writes into the program.
const version = "0.1.0-dev"

// versionItem is what `sluice version` prints.
type versionItem struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"` // built from a tree with changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Protocol int    `json:"plugin_protocol"`
}

func theVersion() versionItem {
	v := versionItem{
		Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Protocol: wire.ProtocolVersion,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Revision = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	return v
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print which Sluice this is",
		Args:  exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			v := theVersion()
			if a.json {
				return json.NewEncoder(a.stdout).Encode(v)
			}
			fmt.Fprintf(a.stdout, "sluice %s", v.Version)
			if v.Revision != "" {
				fmt.Fprintf(a.stdout, " (%.12s", v.Revision)
				if v.Modified {
					fmt.Fprint(a.stdout, ", with changes")
				}
				fmt.Fprint(a.stdout, ")")
			}
			fmt.Fprintf(a.stdout, ", %s, %s, plugin protocol %d\n", v.Go, v.Platform, v.Protocol)
			return nil
		},
	}
}
