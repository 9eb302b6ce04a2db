package config

import (
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/antispam"
	"github.com/sluicemail/sluice/pipeline/antivirus"
	"github.com/sluicemail/sluice/pipeline/deliver"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/pipeline/units"
)

const minute = time.Minute

// Pipeline is [pipeline.NAME] with a table for each stage. The order of stages is the product, not a setting.
type Pipeline struct {
	Mixed pipeline.Mixed `toml:"mixed" doc:"what becomes of the others when some recipients of a message are accepted (RULES A3): quarantine (default for strangers), reject (all of it) or bounce (default for login and trusted)"`

	Receive      Receive          `toml:"receive" doc:"SMTP, submission and LMTP in"`
	Authenticate Authenticate     `toml:"authenticate" doc:"who says it is from them, and is it"`
	AntiSpam     antispam.Config  `toml:"anti-spam" doc:"plugins score it; the sum meets thresholds"`
	AntiVirus    antivirus.Config `toml:"anti-virus" doc:"plugins clear it"`
	Route        route.Config     `toml:"route" doc:"whose is it, and where does it go"`
	Queue        Queue            `toml:"queue" doc:"when is it tried again"`
	Deliver      deliver.Config   `toml:"deliver" doc:"into the mailbox, or out by SMTP"`
}

// Receive is [pipeline.NAME.receive].
type Receive struct {
	MaxSize       units.Size     `toml:"max_size"`
	MaxRecipients int            `toml:"max_recipients"`
	Deadline      units.Duration `toml:"deadline"`
}

// Authenticate is [pipeline.NAME.authenticate].
type Authenticate struct {
	SPF   bool   `toml:"spf"`
	DKIM  bool   `toml:"dkim"`
	DMARC string `toml:"dmarc" oneof:"off report enforce"`
}

// Queue is [pipeline.NAME.queue].
type Queue struct {
	Retry       units.Duration `toml:"retry"`
	RetryMax    units.Duration `toml:"retry_max"`
	WarnAfter   units.Duration `toml:"warn_after"`
	GiveUpAfter units.Duration `toml:"give_up_after"`
}

// DefaultPipeline returns a pipeline as an empty table means it.
func DefaultPipeline() *Pipeline {
	return &Pipeline{
		Receive:      Receive{MaxSize: 50 * units.MB, MaxRecipients: 100, Deadline: units.Duration(minute)},
		Authenticate: Authenticate{SPF: true, DKIM: true, DMARC: "enforce"},
		AntiSpam:     antispam.DefaultConfig(),
		AntiVirus:    antivirus.DefaultConfig(),
		Route:        route.DefaultConfig(),
		Deliver:      deliver.DefaultConfig(),
		Queue: Queue{
			Retry: units.Duration(15 * minute), RetryMax: units.Duration(120 * minute),
			WarnAfter: units.Duration(240 * minute), GiveUpAfter: units.Duration(5 * units.Day),
		},
	}
}

// stage is one stage's table and its own check of it.
type stage struct {
	key      string
	validate func() error
}

func (p *Pipeline) stages() []stage {
	return []stage{
		{pipeline.StageAntiSpam, p.AntiSpam.Validate},
		{pipeline.StageAntiVirus, p.AntiVirus.Validate},
		{pipeline.StageRoute, p.Route.Validate},
		{pipeline.StageDeliver, p.Deliver.Validate},
	}
}
