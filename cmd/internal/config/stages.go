package config

import (
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/antispam"
	"github.com/sluicemail/sluice/pipeline/antivirus"
	"github.com/sluicemail/sluice/pipeline/authenticate"
	"github.com/sluicemail/sluice/pipeline/deliver"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/receive"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/pipeline/units"
)

// Pipeline is [pipeline.NAME] with a table for each stage. The order of stages is the product, not a setting.
type Pipeline struct {
	Mixed    pipeline.Mixed `toml:"mixed" doc:"what becomes of the others when some recipients of a message are refused: quarantine, reject (all of it) or bounce (a notice to the sender; never for strangers); empty: quarantine for strangers, bounce for login and trusted"`
	Deadline units.Duration `toml:"deadline" doc:"for authenticate, anti-spam, anti-virus and route together, while the peer waits for our answer"`

	Receive      receive.Config      `toml:"receive" doc:"SMTP, submission and LMTP in"`
	Authenticate authenticate.Config `toml:"authenticate" doc:"who says it is from them, and is it"`
	AntiSpam     antispam.Config     `toml:"anti-spam" doc:"plugins score it; the sum meets thresholds"`
	AntiVirus    antivirus.Config    `toml:"anti-virus" doc:"plugins clear it"`
	Route        route.Config        `toml:"route" doc:"whose is it, and where does it go"`
	Queue        queue.Config        `toml:"queue" doc:"when is it tried again"`
	Deliver      deliver.Config      `toml:"deliver" doc:"into the mailbox, or out to other servers"`
}

// DefaultPipeline returns a pipeline as an empty table means it.
func DefaultPipeline() *Pipeline {
	return &Pipeline{
		Deadline:     units.Of(time.Minute),
		Receive:      receive.DefaultConfig(),
		Authenticate: authenticate.DefaultConfig(),
		AntiSpam:     antispam.DefaultConfig(),
		AntiVirus:    antivirus.DefaultConfig(),
		Route:        route.DefaultConfig(),
		Queue:        queue.DefaultConfig(),
		Deliver:      deliver.DefaultConfig(),
	}
}

// stage is one stage's table and its own check of it.
type stage struct {
	key      string
	validate func() error
}

func (p *Pipeline) stages() []stage {
	return []stage{
		{pipeline.StageReceive, p.Receive.Validate},
		{pipeline.StageAuthenticate, p.Authenticate.Validate},
		{pipeline.StageAntiSpam, p.AntiSpam.Validate},
		{pipeline.StageAntiVirus, p.AntiVirus.Validate},
		{pipeline.StageRoute, p.Route.Validate},
		{pipeline.StageQueue, p.Queue.Validate},
		{pipeline.StageDeliver, p.Deliver.Validate},
	}
}
