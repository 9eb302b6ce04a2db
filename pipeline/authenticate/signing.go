package authenticate

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/units"
)

// SignMode says whether mail of a domain is signed.
type SignMode string

// The modes.
const (
	SignAuto    SignMode = "auto"    // with the keys that are there
	SignRequire SignMode = "require" // or it does not leave
	SignOff     SignMode = "off"
)

// Signing is the table [domain."NAME".dkim].
type Signing struct {
	Sign   SignMode       `toml:"sign" oneof:"auto require off" doc:"auto (mail from this domain is signed with the keys that sluice dkim new has made), require (without a key it does not leave: 451) or off"`
	Expire units.Duration `toml:"expire" doc:"signatures hold for so long (x=); 0s: for good. Less than mail may be on its way, with the queues of others, breaks it"`
	ARC    bool           `toml:"arc" doc:"put an ARC seal (RFC 8617) of this domain on other people's mail that its aliases send elsewhere, if there is a key"`
}

// DefaultSigning is what holds for keys that are not written.
func DefaultSigning() Signing { return Signing{Sign: SignAuto, ARC: true} }

// shortestExpire is how long mail may wait in our own queue and in somebody else's (RFC 5321 section 4.5.4.1).
const shortestExpire = 24 * time.Hour

// Validate reports every problem at once, as *pipeline.FieldError joined.
func (c *Signing) Validate() error {
	var problems []error
	switch c.Sign {
	case SignAuto, SignRequire, SignOff:
	default:
		problems = append(problems, &pipeline.FieldError{Key: "sign", Problem: fmt.Sprintf("is %q, expected \"auto\", \"require\" or \"off\"", string(c.Sign))})
	}
	if d := c.Expire.Std(); d != 0 && d < shortestExpire {
		problems = append(problems, &pipeline.FieldError{Key: "expire", Problem: fmt.Sprintf("%s is too short, expected 0s or at least %s: mail may wait so long on its way", c.Expire, shortestExpire)})
	}
	return errors.Join(problems...)
}
