package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// Start brings a unit to life and returns when it is done. What runs stays as
// it is.
func (e *Engine) Start(ctx context.Context, unit string) error {
	switch docker.Kind(unit) {
	case ".container":
		return e.lasting(ctx, func(api *client.Client) error { return e.start(ctx, api, unit) })
	case ".cron":
		return e.lasting(ctx, func(api *client.Client) error { return e.startCron(ctx, api, unit) })
	case ".job":
		return e.lasting(ctx, func(api *client.Client) error { return e.startJob(ctx, api, unit) })
	case ".once":
		return e.once(ctx, unit)
	case ".probe":
		return e.probe(ctx, unit)
	}
	return nil // networks and pods come with those who need them
}

func (e *Engine) start(ctx context.Context, api *client.Client, unit string) error {
	e.ended(ctx, unit)
	var c docker.Container
	d, err := read(unit, &c)
	if err != nil {
		return err
	}
	if c.Pod != "" {
		if _, err := e.pod(ctx, api, c.Pod, true); err != nil {
			return err
		}
	}
	have, err := e.create(ctx, api, unit, &c, d)
	if err == nil && have == nil {
		have, err = find(ctx, api, unit)
	}
	if err != nil {
		return err
	}
	if have == nil {
		return fmt.Errorf("%s was removed by somebody", docker.Name(unit))
	}
	if have.State.Running && !have.State.Paused {
		if c.Pod == "" || e.together(ctx, api, have, c.Pod) {
			return nil
		}
		if err := e.stop(ctx, api, unit); err != nil { // its pod was started again, and has another network now
			return err
		}
		e.ended(ctx, unit)
	}
	if have.State.Paused {
		_, err := api.ContainerUnpause(ctx, have.ID, client.ContainerUnpauseOptions{})
		return err
	}
	for _, script := range c.Before {
		if err := e.once(ctx, script); err != nil {
			return err
		}
	}
	if err := policy(ctx, api, have, c.Restart); err != nil {
		return err
	}
	if err = started(ctx, api, have.ID, unit); !forgotten(err) {
		return err
	}
	if err := e.remake(ctx, api, unit); err != nil {
		return err
	}
	return started(ctx, api, docker.Name(unit), unit)
}

// forgotten tells of a container that cannot start because an engine that was killed
// does not know what it left below.
func forgotten(err error) bool {
	f, is := errors.AsType[*CommandError](err)
	return is && strings.Contains(f.Text, "already exists")
}

// remake makes the container of a version anew.
func (e *Engine) remake(ctx context.Context, api *client.Client, unit string) error {
	var c docker.Container
	d, err := read(unit, &c)
	if err != nil {
		return err
	}
	if err := remove(ctx, api, docker.Name(unit)); err != nil {
		return err
	}
	_, err = e.create(ctx, api, unit, &c, d)
	return err
}

// together tells whether a member that runs is in the network of its pod, and
// not in one that the pod had before.
func (e *Engine) together(ctx context.Context, api *client.Client, member *container.InspectResponse, pod string) bool {
	p, err := find(ctx, api, pod)
	if err != nil || p == nil || !p.State.Running {
		return false
	}
	network := func(pid int) string {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		return to
	}
	a, b := network(member.State.Pid), network(p.State.Pid)
	return a == b || a == "" || b == ""
}

// started starts a container.
func started(ctx context.Context, api *client.Client, id, unit string) error {
	_, err := api.ContainerStart(ctx, id, client.ContainerStartOptions{})
	if err == nil || gone(err) {
		return err
	}
	text := plain(err)
	sure := strings.Contains(text, "exec: ") || strings.Contains(text, "port is already allocated") || strings.Contains(text, "unable to find user")
	return &CommandError{Unit: unit, Text: "the engine does not start it: " + text, UserFault: sure}
}

// plain leaves out what of the engine's words only it understands.
func plain(err error) string {
	text := err.Error()
	for _, s := range []string{"Error response from daemon: ", "failed to create shim task: ", "OCI runtime create failed: ", "runc create failed: "} {
		text = strings.ReplaceAll(text, s, "")
	}
	return text
}

// pod makes the network that the members of a group share, and gives its
// container. running: it also takes the place of an earlier one.
func (e *Engine) pod(ctx context.Context, api *client.Client, unit string, running bool) (string, error) {
	var p docker.Pod
	d, err := read(unit, &p)
	if err != nil {
		return "", err
	}
	id := ""
	err = e.alone("pod "+p.Base, func() error {
		have, err := find(ctx, api, unit)
		if err != nil {
			return err
		}
		if have == nil {
			image, err := e.self(ctx, api)
			if err != nil {
				return err
			}
			config := &container.Config{Image: image, Entrypoint: []string{program}, Cmd: []string{"agent", "--pause"}, Labels: e.labels(p.ID, unit, d),
				ExposedPorts: network.PortSet{}}
			host := &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "always"}, ReadonlyRootfs: true, CapDrop: []string{"ALL"},
				SecurityOpt: []string{"no-new-privileges"}, PortBindings: network.PortMap{}, LogConfig: container.LogConfig{Type: "none"},
				Mounts: []mount.Mount{{Type: mount.TypeBind, Source: e.path, Target: "/var/run/docker.sock"}}}
			if err := ports(p.Ports, config, host); err != nil {
				return err
			}
			nets, err := e.network(ctx, api, p.ID, p.Network, p.Aliases, host)
			if err != nil {
				return err
			}
			if err := e.createNamed(ctx, api, unit, config, host, nets); err != nil {
				return err
			}
			if have, err = find(ctx, api, unit); err != nil || have == nil {
				return errors.Join(err, errors.New("a pod went away at once"))
			}
		}
		id = have.ID
		if !running || have.State.Running {
			return nil
		}
		others, err := ours(ctx, api, docker.LabelBase, p.Base)
		if err != nil {
			return err
		}
		for _, o := range others {
			if u := o.Labels[docker.LabelUnit]; docker.Kind(u) == ".pod" && u != unit && o.State == container.StateRunning {
				if _, err := api.ContainerStop(ctx, o.ID, client.ContainerStopOptions{}); err != nil {
					return err
				}
			}
		}
		return started(ctx, api, id, unit)
	})
	return id, err
}

// ours lists all containers with a label, stopped ones too.
func ours(ctx context.Context, api *client.Client, label, value string) ([]container.Summary, error) {
	res, err := api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: labelled(label, value)})
	return res.Items, err
}

// labelled asks for what has a label; value "" = any.
func labelled(label, value string) client.Filters {
	if value != "" {
		label += "=" + value
	}
	return make(client.Filters).Add("label", label)
}

// once runs a command to its end, as a container of its own that sees what the
// version sees. A file remembers that it succeeded.
func (e *Engine) once(ctx context.Context, unit string) error {
	return within(ctx, filepath.Join(unitsDir, unit), func() error { return e.onceAlone(ctx, unit) })
}

func (e *Engine) onceAlone(ctx context.Context, unit string) error {
	var cmd docker.Command
	if _, err := read(unit, &cmd); err != nil {
		return err
	}
	if cmd.Done != "" {
		if _, err := os.Lstat(cmd.Done); err == nil {
			return nil
		}
	}
	var c docker.Container
	if _, err := read(cmd.Unit, &c); err != nil {
		return err
	}
	c.Entrypoint, c.Args, c.Ports, c.Aliases, c.Restart, c.Before = cmd.Command, nil, nil, nil, "no", nil
	err := e.lasting(ctx, func(api *client.Client) error {
		if have, err := find(ctx, api, unit); err != nil {
			return err
		} else if have != nil && have.State.Running { // whoever started it was killed
			return outcome(api.ContainerWait(ctx, have.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning}), unit)
		} else if have != nil {
			if err := remove(ctx, api, have.ID); err != nil {
				return err
			}
		}
		if _, err := e.create(ctx, api, unit, &c, digest.Bytes([]byte(unit))); err != nil {
			return err
		}
		return e.run(ctx, api, unit)
	})
	if err != nil || cmd.Done == "" {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(cmd.Done), 0o755); err != nil {
		return err
	}
	f, err := os.Create(cmd.Done)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// run starts a container that ends by itself, and waits for that.
func (e *Engine) run(ctx context.Context, api *client.Client, unit string) error {
	name := docker.Name(unit)
	var wait client.ContainerWaitResult
	begin := func() error {
		wait = api.ContainerWait(ctx, name, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
		return started(ctx, api, name, unit)
	}
	var err error
	if docker.Kind(unit) != ".container" {
		err = begin()
	} else {
		err = steadily(ctx, recordOf(baseOf(unit)), func() error {
			err := begin()
			if forgotten(err) {
				if err := e.remake(ctx, api, unit); err != nil {
					return err
				}
				err = begin()
			}
			return err
		})
	}
	if err != nil {
		return err
	}
	return outcome(wait, unit)
}

// outcome waits for the end of a container, and tells whether it was a good one.
func outcome(wait client.ContainerWaitResult, unit string) error {
	select {
	case err := <-wait.Error:
		return err
	case r := <-wait.Result:
		if r.Error != nil {
			return errors.New(r.Error.Message)
		}
		if r.StatusCode != 0 {
			return &CommandError{Unit: unit, Text: fmt.Sprintf("it ended with exit code %d", r.StatusCode), Code: int(r.StatusCode)}
		}
		return nil
	}
}

// probe runs a command inside the version that runs.
func (e *Engine) probe(ctx context.Context, unit string) error {
	var cmd docker.Command
	if _, err := read(unit, &cmd); err != nil {
		return err
	}
	return e.lasting(ctx, func(api *client.Client) error {
		in := ""
		list, err := ours(ctx, api, docker.LabelBase, cmd.Base)
		if err != nil {
			return err
		}
		for _, c := range list { // the version itself, or the one that it will take the place of
			if u := c.Labels[docker.LabelUnit]; docker.Kind(u) == ".container" && c.State == container.StateRunning && (in == "" || u == cmd.Unit) {
				in = c.ID
			}
		}
		if in == "" {
			return &CommandError{Unit: unit, Text: "its container does not run"}
		}
		code, said, err := execute(ctx, api, in, cmd.Command)
		if err != nil {
			return err
		}
		e.mu.Lock()
		e.looked[unit] = code
		e.mu.Unlock()
		if code != 0 {
			return &CommandError{Unit: unit, Text: strings.TrimSpace(fmt.Sprintf("it ended with exit code %d %s", code, said)), Code: code}
		}
		return nil
	})
}

// execute runs a command in a container, and gives its exit code and the end of what it said.
func execute(ctx context.Context, api *client.Client, id string, command []string) (int, string, error) {
	x, err := api.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: command, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, "", err
	}
	a, err := api.ExecAttach(ctx, x.ID, client.ExecAttachOptions{})
	if err != nil {
		return 0, "", err
	}
	defer a.Close()
	over := make(chan struct{})
	defer close(over)
	go func() { // reading knows no end of time
		select {
		case <-ctx.Done():
			a.Close()
		case <-over:
		}
	}()
	var said bytes.Buffer
	stdcopy.StdCopy(&limited{b: &said, left: 4096}, &limited{b: &said, left: 4096}, a.Reader)
	if ctx.Err() != nil {
		return 0, "", ctx.Err()
	}
	for {
		r, err := api.ExecInspect(ctx, x.ID, client.ExecInspectOptions{})
		if err != nil {
			return 0, "", err
		}
		if !r.Running {
			return r.ExitCode, said.String(), nil
		}
		select {
		case <-ctx.Done():
			return 0, "", ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

type limited struct {
	b    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	_, err := l.b.Write(p[:n])
	return len(p), err
}

// Stop ends a unit and returns when it has ended. The container stays, so that
// it can go on; networks and pods, which hold nothing, go.
func (e *Engine) Stop(ctx context.Context, unit string) error {
	switch docker.Kind(unit) {
	case ".container", ".once":
		return e.lasting(ctx, func(api *client.Client) error { return e.stop(ctx, api, unit) })
	case ".pod", ".cron":
		return e.Remove(ctx, unit)
	case ".network":
		return e.lasting(ctx, func(api *client.Client) error { return e.removeNetwork(ctx, api, docker.Name(unit)) })
	}
	return nil
}

func (e *Engine) stop(ctx context.Context, api *client.Client, unit string) error {
	e.ended(ctx, unit)
	have, err := find(ctx, api, unit)
	if err != nil || have == nil {
		if err != nil && strings.Contains(err.Error(), "not defx's") {
			return nil // ours was never made
		}
		return err
	}
	var c docker.Container
	if _, err := read(unit, &c); err == nil && c.Stop != nil && len(c.Stop.Command) > 0 && have.State.Running {
		// What the command says of itself is its own matter: the signal comes in any case.
		if _, _, err := execute(ctx, api, have.ID, c.Stop.Command); err != nil && ctx.Err() != nil {
			return err
		}
	}
	over := make(chan error, 1)
	lasting := context.WithoutCancel(ctx)
	go func() { over <- e.end(lasting, have) }()
	select {
	case err := <-over:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-e.dead(ctx, have): // the rest is the engine tidying up
		e.mu.Lock()
		e.ending[unit] = over
		e.mu.Unlock()
		return nil
	}
}

// end stops a container, for good: it does not come back with the engine.
func (e *Engine) end(ctx context.Context, c *container.InspectResponse) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	return e.lasting(ctx, func(api *client.Client) error {
		_, err := api.ContainerStop(ctx, c.ID, client.ContainerStopOptions{}) // also ends restarting
		if errdefs.IsNotFound(err) || errdefs.IsNotModified(err) {
			err = nil
		}
		if err != nil {
			return err
		}
		return policy(ctx, api, c, "no")
	})
}

// ended waits until the engine has tidied up after units that were stopped. That
// it could not, whoever starts or removes them now is told.
func (e *Engine) ended(ctx context.Context, units ...string) {
	for _, unit := range units {
		e.mu.Lock()
		over := e.ending[unit]
		delete(e.ending, unit)
		e.mu.Unlock()
		if over == nil {
			continue
		}
		select {
		case <-over:
		case <-ctx.Done():
		}
	}
}

// dead tells when nothing of a container runs any more, which may be long before
// the engine has taken away its network and mounts. It stays silent about one
// that keeps more than its processes from its successor (ports of the machine), and
// where that cannot be seen.
func (e *Engine) dead(ctx context.Context, c *container.InspectResponse) <-chan struct{} {
	pid := c.State.Pid
	// The first process of a namespace ends last. That it is this one, its group tells.
	if group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); pid == 0 || err != nil || !bytes.Contains(group, []byte(c.ID)) ||
		c.HostConfig.PidMode != "" || len(c.HostConfig.PortBindings) > 0 {
		return nil
	}
	out := make(chan struct{})
	go func() {
		for ctx.Err() == nil {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if _, state, _ := bytes.Cut(stat, []byte(") ")); err != nil || bytes.HasPrefix(state, []byte("Z")) {
				close(out)
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
	}()
	return out
}

// policy says when the engine starts a container by itself.
func policy(ctx context.Context, api *client.Client, c *container.InspectResponse, name string) error {
	if string(c.HostConfig.RestartPolicy.Name) == name || name == "no" && c.HostConfig.RestartPolicy.IsNone() {
		return nil
	}
	_, err := api.ContainerUpdate(ctx, c.ID, client.ContainerUpdateOptions{RestartPolicy: &container.RestartPolicy{Name: container.RestartPolicyMode(name)}})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func (e *Engine) removeNetwork(ctx context.Context, api *client.Client, name string) error {
	e.mu.Lock()
	leaving := slices.Collect(maps.Keys(e.ending))
	e.mu.Unlock()
	e.ended(ctx, leaving...)
	for try := 0; ; try++ {
		res, err := api.NetworkInspect(ctx, name, client.NetworkInspectOptions{})
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if res.Network.Labels[docker.LabelUnit] != name+".network" {
			return nil
		}
		e.forget()
		if _, err = api.NetworkRemove(ctx, name, client.NetworkRemoveOptions{}); err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		// Engines lose count of what is in a network where many leave at once, and remember it wrongly until they are
		// restarted. Then it stays, as an orphan: nothing is in it.
		empty := len(res.Network.Containers) == 0 && strings.Contains(err.Error(), "active endpoints")
		switch {
		case !empty:
			return fmt.Errorf("the network %s does not go: %w", name, err)
		case try == 4:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Restart starts anew what stands. A job runs now, to its end.
func (e *Engine) Restart(ctx context.Context, unit string) error {
	if docker.Kind(unit) != ".container" {
		return e.Start(ctx, unit)
	}
	var c docker.Container
	d, err := read(unit, &c)
	if err != nil {
		return err
	}
	return e.lasting(ctx, func(api *client.Client) error {
		if c.Job {
			if _, err := e.create(ctx, api, unit, &c, d); err != nil {
				return err
			}
			for _, script := range c.Before {
				if err := e.once(ctx, script); err != nil {
					return err
				}
			}
			return e.run(ctx, api, unit)
		}
		if err := e.stop(ctx, api, unit); err != nil {
			return err
		}
		return e.start(ctx, api, unit)
	})
}

// Reload tells a container that its files changed.
func (e *Engine) Reload(ctx context.Context, unit string) error {
	name := docker.Name(unit)
	file := name[:max(0, strings.LastIndexByte(name, '.'))] + ".reload"
	var cmd docker.Command
	if _, err := read(file, &cmd); err != nil {
		return err
	}
	return e.lasting(ctx, func(api *client.Client) error {
		have, err := find(ctx, api, unit)
		if err != nil {
			return err
		}
		if have == nil || !have.State.Running {
			return &CommandError{Unit: unit, Text: "it does not run"}
		}
		if cmd.Signal != "" {
			_, err := api.ContainerKill(ctx, have.ID, client.ContainerKillOptions{Signal: cmd.Signal})
			return err
		}
		code, said, err := execute(ctx, api, have.ID, cmd.Command)
		if err == nil && code != 0 {
			err = &CommandError{Unit: unit, Text: strings.TrimSpace(fmt.Sprintf("its command ended with exit code %d %s", code, said)), Code: code}
		}
		return err
	})
}

// Remove takes the container of a unit away, running or not.
func (e *Engine) Remove(ctx context.Context, unit string) error {
	if !slices.Contains([]string{".container", ".once", ".pod", ".cron"}, docker.Kind(unit)) {
		return nil
	}
	e.ended(ctx, unit)
	return e.lasting(ctx, func(api *client.Client) error {
		have, err := find(ctx, api, unit)
		if err != nil {
			if strings.Contains(err.Error(), "not defx's") {
				return nil
			}
			return err
		}
		if have != nil && docker.Kind(unit) == ".cron" {
			err = e.dismiss(ctx, api, have)
		} else if have != nil {
			err = remove(ctx, api, have.ID)
		}
		if err != nil {
			return err
		}
		return os.RemoveAll(filepath.Join(secretsDir, docker.Name(unit)))
	})
}
