package receive

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/units"
)

// Config is the table [pipeline.X.receive].
type Config struct {
	MaxSize            units.Size     `toml:"max_size" doc:"octets of a message; exactly so many are accepted"`
	MaxRecipients      int            `toml:"max_recipients" doc:"recipients of a message; those over it are told 452 and the sender tries them again"`
	MaxHeader          units.Size     `toml:"max_header" doc:"octets of a message's header"`
	MaxHeaderFields    int            `toml:"max_header_fields" doc:"fields in a message's header"`
	MaxLine            units.Size     `toml:"max_line" doc:"octets of one line of a message; SMTP promises 1000, programs send more, and longer ones are kept as they are"`
	MaxReceived        int            `toml:"max_received" doc:"Received fields in a message; with more it is taken to run in a circle"`
	MaxErrors          int            `toml:"max_errors" doc:"wrong commands on one connection before it is closed"`
	MaxRefused         int            `toml:"max_refused" doc:"refused recipients on one connection before it is closed"`
	RefuseDelay        units.Duration `toml:"refuse_delay" doc:"how long the reply to a refused recipient is held back, from the sixth on"`
	GreetDelay         units.Duration `toml:"greet_delay" doc:"how long a client has to wait for the greeting; one that speaks before is turned away; 0: not at all"`
	DataTimeout        units.Duration `toml:"data_timeout" doc:"how long a client may say nothing in the middle of a message"`
	TransactionTimeout units.Duration `toml:"transaction_timeout" doc:"how long a message may take to arrive"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		MaxSize:            50 * units.MB,
		MaxRecipients:      100,
		MaxHeader:          1 * units.MB,
		MaxHeaderFields:    5000,
		MaxLine:            1 * units.MB,
		MaxReceived:        100, // RFC 5321 section 6.3: at least
		MaxErrors:          10,
		MaxRefused:         50,
		RefuseDelay:        units.Of(time.Second),
		DataTimeout:        units.Of(3 * time.Minute), // RFC 5321 section 4.5.3.2.5
		TransactionTimeout: units.Of(30 * time.Minute),
	}
}

// maxMaxSize is the largest max_size: the library announces and reads sizes of 32 bits.
const maxMaxSize = 2 * units.GB

// Validate returns all problems as joined *pipeline.FieldError. RFC 5321 section 4.5.3.1 wants 64 KB, 100 recipients and
// 100 Received fields to be accepted; who sets less knows their peers.
func (c *Config) Validate() error {
	var errs []error
	size := func(key string, value, least, most units.Size) {
		if value < least || value > most {
			errs = append(errs, &pipeline.FieldError{Key: key,
				Problem: fmt.Sprintf("is %s, expected %s to %s", value, least, most)})
		}
	}
	number := func(key string, value, least int) {
		if value < least {
			errs = append(errs, &pipeline.FieldError{Key: key,
				Problem: fmt.Sprintf("is %d, expected at least %d", value, least)})
		}
	}
	span := func(key string, value units.Duration, least, most time.Duration) {
		if value.Std() < least || value.Std() > most {
			errs = append(errs, &pipeline.FieldError{Key: key,
				Problem: fmt.Sprintf("is %s, expected %s to %s", value, units.Of(least), units.Of(most))})
		}
	}
	size("max_size", c.MaxSize, units.KB, maxMaxSize)
	number("max_recipients", c.MaxRecipients, 1)
	size("max_header", c.MaxHeader, units.KB, units.Size(pipeline.MaxHeader))
	number("max_header_fields", c.MaxHeaderFields, 10)
	size("max_line", c.MaxLine, 1000, maxMaxSize) // RFC 5321 section 4.5.3.1.6
	number("max_received", c.MaxReceived, 1)
	number("max_errors", c.MaxErrors, 1)
	number("max_refused", c.MaxRefused, 1)
	span("refuse_delay", c.RefuseDelay, 0, time.Minute)
	span("greet_delay", c.GreetDelay, 0, time.Minute)
	span("data_timeout", c.DataTimeout, time.Second, time.Hour)
	span("transaction_timeout", c.TransactionTimeout, time.Second, units.Day)
	return errors.Join(errs...)
}
