package conformance

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sluicemail/sluice/sdk/wire"
)

// none is the process of checks that start their own.
func none(context.Context, *run) (*process, error) { return nil, nil }

// checks lists all checks in their order.
func checks() []check {
	end := endChecks()
	after := slices.IndexFunc(end, func(c check) bool { return c.after })
	return slices.Concat(startChecks(), questionChecks(), laneChecks(), end[:after], wiredChecks(), end[after:])
}

// startChecks are about sections 1 and 2. The first three of them decide whether the others can be made at all.
func startChecks() []check {
	return []check{
		{
			name: "handshake", section: "1", process: none,
			sent: "the environment of section 1", expected: "the line 1|1|unix|SOCKET|grpc| within 10 s, as the first thing on standard output, with a socket in PLUGIN_UNIX_SOCKET_DIR",
			do: checkHandshake,
		},
		{
			name: "manifest", section: "2", process: none, skip: startable,
			sent: "Describe", expected: "a name of small letters, digits and hyphens, a version of at most 200 octets, at least one phase, and known values only",
			do: checkManifest,
		},
		{
			name: "settings", section: "2", process: none, skip: startable,
			sent: "Configure with the settings that you gave", expected: "no complaint",
			do: checkSettings,
		},
		{
			name: "manifest stays the same", section: "2",
			sent: "Describe before and after Configure", expected: "the same answer, for it must not depend on settings",
			do: checkSameManifest,
		},
		{
			name: "started by a person", section: "1", process: none,
			sent: "an environment without SLUICE_PLUGIN", expected: "a word of explanation, no handshake, and the end with a status that is not 0, within 5 s",
			do: checkByHand,
		},
		{
			name: "versions", section: "1", process: none, skip: startable,
			sent: "PLUGIN_PROTOCOL_VERSIONS=7,1", expected: "the choice of version 1",
			do: checkVersions,
		},
		{
			name: "unknown setting", section: "2", process: none, skip: startable,
			sent: "Configure with the key sluice-check-unknown beside your settings", expected: "a complaint about that key",
			do: checkUnknownSetting,
		},
		{
			name: "settings of wrong types", section: "2", process: none,
			sent: "Configure with a value of another type at each of your keys", expected: "a complaint about each key, all at once",
			do: checkWrongTypes, skip: func(r *run) string {
				if len(r.Plugin.Config) == 0 && r.broken == "" {
					return "no settings were given to twist; name a file with --config"
				}
				return r.broken
			},
		},
		{
			name: "settings, only checked", section: "2", process: none,
			sent:     "Configure with check_only, once with your settings and once with the key sluice-check-unknown beside them",
			expected: "no complaint, and one about that key; an empty state_dir stays empty", do: checkOnly, skip: func(r *run) string {
				if r.broken == "" && !r.manifest.GetCheckOnly() {
					return "its manifest does not have check_only, so that sluice check cannot let it look at its settings"
				}
				return r.broken
			},
		},
	}
}

// startable skips what needs a process, where none can be had.
func startable(r *run) string { return r.broken }

// missed is what programs say of a file that they can't read, though it may be there.
var missed = regexp.MustCompile(`(?i)no module named|cannot find module|modulenotfound|permission denied|permissionerror|eacces`)

func checkHandshake(ctx context.Context, r *run) (string, error) {
	begin := time.Now()
	p, err := r.dialed(ctx, r.state)
	if err != nil {
		r.broken = "it cannot be started"
		if len(r.Plugin.Read) == 0 && missed.MatchString(err.Error()) {
			err = fmt.Errorf("%w (it may read its program, those of its arguments that are files, and the system's; --read, or read in its table, gives it more)", err)
		}
		return "", err
	}
	defer p.end()
	return fmt.Sprintf("after %d ms", time.Since(begin).Milliseconds()), nil
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

func checkManifest(ctx context.Context, r *run) (string, error) {
	p, err := r.dialed(ctx, r.state)
	if err != nil {
		r.broken = "it cannot be started"
		return "", err
	}
	defer p.end()
	d, err := p.describe(ctx)
	if err != nil {
		r.broken = "it does not describe itself"
		return "", err
	}
	r.manifest, r.seen.manifest = d, d
	r.lanes = r.Plugin.Lanes
	if n := int(d.GetMaxLanes()); n > 0 {
		r.lanes = min(r.lanes, n)
	}
	if err := sane(d); err != nil {
		return "", err
	}
	var phases []string
	for _, p := range d.GetPhases() {
		phases = append(phases, phaseWord(p))
	}
	return fmt.Sprintf("%s %s, asked in %s, wants %s", d.GetName(), d.GetVersion(), strings.Join(phases, ", "),
		strings.ToLower(strings.TrimPrefix(d.GetWant().String(), "WANT_"))), nil
}

func sane(d *wire.DescribeResponse) error {
	if !nameForm.MatchString(d.GetName()) {
		return fmt.Errorf("the name %.80q", d.GetName())
	}
	if v := d.GetVersion(); len(v) > 200 || strings.ContainsFunc(v, unicode.IsControl) {
		return fmt.Errorf("the version %.80q, %d octets long or with control characters", v, len(v))
	}
	if len(d.GetPhases()) == 0 && len(d.GetEvents()) == 0 {
		return errors.New("neither phases nor events: it would never be asked anything")
	}
	for i, p := range d.GetPhases() {
		if _, ok := wire.Phase_name[int32(p)]; !ok || p == 0 || slices.Contains(d.GetPhases()[:i], p) {
			return fmt.Errorf("the phase %d, unknown or listed twice", p)
		}
	}
	for i, k := range d.GetEvents() {
		if _, ok := wire.EventKind_name[int32(k)]; !ok || k == 0 || slices.Contains(d.GetEvents()[:i], k) {
			return fmt.Errorf("the kind of event %d, unknown or listed twice", k)
		}
	}
	for i, k := range d.GetChanges() {
		if _, ok := wire.ChangeKind_name[int32(k)]; !ok || k == 0 || slices.Contains(d.GetChanges()[:i], k) {
			return fmt.Errorf("the kind of change %d, unknown or listed twice", k)
		}
	}
	if _, ok := wire.Want_name[int32(d.GetWant())]; !ok {
		return fmt.Errorf("want %d, expected 0, 1 or 2", d.GetWant())
	}
	if d.GetMaxContent() < 0 {
		return fmt.Errorf("max_content %d, expected none below 0", d.GetMaxContent())
	}
	return nil
}

func checkSettings(ctx context.Context, r *run) (string, error) {
	p, err := r.configured(ctx)
	if err != nil {
		r.broken = "it cannot be configured"
		if len(r.Plugin.Config) == 0 {
			return "", fmt.Errorf("%w (no settings were given; name a file that has some with --config)", err)
		}
		return "", err
	}
	p.fit, r.p = true, p
	return fmt.Sprintf("%d keys, %d lanes", len(r.Plugin.Config), r.lanes), nil
}

func checkSameManifest(ctx context.Context, r *run) (string, error) {
	for range 2 {
		d, err := r.p.describe(ctx)
		if err != nil {
			return "", err
		}
		d.LaneSocket, d.SharedSocket = r.manifest.GetLaneSocket(), r.manifest.GetSharedSocket() // they lie in a directory of each start's own
		if !proto.Equal(d, r.manifest) {
			return "", fmt.Errorf("first %s, then %s", printable(r.manifest.String(), 200), printable(d.String(), 200))
		}
	}
	return "", nil
}

func checkByHand(ctx context.Context, r *run) (string, error) {
	p, err := r.startRaw("", "PLUGIN_PROTOCOL_VERSIONS=1")
	if err != nil {
		return "", err
	}
	defer p.end()
	if !p.waitExit(5*time.Second + patience) {
		return "", errors.New("it runs on")
	}
	if code := p.cmd.ProcessState.ExitCode(); code == 0 {
		return "", errors.New("exit status 0")
	}
	select {
	case line := <-p.line:
		if strings.HasPrefix(line, "1|") {
			return "", fmt.Errorf("the handshake %.100q", line)
		}
	case <-ctx.Done():
	}
	return "", nil
}

func checkVersions(ctx context.Context, r *run) (string, error) {
	for _, try := range []struct {
		versions, expected string
		mayEnd             bool
	}{
		{"7,1", "the choice of version 1", false},
		{"1,7", "the choice of version 1", false},
		{"7", "your own version 1 (the host will say what is wrong), or the end", true},
	} {
		seen := func(err error) error {
			return &seenError{"PLUGIN_PROTOCOL_VERSIONS=" + try.versions, try.expected, err.Error()}
		}
		p, err := r.startRaw(r.state, handshake(try.versions)...)
		if err != nil {
			return "", err
		}
		limited, cancel := context.WithTimeout(ctx, startTime)
		line, err := p.greeting(limited)
		cancel()
		if err == nil {
			_, err = p.socketOf(line)
		} else if try.mayEnd && !p.alive() {
			err = nil
		}
		p.end()
		if err != nil {
			return "", seen(err)
		}
	}
	return "", nil
}

func checkUnknownSetting(ctx context.Context, r *run) (string, error) {
	const key = "sluice-check-unknown"
	p, err := r.dialed(ctx, r.state)
	if err != nil {
		return "", err
	}
	defer p.end()
	config := map[string]any{key: "x"}
	for k, v := range r.Plugin.Config {
		config[k] = v
	}
	complaints, err := r.settings(ctx, p, config)
	if err != nil {
		return "", err
	}
	for _, c := range complaints {
		if c.GetKey() == key {
			return printable(c.GetProblem(), 100), nil
		}
	}
	return "", fmt.Errorf("%d complaints, none of them about %s", len(complaints), key)
}

func checkWrongTypes(ctx context.Context, r *run) (string, error) {
	p, err := r.dialed(ctx, r.state)
	if err != nil {
		return "", err
	}
	defer p.end()
	twisted := make(map[string]any, len(r.Plugin.Config))
	for key, value := range r.Plugin.Config {
		twisted[key] = map[string]any{"sluice-check": true}
		if _, ok := value.(map[string]any); ok {
			twisted[key] = int64(7)
		}
	}
	complaints, err := r.settings(ctx, p, twisted)
	if err != nil {
		return "", err
	}
	for key := range twisted {
		if !slices.ContainsFunc(complaints, func(c *wire.SettingError) bool {
			return c.GetKey() == key || strings.HasPrefix(c.GetKey(), key+".")
		}) {
			return "", fmt.Errorf("no complaint about %q among %d", key, len(complaints))
		}
	}
	return fmt.Sprintf("%d complaints", len(complaints)), nil
}

// rpcError says why a call failed.
func rpcError(call string, err error, p *process) error {
	text := printable(status.Convert(err).Message(), 300)
	if p.waitExit(100 * time.Millisecond) {
		text += "; " + p.died()
	}
	return fmt.Errorf("%s failed: %s: %s", call, status.Code(err), text)
}
