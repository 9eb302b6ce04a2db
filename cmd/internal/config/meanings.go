package config

// meanings say what the keys of a room's Config are for where its struct has no doc tags.
var meanings = map[string]string{
	"plugin.*.command":    "the program and its arguments; command[0] is relative to this file, or looked up in PATH when it has no slash",
	"plugin.*.builtin":    "a plugin inside this program, in place of command",
	"plugin.*.sha256":     "the SHA-256 of the program, checked at each start; empty: not checked",
	"plugin.*.files":      "further files that belong to the plugin, each with its SHA-256, or \"\" for unchecked",
	"plugin.*.timeout":    "how long one answer may take",
	"plugin.*.lanes":      "questions at the same time; the plugin's own limit holds too",
	"plugin.*.on_failure": "when it fails: accept, junk, quarantine, defer or reject; empty: the stage's default, which is accept in anti-spam and defer in anti-virus and route",
	"plugin.*.on_timeout": "when it does not answer in time; empty: as on_failure",
	"plugin.*.on_crash":   "when its process dies; empty: as on_failure",
	"plugin.*.mode":       "enforce, shadow (asked and recorded, never obeyed or waited for) or off",
	"plugin.*.memory":     "memory that its process may have; 0: no limit",
	"plugin.*.read":       "files and directories that it may read beside its own and the system's",
	"plugin.*.config":     "handed to the plugin, which knows its own keys",

	"dns.servers":       "\"address:port\" of the servers to ask, in this order; empty: the system's",
	"dns.timeout":       "how long one server has for one answer",
	"dns.deadline":      "how long one look-up may take altogether",
	"dns.cache_entries": "answers that are remembered at most; 0: none",
	"dns.cache_size":    "memory that remembered answers may take",
	"dns.max_ttl":       "how long an answer is believed at most, whatever its zone says",
	"dns.negative_ttl":  "how long the absence of a name is believed at most",
	"dns.trust_ad":      "the servers check DNSSEC and nobody is between them and us, so their word for it is taken",

	"pipeline.*.authenticate.spf":   "check SPF (RFC 7208)",
	"pipeline.*.authenticate.dkim":  "check DKIM signatures (RFC 6376)",
	"pipeline.*.authenticate.dmarc": "off, report (say what the policy would do) or enforce (do it)",
	"storage.inline_limit":          "messages up to this size are kept inside the store's engine, larger ones in files",
	"storage.cache_accounts":        "accounts whose state is kept in memory",
	"storage.cache_size":            "memory that this state may take",
	"storage.max_mailboxes":         "mailboxes in one account",
}
