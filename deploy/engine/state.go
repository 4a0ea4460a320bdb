package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends/docker"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// State is the state of a unit.
type State struct {
	Known      bool   // its file exists
	Active     string // active, activating, inactive or failed
	Sub        string // in the engine's terms
	Result     string // success, exit-code or oom-kill, once it ended
	Code       int    // exit code
	PID        int
	Restarts   int
	Since      time.Time
	LastOutput string   // output of its image's health check, if that failed
	Drift      []string // differences from its file, one sentence each

	StopSignal  string        // that stops it
	StopTimeout time.Duration // after which it is killed
}

// State returns the state of a unit.
func (e *Engine) State(ctx context.Context, unit string) (State, error) {
	var out State
	if _, err := os.Lstat(filepath.Join(docker.Dir, unit)); err == nil {
		out.Known = true
	}
	switch docker.Kind(unit) {
	case ".probe":
		e.mu.Lock()
		code, is := e.probeResults[unit]
		e.mu.Unlock()
		if out.Active = "inactive"; is && code != 0 {
			out.Active, out.Result, out.Code = "failed", "exit-code", code
		}
		return out, nil
	case ".container", ".once", ".cron", ".pod":
	default:
		out.Active = "inactive"
		return out, nil
	}
	err := e.withRetry(ctx, func(api *client.Client) error {
		have, err := inspect(ctx, api, unit)
		if err != nil {
			return err
		}
		out.set(have)
		if have != nil && docker.Kind(unit) == ".container" {
			out.Drift = drift(unit, have)
			var c docker.Container
			if _, err := readUnit(unit, &c); err == nil && c.Pod != "" && have.State.Running && !e.inPodNetwork(ctx, api, have, c.Pod) {
				out.Drift = append(out.Drift, docker.Name(unit)+" is not in the network of its group")
			}
		}
		return nil
	})
	return out, err
}

func (s *State) set(have *container.InspectResponse) {
	s.Active = "inactive"
	if have == nil || have.State == nil {
		s.Sub = "absent"
		return
	}
	st := have.State
	s.Sub, s.Code, s.PID, s.Restarts = string(st.Status), st.ExitCode, st.Pid, have.RestartCount
	s.StopSignal, s.StopTimeout = "SIGTERM", 10*time.Second // the engine's defaults
	if c := have.Config; c != nil {
		if c.StopSignal != "" {
			s.StopSignal = c.StopSignal
		}
		if c.StopTimeout != nil {
			s.StopTimeout = time.Duration(*c.StopTimeout) * time.Second
		}
	}
	started, _ := time.Parse(time.RFC3339Nano, st.StartedAt)
	ended, _ := time.Parse(time.RFC3339Nano, st.FinishedAt)
	if s.Since = started.UTC(); !st.Running && ended.Year() > 1 {
		s.Since = ended.UTC()
	}
	result := func() string {
		switch {
		case st.OOMKilled:
			return "oom-kill"
		case st.ExitCode != 0:
			return "exit-code"
		}
		return "success"
	}
	switch {
	case st.Status == container.StateCreated:
		s.Since = time.Time{}
	case st.Restarting:
		if s.Active = "activating"; have.RestartCount >= 5 {
			s.Active = "failed"
		}
		s.Result = result()
	case st.Running:
		s.Active = "active"
		if have.RestartCount > 0 && time.Since(started) < time.Second {
			s.Active, s.Sub = "activating", "restarted"
		}
		if h := st.Health; h != nil && s.Active == "active" {
			switch h.Status {
			case container.Starting:
				s.Active, s.Sub = "activating", "health"
			case container.Unhealthy:
				s.Sub = "unhealthy"
				if n := len(h.Log); n > 0 {
					output := strings.TrimSpace(h.Log[n-1].Output)
					s.LastOutput = output[max(0, len(output)-500):]
				}
			}
		}
	default:
		if s.Result = result(); s.Result != "success" {
			s.Active = "failed"
		}
	}
}

// drift compares a container with its file, as far as a running container can be changed by
// hand.
func drift(unit string, have *container.InspectResponse) []string {
	var c docker.Container
	d, err := readUnit(unit, &c)
	if err != nil {
		return nil // the owner of the file reports its absence
	}
	var out []string
	add := func(format string, args ...any) {
		out = append(out, docker.Name(unit)+" "+fmt.Sprintf(format, args...))
	}
	if have.Config.Labels[docker.LabelDigest] != string(d) {
		add("was created from another version of its file")
	}
	if have.State.Paused {
		add("is paused")
	}
	if h := have.State.Health; h != nil && h.Status == container.Unhealthy {
		add("is unhealthy according to its image's health check")
	}
	h := have.HostConfig
	if string(h.RestartPolicy.Name) != c.Restart {
		add("has restart policy %s, not %s", h.RestartPolicy.Name, c.Restart)
	}
	own := container.HostConfig{} // what the user set in docker: settings
	if len(c.Host) > 0 {
		json.Unmarshal(c.Host, &own)
	}
	if h.Memory != c.Memory && own.Memory == 0 {
		add("may use %d bytes of memory, not %d", h.Memory, c.Memory)
	}
	if h.NanoCPUs != c.NanoCPUs {
		add("may use %g cores, not %g", float64(h.NanoCPUs)/1e9, float64(c.NanoCPUs)/1e9)
	}
	if have.NetworkSettings != nil && c.Network != "" && c.Network != "host" && have.State.Running {
		if _, in := have.NetworkSettings.Networks[c.Network]; !in {
			add("was disconnected from the network %s", c.Network)
		}
		for name := range have.NetworkSettings.Networks {
			if name != c.Network {
				add("was connected to the network %s", name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Hosts returns the addresses at which a unit's own process listens; nil if it uses the
// machine's network.
func (e *Engine) Hosts(ctx context.Context, unit string) ([]string, error) {
	var c docker.Container
	if _, err := readUnit(unit, &c); err != nil {
		return nil, err
	}
	if c.Network == "host" {
		return nil, nil
	}
	if c.Pod != "" {
		unit = c.Pod
	}
	var out []string
	err := e.withRetry(ctx, func(api *client.Client) error {
		have, err := inspect(ctx, api, unit)
		if err != nil || have == nil || have.NetworkSettings == nil {
			return err
		}
		for _, n := range have.NetworkSettings.Networks {
			if n.IPAddress.IsValid() && !n.IPAddress.IsUnspecified() {
				out = append(out, n.IPAddress.String())
			}
		}
		slices.Sort(out)
		return nil
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("its container has no address: it is not running")
	}
	return out, err
}

// Orphans returns what carries the labels of a scope ("" = any) and belongs to no known
// unit: containers, networks, and volumes that no container mounts.
func (e *Engine) Orphans(ctx context.Context, scope string, known func(unit string) bool) ([]string, error) {
	var out []string
	err := e.withRetry(ctx, func(api *client.Client) error {
		containers, networks, err := orphans(ctx, api, scope, known)
		if err != nil {
			return err
		}
		res, err := api.VolumeList(ctx, client.VolumeListOptions{Filters: labelFilter(docker.LabelScope, scope).Add("dangling", "true")})
		if err != nil {
			return err
		}
		out = nil
		for _, c := range containers {
			out = append(out, "container "+c)
		}
		for _, n := range networks {
			out = append(out, "network "+n)
		}
		for _, v := range res.Items {
			out = append(out, "volume "+v.Name)
		}
		slices.Sort(out)
		return nil
	})
	return out, err
}

// orphans returns containers and networks that belong to no known unit, by name.
func orphans(ctx context.Context, api *client.Client, scope string, known func(unit string) bool) (containers, networks []string, err error) {
	list, err := labelled(ctx, api, docker.LabelScope, scope)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range list {
		if u := c.Labels[docker.LabelUnit]; !known(u) && !(c.State == container.StateRunning && c.Labels[docker.LabelAddress] != "" && isJob(c, known)) {
			containers = append(containers, strings.TrimPrefix(c.Names[0], "/"))
		}
	}
	nets, err := api.NetworkList(ctx, client.NetworkListOptions{Filters: labelFilter(docker.LabelScope, scope)})
	if err != nil {
		return nil, nil, err
	}
	for _, n := range nets.Items {
		if !known(n.Labels[docker.LabelUnit]) {
			networks = append(networks, n.Name)
		}
	}
	slices.Sort(containers)
	slices.Sort(networks)
	return containers, networks, nil
}

// isJob reports whether a container is an earlier version of a job that is still running.
func isJob(c container.Summary, known func(string) bool) bool {
	return known(c.Labels[docker.LabelBase]+".cron") || known(c.Labels[docker.LabelBase]+".job")
}
