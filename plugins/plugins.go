// Package plugins lists the plugins that Sluice ships. Each runs as
// `sluice plugin run NAME` in a process of its own, like anybody else's: it
// imports sdk and what several share below plugins/internal, nothing else of this
// module, and only cmd/sluice imports this package.
package plugins

import (
	"github.com/sluicemail/sluice/plugins/attachments"
	"github.com/sluicemail/sluice/plugins/bayes"
	"github.com/sluicemail/sluice/plugins/clamav"
	"github.com/sluicemail/sluice/plugins/dnsbl"
	"github.com/sluicemail/sluice/plugins/eicar"
	"github.com/sluicemail/sluice/plugins/greylist"
	"github.com/sluicemail/sluice/plugins/gtube"
	"github.com/sluicemail/sluice/plugins/icap"
	"github.com/sluicemail/sluice/plugins/milter"
	"github.com/sluicemail/sluice/plugins/ratelimit"
	"github.com/sluicemail/sluice/plugins/rspamd"
	"github.com/sluicemail/sluice/plugins/spamassassin"
	"github.com/sluicemail/sluice/sdk"
)

// Builtins returns the shipped plugins by the name that `builtin` has in TOML.
func Builtins() map[string]func() sdk.Plugin {
	return map[string]func() sdk.Plugin{
		"icap":         func() sdk.Plugin { return icap.New() },
		"bayes":        func() sdk.Plugin { return bayes.New() },
		"clamav":       func() sdk.Plugin { return clamav.New() },
		"attachments":  func() sdk.Plugin { return attachments.New() },
		"eicar":        func() sdk.Plugin { return eicar.New() },
		"greylist":     func() sdk.Plugin { return greylist.New() },
		"gtube":        func() sdk.Plugin { return gtube.New() },
		"milter":       func() sdk.Plugin { return milter.New() },
		"ratelimit":    func() sdk.Plugin { return ratelimit.New() },
		"dnsbl":        func() sdk.Plugin { return dnsbl.New() },
		"rspamd":       func() sdk.Plugin { return rspamd.New() },
		"spamassassin": func() sdk.Plugin { return spamassassin.New() },
	}
}
