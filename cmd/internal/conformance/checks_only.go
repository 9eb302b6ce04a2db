package conformance

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/sluicemail/sluice/sdk/wire"
)

// checkOnly lets the plugin look at settings as sluice check does: in a process of its own, with a state directory of its own.
func checkOnly(ctx context.Context, r *run) (string, error) {
	const key = "sluice-check-unknown"
	unknown := map[string]any{key: "x"}
	for k, v := range r.Plugin.Config {
		unknown[k] = v
	}
	complaints, err := r.onlyCheck(ctx, r.Plugin.Config)
	if err != nil {
		return "", err
	}
	if len(complaints) > 0 {
		return "", fmt.Errorf("a complaint about config.%s: %s", complaints[0].GetKey(), printable(complaints[0].GetProblem(), 300))
	}
	if complaints, err = r.onlyCheck(ctx, unknown); err != nil {
		return "", err
	}
	if !slices.ContainsFunc(complaints, func(c *wire.SettingError) bool { return c.GetKey() == key }) {
		return "", fmt.Errorf("%d complaints, none of them about %s", len(complaints), key)
	}
	return "", nil
}

// onlyCheck configures a new process with check_only and returns its complaints. What that adds to the state directory is an error.
func (r *run) onlyCheck(ctx context.Context, config map[string]any) ([]*wire.SettingError, error) {
	state, err := os.MkdirTemp(r.dir, "only-*")
	if err != nil {
		return nil, fmt.Errorf("make a state directory: %w", err)
	}
	p, err := r.dialed(ctx, state)
	if err != nil {
		return nil, err
	}
	defer p.end()
	if _, err := p.describe(ctx); err != nil {
		return nil, err
	}
	before := filesIn(state)
	table, err := wire.ToTable(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	answer, err := p.client.Configure(ctx, &wire.ConfigureRequest{Config: table, StateDir: state, Lanes: uint32(r.lanes), Dir: r.Dir, CheckOnly: true})
	if err != nil {
		return nil, rpcError("Configure", err, p)
	}
	for _, name := range filesIn(state) {
		if !slices.Contains(before, name) {
			return nil, fmt.Errorf("%s was made in state_dir", printable(name, 100))
		}
	}
	return answer.GetErrors(), nil
}

// filesIn lists what is below a directory.
func filesIn(dir string) (names []string) {
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, relErr := filepath.Rel(dir, path); err == nil && relErr == nil {
			names = append(names, name)
		}
		return nil
	})
	return names
}
