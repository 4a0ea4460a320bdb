package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
)

// Cause is the kind of a Difference.
type Cause int

// Causes.
const (
	Missing Cause = iota + 1
	Stopped
	Failed
	Paused
	Restarting
	Unhealthy
	Changed
	NoNetwork
)

// Difference is one way in which a container differs from its file.
type Difference struct {
	Field  string // of the container, as "container.memory"; "" = the container as a whole
	Cause  Cause
	Detail string
}

// Comparison is what the comparison of a unit's container with its file found.
type Comparison struct {
	Running     bool // the container runs, whether or not it should
	Differences []Difference
}

// ScopeContainer is a container that defx made for a scope.
type ScopeContainer struct {
	Unit, Address string
	Running       bool
}

// maxInspections limits how many containers are inspected at once.
const maxInspections = 8

// Differences compares the containers, pods and networks of units with their files. Jobs are
// compared by the container of their schedule.
func (e *Engine) Differences(ctx context.Context, units []string) (map[string]Comparison, error) {
	out := map[string]Comparison{}
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, maxInspections)
	var all sync.WaitGroup
	for _, u := range units {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			var found Comparison
			err := e.withRetry(ctx, func(api *client.Client) error {
				var err error
				found, err = e.compareUnit(ctx, api, u)
				return err
			})
			mu.Lock()
			defer mu.Unlock()
			if out[u] = found; err != nil {
				errs = append(errs, err)
			}
		})
	}
	all.Wait()
	return out, errors.Join(errs...)
}

// compareUnit compares what runs for one unit with its file.
func (e *Engine) compareUnit(ctx context.Context, api *client.Client, unit string) (Comparison, error) {
	changed := func(field, detail string) Comparison {
		return Comparison{Differences: []Difference{{Field: field, Cause: Changed, Detail: detail}}}
	}
	switch docker.Kind(unit) {
	case ".network":
		var n docker.Network
		if _, err := readUnit(unit, &n); err != nil {
			return Comparison{}, nil // its file is compared by the agent
		}
		res, err := api.NetworkInspect(ctx, n.Name, client.NetworkInspectOptions{})
		switch {
		case errdefs.IsNotFound(err):
			return Comparison{Differences: []Difference{{Field: "network." + n.Name, Cause: NoNetwork}}}, nil
		case err != nil:
			return Comparison{}, err
		case res.Network.Labels[docker.LabelScope] != n.Scope:
			return changed("network."+n.Name, "it is not the one that defx made"), nil
		}
		return Comparison{}, nil
	case ".container", ".cron", ".pod":
	default:
		return Comparison{}, nil
	}
	have, err := inspect(ctx, api, unit)
	if foreign, is := errors.AsType[*foreignContainerError](err); is {
		return changed("container.labels", foreign.Error()), nil
	}
	if err != nil {
		return Comparison{}, err
	}
	if have == nil || have.State == nil || have.HostConfig == nil {
		return Comparison{Differences: []Difference{{Cause: Missing}}}, nil
	}
	out := Comparison{Running: have.State.Running}
	if d := stateDifference(have); d.Cause != 0 {
		out.Differences = append(out.Differences, d)
	}
	add := func(field, format string, args ...any) {
		out.Differences = append(out.Differences, Difference{Field: "container." + field, Cause: Changed, Detail: fmt.Sprintf(format, args...)})
	}
	var c docker.Container
	var file any = &c
	if docker.Kind(unit) != ".container" {
		file = new(json.RawMessage)
	}
	d, err := readUnit(unit, file)
	switch {
	case err != nil: // its file is compared by the agent
	case have.Config.Labels[docker.LabelDigest] != string(d):
		add("version", "it was created from another version of its file") // its fields differ because of that
	case docker.Kind(unit) == ".container":
		img, err := e.imageConfig(ctx, api, have.Image)
		if err != nil {
			return out, err
		}
		if err := e.compareContainer(ctx, api, unit, &c, have, img, add); err != nil {
			return out, err
		}
	}
	return out, nil
}

// stateDifference reports what the state of a container that should run says.
func stateDifference(have *container.InspectResponse) Difference {
	st := have.State
	ended := ""
	if at, err := time.Parse(time.RFC3339Nano, st.FinishedAt); err == nil && at.Year() > 1 {
		ended = "since " + at.UTC().Format("2006-01-02 15:04:05 MST")
	}
	started, _ := time.Parse(time.RFC3339Nano, st.StartedAt)
	switch {
	case st.Paused:
		return Difference{Field: "container.state", Cause: Paused}
	case st.Restarting, st.Running && have.RestartCount > 0 && time.Since(started) < 5*time.Second:
		return Difference{Field: "container.state", Cause: Restarting, Detail: fmt.Sprintf("%d times", have.RestartCount)}
	case st.Running:
		if h := st.Health; h != nil && h.Status == container.Unhealthy {
			return Difference{Field: "container.health", Cause: Unhealthy}
		}
		return Difference{}
	case st.OOMKilled:
		return Difference{Field: "container.state", Cause: Failed, Detail: strings.TrimSpace("out of memory " + ended)}
	case st.Error != "":
		return Difference{Field: "container.state", Cause: Failed, Detail: st.Error}
	case st.ExitCode != 0 && have.HostConfig.RestartPolicy.IsNone(): // otherwise the engine would have started it again, unless it was stopped
		return Difference{Field: "container.state", Cause: Failed, Detail: strings.TrimSpace(fmt.Sprintf("exit code %d %s", st.ExitCode, ended))}
	}
	return Difference{Field: "container.state", Cause: Stopped, Detail: ended}
}

// imageConfig returns the configuration of an image, which a container inherits; nil if the image
// is gone.
func (e *Engine) imageConfig(ctx context.Context, api *client.Client, id string) (*image.InspectResponse, error) {
	res, err := api.ImageInspect(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &res.InspectResponse, nil
}

// compareContainer compares the settings of a container with its file. What the file leaves open
// is compared with what an engine gives a new container.
func (e *Engine) compareContainer(ctx context.Context, api *client.Client, unit string, c *docker.Container, have *container.InspectResponse, img *image.InspectResponse, add func(field, format string, args ...any)) error {
	config, host, err := settings(unit, c)
	if err == nil {
		err = override(c, config, host)
	}
	if err != nil {
		return err
	}
	own := map[string]bool{} // what the user's docker settings name
	for _, raw := range []json.RawMessage{c.Config, c.Host} {
		var fields map[string]json.RawMessage
		json.Unmarshal(raw, &fields)
		for f := range fields {
			own[strings.ToLower(f)] = true
		}
	}
	same := func(field string, want, got any) {
		if w, g := asText(want), asText(got); w != g {
			add(field, "%s, not %s", g, w)
		}
	}
	hc, cc := have.HostConfig, have.Config
	wantImage := c.Image
	if wantImage == "" {
		if wantImage, err = builtImage(c.Build); err != nil {
			return err
		}
	}
	same("image", wantImage, cc.Image)
	entrypoint, command, user, dir := config.Entrypoint, config.Cmd, config.User, config.WorkingDir
	env, stop := config.Env, config.StopSignal
	if img != nil && img.Config != nil {
		if len(entrypoint) == 0 {
			entrypoint = img.Config.Entrypoint
			if len(command) == 0 {
				command = img.Config.Cmd
			}
		}
		if user == "" {
			user = img.Config.User
		}
		if dir == "" {
			dir = img.Config.WorkingDir
		}
		if stop == "" {
			stop = img.Config.StopSignal
		}
		env = mergeEnv(img.Config.Env, env)
		same("entrypoint", []string(entrypoint), []string(cc.Entrypoint))
		same("command", []string(command), []string(cc.Cmd))
		same("user", user, cc.User)
		same("workDir", strings.TrimSuffix(dir, "/"), strings.TrimSuffix(cc.WorkingDir, "/"))
		same("stopSignal", stop, cc.StopSignal)
		for _, v := range envDifferences(env, cc.Env) {
			add("env", "%s", v)
		}
	}
	if config.StopTimeout != nil || !own["stoptimeout"] {
		same("stopTimeout", pointed(config.StopTimeout), pointed(cc.StopTimeout))
	}
	same("restart", string(host.RestartPolicy.Name), string(hc.RestartPolicy.Name))
	same("readOnly", host.ReadonlyRootfs, hc.ReadonlyRootfs)
	same("capDrop", capabilities(host.CapDrop), capabilities(hc.CapDrop))
	same("capAdd", capabilities(host.CapAdd), capabilities(hc.CapAdd))
	same("securityOpt", sortedCopy(host.SecurityOpt), sortedCopy(withoutLabels(hc.SecurityOpt)))
	same("tmpfs", host.Tmpfs, hc.Tmpfs)
	if host.Memory != hc.Memory {
		add("memory", "may use %d bytes of memory, not %d", hc.Memory, host.Memory)
	}
	if host.NanoCPUs != hc.NanoCPUs {
		add("cpus", "may use %g cores, not %g", float64(hc.NanoCPUs)/1e9, float64(host.NanoCPUs)/1e9)
	}
	same("pidsLimit", max(0, pointed(host.PidsLimit)), max(0, pointed(hc.PidsLimit)))
	same("cpuset", host.CpusetCpus+"/"+host.CpusetMems, hc.CpusetCpus+"/"+hc.CpusetMems)
	same("cpuShares", host.CPUShares, hc.CPUShares)
	same("cpuQuota", fmt.Sprint(host.CPUQuota, host.CPUPeriod), fmt.Sprint(hc.CPUQuota, hc.CPUPeriod))
	same("blkioWeight", host.BlkioWeight, hc.BlkioWeight)
	same("memoryReservation", host.MemoryReservation, hc.MemoryReservation)
	same("privileged", host.Privileged, hc.Privileged)
	same("oomScoreAdj", host.OomScoreAdj, hc.OomScoreAdj)
	if !own["pidmode"] {
		same("pidMode", string(host.PidMode), string(hc.PidMode))
	}
	same("sysctls", host.Sysctls, hc.Sysctls)
	same("ulimits", ulimits(host.Ulimits), ulimits(hc.Ulimits))
	same("dns", addresses(host.DNS), addresses(hc.DNS))
	same("devices", host.Devices, hc.Devices)
	if !own["logconfig"] {
		same("logs", host.LogConfig.Type+asText(host.LogConfig.Config), hc.LogConfig.Type+asText(hc.LogConfig.Config))
	}
	same("ports", portBindings(host), portBindings(hc))
	for _, x := range mountDifferences(host.Mounts, hc.Mounts, hc.Binds, own["binds"]) {
		add("mounts", "%s", x)
	}
	for name, value := range config.Labels {
		if cc.Labels[name] != value {
			add("labels", "%s is %q, not %q", name, cc.Labels[name], value)
		}
	}
	for _, s := range c.Secrets {
		want, err := os.ReadFile(s.Source)
		got, err2 := os.ReadFile(secretCopy(unit, s))
		if err2 != nil || err == nil && string(want) != string(got) {
			add("secrets", "the copy of %s differs", filepath.Base(s.Target))
		}
	}
	if !have.State.Running {
		return nil
	}
	switch {
	case c.Pod != "":
		if !e.inPodNetwork(ctx, api, have, c.Pod) {
			add("network", "it is not in the network of its group")
		}
	case c.Network == "host":
		same("network", "host", string(hc.NetworkMode))
	case c.Network != "" && have.NetworkSettings != nil:
		if own["networkmode"] {
			return nil
		}
		if n, in := have.NetworkSettings.Networks[c.Network]; !in {
			add("network", "it was disconnected from %s", c.Network)
		} else if missing := sets.Minus(c.Aliases, n.Aliases); len(missing) > 0 {
			add("aliases", "it lacks %s", strings.Join(missing, ", "))
		}
		for _, name := range sets.Keys(have.NetworkSettings.Networks) {
			if name != c.Network {
				add("network", "it was connected to %s", name)
			}
		}
	}
	return nil
}

// asText returns a form in which empty and absent values are equal.
func asText(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	switch text := string(raw); text {
	case "null", "[]", "{}", `""`:
		return "none"
	default:
		return text
	}
}

func pointed[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func sortedCopy(list []string) []string {
	out := slices.Clone(list)
	sort.Strings(out)
	return out
}

// withoutLabels removes the options that an engine adds by itself.
func withoutLabels(list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return strings.HasPrefix(s, "label=") })
}

// capabilities returns names in one form: with or without CAP_, in any case, they are equal.
func capabilities(list []string) []string {
	var out []string
	for _, c := range list {
		out = append(out, strings.TrimPrefix(strings.ToUpper(c), "CAP_"))
	}
	sort.Strings(out)
	return out
}

func ulimits(list []*container.Ulimit) []string {
	var out []string
	for _, u := range list {
		out = append(out, fmt.Sprint(u.Name, "=", u.Soft, ":", u.Hard))
	}
	sort.Strings(out)
	return out
}

func addresses[T fmt.Stringer](list []T) []string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

func portBindings(h *container.HostConfig) []string {
	var out []string
	for inner, list := range h.PortBindings {
		for _, b := range list {
			ip := ""
			if b.HostIP.IsValid() && !b.HostIP.IsUnspecified() {
				ip = b.HostIP.String()
			}
			out = append(out, fmt.Sprintf("%s:%s→%s", ip, b.HostPort, inner))
		}
	}
	sort.Strings(out)
	return out
}

// mountDifferences compares mounts by their targets.
func mountDifferences(want, have []mount.Mount, binds []string, ownBinds bool) []string {
	text := func(list []mount.Mount) map[string]string {
		out := map[string]string{}
		for _, m := range list {
			out[m.Target] = fmt.Sprintf("%s %s", m.Type, m.Source)
			if m.ReadOnly {
				out[m.Target] += " read-only"
			}
		}
		return out
	}
	w, h := text(want), text(have)
	var out []string
	for _, t := range sets.Keys(w) {
		if h[t] != w[t] {
			out = append(out, fmt.Sprintf("%s: %s, not %s", t, orNone(h[t]), w[t]))
		}
	}
	for _, t := range sets.Keys(h) {
		if w[t] == "" {
			out = append(out, fmt.Sprintf("%s: %s, not none", t, h[t]))
		}
	}
	if len(binds) > 0 && !ownBinds {
		out = append(out, "binds "+strings.Join(binds, ", "))
	}
	return out
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// mergeEnv returns the environment of a container: that of its image, changed by its own.
func mergeEnv(inherited, own []string) []string {
	values := map[string]string{}
	for _, list := range [][]string{inherited, own} {
		for _, e := range list {
			name, value, _ := strings.Cut(e, "=")
			values[name] = value
		}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		out = append(out, name+"="+values[name])
	}
	return out
}

// envDifferences names the variables that differ. Values may be confidential and are not shown.
func envDifferences(want, have []string) []string {
	split := func(list []string) map[string]string {
		out := map[string]string{}
		for _, e := range list {
			name, value, _ := strings.Cut(e, "=")
			out[name] = value
		}
		return out
	}
	w, h := split(want), split(have)
	var out []string
	for _, name := range slices.Sorted(maps.Keys(w)) {
		if v, ok := h[name]; !ok {
			out = append(out, name+" is missing")
		} else if v != w[name] {
			out = append(out, name+" differs")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if _, ok := w[name]; !ok && name != "PATH" {
			out = append(out, name+" was added")
		}
	}
	return out
}

// VolumeDir returns the folder of a volume; "" if there is no such volume.
func (e *Engine) VolumeDir(ctx context.Context, name string) (string, error) {
	dir := ""
	err := e.withRetry(ctx, func(api *client.Client) error {
		v, err := api.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
		if errdefs.IsNotFound(err) {
			return nil
		}
		dir = v.Volume.Mountpoint
		return err
	})
	return dir, err
}

// ScopeContainers returns the containers of services that defx made for a scope.
func (e *Engine) ScopeContainers(ctx context.Context, scope string) ([]ScopeContainer, error) {
	var out []ScopeContainer
	err := e.withRetry(ctx, func(api *client.Client) error {
		list, err := labelled(ctx, api, docker.LabelScope, scope)
		out = nil
		for _, c := range list {
			if u := c.Labels[docker.LabelUnit]; docker.Kind(u) == ".container" {
				out = append(out, ScopeContainer{u, c.Labels[docker.LabelAddress], c.State == container.StateRunning})
			}
		}
		return err
	})
	slices.SortFunc(out, func(a, b ScopeContainer) int { return strings.Compare(a.Unit, b.Unit) })
	return out, err
}
