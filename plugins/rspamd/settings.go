package rspamd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/dial"
	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

// settings is [plugin.NAME.config]; README.md says what each key means.
type settings struct {
	URL                string                `config:"url"`
	Password           string                `config:"password"`
	Controller         string                `config:"controller"`
	ControllerPassword string                `config:"controller_password"`
	Timeout            time.Duration         `config:"timeout"`
	MaxSize            sdk.Octets            `config:"max_size"`
	SettingsID         string                `config:"settings_id"`
	Settings           string                `config:"settings"`
	Scale              float64               `config:"scale"`
	UseActions         bool                  `config:"use_actions"`
	Actions            map[string]sdk.Action `config:"actions"`
	Fields             bool                  `config:"fields"`
	RewriteSubject     bool                  `config:"rewrite_subject"`
	AllSymbols         bool                  `config:"all_symbols"`
}

// defaultActions says what each of rspamd's actions is for us. "greylist" is no objection: rspamd's
// greylisting asks for a delay by "soft reject", and where it is off "greylist" is said of
// every message with that score, however often it comes; deferring it would be for ever.
func defaultActions() map[string]sdk.Action {
	return map[string]sdk.Action{
		"no action":       sdk.Accept,
		"greylist":        sdk.Accept,
		"add header":      sdk.Junk,
		"rewrite subject": sdk.Junk,
		"soft reject":     sdk.Defer,
		"quarantine":      sdk.Quarantine,
		"discard":         sdk.Quarantine, // a message is never lost unless the administrator says so
		"reject":          sdk.Reject,
	}
}

// configure reads the settings; the error joins a *sdk.SettingError for each problem.
// learn is nil without a controller.
func configure(s sdk.Settings) (set settings, scan endpoint, learn *endpoint, err error) {
	set = settings{URL: "http://127.0.0.1:11333", Scale: 1, UseActions: true, Fields: true}
	problems := []error{s.Decode(&set)}
	bad := func(key, format string, args ...any) {
		problems = append(problems, &sdk.SettingError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	scan, scanErr := parseEndpoint("url", set.URL, s.Dir)
	problems = append(problems, scanErr)
	if set.Controller != "" {
		at, controllerErr := parseEndpoint("controller", set.Controller, s.Dir)
		learn = &at
		problems = append(problems, controllerErr)
	} else if set.ControllerPassword != "" {
		bad("controller_password", "there is no controller to send it to; set controller too")
	}
	if set.Timeout < 0 {
		bad("timeout", "%v, expected 0 (the question's time) or more", set.Timeout)
	}
	if !(set.Scale > 0) || math.IsInf(set.Scale, 0) || set.Scale > 1000 {
		bad("scale", "%v, expected more than 0 and at most 1000", set.Scale)
	}
	for key, value := range map[string]string{"password": set.Password, "controller_password": set.ControllerPassword, "settings_id": set.SettingsID} {
		if plain.Value(value) != value {
			bad(key, "has characters that cannot be in a header field of HTTP")
		}
	}
	if set.Settings != "" {
		var compact bytes.Buffer
		var object map[string]json.RawMessage
		if json.Unmarshal([]byte(set.Settings), &object) != nil || json.Compact(&compact, []byte(set.Settings)) != nil || object == nil {
			bad("settings", "expected a JSON object such as '{\"groups_disabled\":[\"rbl\"]}'")
		}
		set.Settings = compact.String()
	}
	actions := defaultActions()
	for _, name := range slices.Sorted(maps.Keys(set.Actions)) {
		if strings.TrimSpace(name) == "" {
			bad("actions", "the name of an action is empty")
		}
		actions[name] = set.Actions[name] // rspamd may have actions of the administrator's own
	}
	set.Actions = actions
	return set, scan, learn, errors.Join(problems...)
}

// endpoint is where a worker of rspamd listens.
type endpoint struct {
	url  string        // without a slash at the end; the host is "rspamd" for a unix socket
	unix *dial.Address // nil: as the URL says
}

// String returns the place for messages: a URL without a user, or unix:/path.
func (e endpoint) String() string {
	if e.unix != nil {
		return e.unix.String()
	}
	return e.url
}

func parseEndpoint(key, text, dir string) (endpoint, error) {
	if strings.HasPrefix(text, "unix:") {
		at, err := dial.Parse(key, text, dir)
		if err != nil {
			return endpoint{}, err
		}
		return endpoint{url: "http://rspamd", unix: &at}, nil
	}
	u, err := url.Parse(text)
	if err == nil && u.Port() != "" {
		var port uint64
		if port, err = strconv.ParseUint(u.Port(), 10, 16); port == 0 {
			err = errors.New("no port")
		}
	}
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return endpoint{}, &sdk.SettingError{
			Key: key, Problem: fmt.Sprintf("%q, expected \"http://host:port\", \"https://host:port\" or \"unix:/path\"", text),
		}
	}
	return endpoint{url: strings.TrimSuffix(u.String(), "/")}, nil
}
