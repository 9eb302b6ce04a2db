package pluginhost

import "os/exec"

// Command returns the process that a host would start for a plugin, with the same environment and
// enclosure (RULES C4), ready to start: for `sluice plugin check`, which speaks with plugins as no host would. The
// handshake's variables are added to the environment as they are. dir is the configuration's directory, socketDir an
// empty one of the caller's, which the caller removes; stateDir may be empty. The thread that starts it has to live as
// long as the plugin shall: see starter.
func Command(c *Config, dir, stateDir, socketDir string, handshake []string) (*exec.Cmd, error) {
	l := &launch{config: c, options: &Options{}, dir: dir, stateDir: stateDir}
	spec, err := l.spec()
	if err != nil {
		return nil, err
	}
	return spec.command(l, handshake, socketDir)
}
