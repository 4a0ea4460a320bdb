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

// State is how a unit is.
type State struct {
	Known      bool   // its file is there
	Active     string // active, activating, inactive or failed
	Sub        string // in the engine's words
	Result     string // success, exit-code or oom-kill, once it ended
	Code       int    // that it ended with
	PID        int
	Restarts   int
	Since      time.Time
	LastOutput string   // by its image's own health check that found it unhealthy
	Drift      []string // what is not as it was made, one sentence each
}

// State tells how a unit is.
func (e *Engine) State(ctx context.Context, unit string) (State, error) {
	var out State
	if _, err := os.Lstat(filepath.Join(docker.Dir, unit)); err == nil {
		out.Known = true
	}
	switch docker.Kind(unit) {
	case ".probe":
		e.mu.Lock()
		code, is := e.looked[unit]
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
	err := e.lasting(ctx, func(api *client.Client) error {
		have, err := find(ctx, api, unit)
		if err != nil {
			return err
		}
		out.of(have)
		if have != nil && docker.Kind(unit) == ".container" {
			out.Drift = drift(unit, have)
			var c docker.Container
			if _, err := read(unit, &c); err == nil && c.Pod != "" && have.State.Running && !e.together(ctx, api, have, c.Pod) {
				out.Drift = append(out.Drift, docker.Name(unit)+" is not in the network of its group")
			}
		}
		return nil
	})
	return out, err
}

func (s *State) of(have *container.InspectResponse) {
	s.Active = "inactive"
	if have == nil || have.State == nil {
		s.Sub = "absent"
		return
	}
	st := have.State
	s.Sub, s.Code, s.PID, s.Restarts = string(st.Status), st.ExitCode, st.Pid, have.RestartCount
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
					said := strings.TrimSpace(h.Log[n-1].Output)
					s.LastOutput = said[max(0, len(said)-500):]
				}
			}
		}
	default:
		if s.Result = result(); s.Result != "success" {
			s.Active = "failed"
		}
	}
}

// drift holds a container against what it was made of: what can be changed by
// hand while it stands.
func drift(unit string, have *container.InspectResponse) []string {
	var c docker.Container
	d, err := read(unit, &c)
	if err != nil {
		return nil // the file's absence is told of by whoever owns it
	}
	var out []string
	say := func(format string, args ...any) {
		out = append(out, docker.Name(unit)+" "+fmt.Sprintf(format, args...))
	}
	if have.Config.Labels[docker.LabelDigest] != string(d) {
		say("was made of another file")
	}
	if have.State.Paused {
		say("is paused")
	}
	if h := have.State.Health; h != nil && h.Status == container.Unhealthy {
		say("is unhealthy, as its image says")
	}
	h := have.HostConfig
	if string(h.RestartPolicy.Name) != c.Restart {
		say("has restart policy %s, not %s", h.RestartPolicy.Name, c.Restart)
	}
	own := container.HostConfig{} // what the user set by the engine's own words
	if len(c.Host) > 0 {
		json.Unmarshal(c.Host, &own)
	}
	if h.Memory != c.Memory && own.Memory == 0 {
		say("may use %d bytes of memory, not %d", h.Memory, c.Memory)
	}
	if h.NanoCPUs != c.NanoCPUs {
		say("may use %g cores, not %g", float64(h.NanoCPUs)/1e9, float64(c.NanoCPUs)/1e9)
	}
	if have.NetworkSettings != nil && c.Network != "" && c.Network != "host" && have.State.Running {
		if _, in := have.NetworkSettings.Networks[c.Network]; !in {
			say("is not in the network %s any more", c.Network)
		}
		for name := range have.NetworkSettings.Networks {
			if name != c.Network {
				say("was put into the network %s", name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Hosts gives the addresses under which a unit's ports answer, as the process
// itself listens; nil if it has none of its own.
func (e *Engine) Hosts(ctx context.Context, unit string) ([]string, error) {
	var c docker.Container
	if _, err := read(unit, &c); err != nil {
		return nil, err
	}
	if c.Network == "host" {
		return nil, nil
	}
	if c.Pod != "" {
		unit = c.Pod
	}
	var out []string
	err := e.lasting(ctx, func(api *client.Client) error {
		have, err := find(ctx, api, unit)
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
		err = fmt.Errorf("its container has no address: it does not run")
	}
	return out, err
}

// Orphans lists what is there in the name of a scope ("" = all) and nothing known
// leads to: containers, networks, and volumes that nobody mounts.
func (e *Engine) Orphans(ctx context.Context, scope string, known func(unit string) bool) ([]string, error) {
	var out []string
	err := e.lasting(ctx, func(api *client.Client) error {
		containers, networks, err := orphans(ctx, api, scope, known)
		if err != nil {
			return err
		}
		res, err := api.VolumeList(ctx, client.VolumeListOptions{Filters: labelled(docker.LabelScope, scope).Add("dangling", "true")})
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

// orphans gives those that nobody would miss, by their names.
func orphans(ctx context.Context, api *client.Client, scope string, known func(unit string) bool) (containers, networks []string, err error) {
	list, err := ours(ctx, api, docker.LabelScope, scope)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range list {
		if u := c.Labels[docker.LabelUnit]; !known(u) && !(c.State == container.StateRunning && c.Labels[docker.LabelAddress] != "" && isJob(c, known)) {
			containers = append(containers, strings.TrimPrefix(c.Names[0], "/"))
		}
	}
	nets, err := api.NetworkList(ctx, client.NetworkListOptions{Filters: labelled(docker.LabelScope, scope)})
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

// isJob tells whether a container is an earlier version of a job that comes to its end.
func isJob(c container.Summary, known func(string) bool) bool {
	return known(c.Labels[docker.LabelBase]+".cron") || known(c.Labels[docker.LabelBase]+".job")
}
