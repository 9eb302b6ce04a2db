package config

import (
	"path/filepath"
	"time"

	"github.com/sluicemail/sluice/pipeline/authenticate"
	"github.com/sluicemail/sluice/pipeline/deliver"
	"github.com/sluicemail/sluice/pipeline/listen"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/report"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/account"
)

// Config is sluice.toml: every room's Config side by side.
type Config struct {
	Hostname    string     `toml:"hostname" doc:"this server's full name in greetings, Received fields and Message-IDs; unset: what the machine calls itself"`
	DataDir     string     `toml:"data_dir" sluice:"path" doc:"where everything is kept: the store, the queue, plugins' state, the control socket"`
	User        string     `toml:"user" doc:"started as root, become this user once the ports are open; data_dir becomes its own; empty: stay who we are"`
	PluginUser  string     `toml:"plugin_user" doc:"started as root, run plugins as this user, who cannot reach what is the server's; empty: as the server's own user"`
	Postmaster  string     `toml:"postmaster" doc:"where mail for <Postmaster> without a domain goes; empty: postmaster at the only domain that is delivered here"`
	MaxBuffered units.Size `toml:"max_buffered" doc:"memory for message content of all transactions together; beyond it content goes to files"`
	Shadow      units.Size `toml:"shadow_memory" doc:"memory for message content that waits for plugins in shadow mode, all together; what does not fit is not asked about, and counted as busy"`
	MinFree     units.Size `toml:"min_free" doc:"refuse new mail when the disk has less left; 0: 1 GiB or four memtables, whichever is more"`

	TLS      TLS                  `toml:"tls" doc:"the certificate that listeners show; without this table one is made in data_dir, signed by itself"`
	Log      Log                  `toml:"log" doc:"what is logged to standard error, and how"`
	DNS      resolver.Config      `toml:"dns" doc:"who is asked for names"`
	Storage  storage.Config       `toml:"storage" doc:"what the store may take"`
	Login    account.Config       `toml:"login" doc:"how logins are verified"`
	Alerts   Alerts               `toml:"alerts" doc:"what the administrator is told of, in the log and by mail to postmaster"`
	Listener map[string]*Listener `toml:"listener" doc:"a port that we listen on, under a name of your own"`
	Domain   map[string]*Domain   `toml:"domain" doc:"a domain whose mail is delivered here"`
	Relay    map[string]*Relay    `toml:"relay" doc:"a fixed next hop for a domain; \".example.net\" is for its subdomains, \"*\" for everything else. It says where, never who may"`
	Forward  route.Forward        `toml:"forward" doc:"how mail that an alias sends elsewhere leaves"`
	Queue    queue.Limits         `toml:"queue" doc:"what the queue may take, for all pipelines together"`

	Destination map[string]*Destination `toml:"destination" doc:"what is different for mail to a domain; \".example.net\" is for its subdomains, of which the nearest counts"`

	Reports report.Config `toml:"reports" doc:"what we tell other mail servers about their mail and their TLS; nothing unless switched on"`

	Plugin   map[string]*pluginhost.Config `toml:"plugin" doc:"a plugin process, under the name by which pipelines ask for it"`
	Pipeline map[string]*Pipeline          `toml:"pipeline" doc:"the seven stages' settings; inbound and outbound exist unwritten"`

	Path     string   `toml:"-"` // the file it was read from, "" if none
	Warnings Problems `toml:"-"`

	src     *source
	written map[string]string // domains by their canonical name: as the file has them
	forward []string          // the first key that leads to another server
}

// TLS is [tls].
type TLS struct {
	Certificate string `toml:"certificate" sluice:"path" doc:"certificate chain in PEM, this server's own first"`
	Key         string `toml:"key" sluice:"path" doc:"its private key in PEM"`
}

// Log is [log].
type Log struct {
	Level  string `toml:"level" oneof:"debug info warn error" doc:"the least important line that is written: debug, info, warn or error"`
	Format string `toml:"format" oneof:"text json" doc:"text (key=value) or json (an object a line)"`
}

// Listener is [listener.NAME]. What all protocols have in common belongs to package listen.
type Listener struct {
	Protocol   string `toml:"protocol" oneof:"smtp submission lmtp imap pop3 admin" doc:"smtp (mail from other servers), submission (mail from our users), lmtp, imap, pop3 or admin"`
	Address    string `toml:"address" doc:"\"host:port\"; port 0 takes a free one, and the line msg=ready says which"`
	TLS        string `toml:"tls" oneof:"none starttls implicit" doc:"none, starttls (the client asks for it) or implicit (from the first octet)"`
	Pipeline   string `toml:"pipeline" doc:"smtp, submission and lmtp: the pipeline that mail goes through; unset: outbound for submission, else inbound"`
	AllowPlain bool   `toml:"allow_plaintext_login" doc:"submission, imap and pop3: allow passwords without TLS; true only makes sense on loopback"`
	AllowAdmin bool   `toml:"allow_admin_from_network" doc:"admin: let other machines read the metrics, without a login; otherwise the address has to be loopback"`
	listen.Config
}

// Alerts is [alerts].
type Alerts struct {
	After units.Duration `toml:"after" doc:"a plugin that has failed every question, or has not run, for so long is a reason for an alert"`
	Mail  bool           `toml:"mail" doc:"write alerts to postmaster too, at most one message a day about the same thing"`
}

// Domain is [domain."NAME"]. Who gets its mail belongs to package route.
type Domain struct {
	DKIM authenticate.Signing `toml:"dkim" doc:"how mail from this domain is signed; sluice dkim new makes the keys"`
	route.Domain
}

// Relay is [relay."DOMAIN"]. It belongs to package route.
type Relay struct {
	route.Relay
}

// Destination is [destination."DOMAIN"]: how the queue and deliver treat mail to a domain.
type Destination struct {
	QueueDestination
	DeliverDestination
}

// Two structs of one name can't be embedded side by side; these are the names that they have here.
type (
	QueueDestination   = queue.Destination
	DeliverDestination = deliver.Destination
)

// Default returns what an empty file means: no listener, no domain, and both unwritten pipelines.
func Default() *Config {
	return &Config{
		DataDir:     "data",
		MaxBuffered: 64 * units.MB,
		Shadow:      16 * units.MB,
		Log:         Log{Level: "info", Format: "text"},
		DNS:         resolver.DefaultConfig(),
		Storage:     storage.DefaultConfig(),
		Login:       account.DefaultConfig(),
		Alerts:      Alerts{After: units.Of(30 * time.Second), Mail: true},
		Reports:     report.DefaultConfig(),
		Queue:       queue.DefaultLimits(),
		Pipeline:    map[string]*Pipeline{"inbound": DefaultPipeline(), "outbound": DefaultPipeline()},
	}
}

// setDefaults fills a named table that the file begins with what holds for the keys that it does not set. values are the
// keys that it does set.
func setDefaults(table any, name string, values map[string]any) {
	switch t := table.(type) {
	case *Listener:
		protocol, _ := values["protocol"].(string)
		*t = *DefaultListener(protocol)
	case *Domain:
		*t = *DefaultDomain()
	case *Relay:
		t.Relay = route.DefaultRelay()
	case *Pipeline:
		*t = *DefaultPipeline()
	case *pluginhost.Config:
		*t = pluginhost.DefaultConfig()
		t.Name = name
	}
}

// DefaultListener returns a listener of that protocol as an otherwise empty table means it (RULES D3).
func DefaultListener(protocol string) *Listener {
	l := &Listener{Protocol: protocol, TLS: "starttls", Config: listen.DefaultConfig()}
	switch protocol {
	case "smtp", "lmtp":
		l.Pipeline = "inbound"
	case "submission":
		l.Pipeline = "outbound"
	case "admin":
		l.TLS = "none"
	}
	return l
}

// DefaultDomain returns a domain as an empty table means it.
func DefaultDomain() *Domain {
	return &Domain{DKIM: authenticate.DefaultSigning(), Domain: route.DefaultDomain()}
}

// LockFile is the file whose lock says who has the store open.
func (c *Config) LockFile() string { return filepath.Join(c.DataDir, "lock") }
