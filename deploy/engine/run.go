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
	"github.com/defx-dev/defx/internal/poll"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// Start starts a unit and returns when that is complete. A running unit is left unchanged.
func (e *Engine) Start(ctx context.Context, unit string) error {
	switch docker.Kind(unit) {
	case ".container":
		return e.withRetry(ctx, func(api *client.Client) error { return e.start(ctx, api, unit) })
	case ".cron":
		return e.withRetry(ctx, func(api *client.Client) error { return e.startCron(ctx, api, unit) })
	case ".job":
		return e.withRetry(ctx, func(api *client.Client) error { return e.startJob(ctx, api, unit) })
	case ".once":
		return e.runOnce(ctx, unit)
	case ".probe":
		return e.probe(ctx, unit)
	}
	return nil // networks and pods are created for the containers that use them
}

func (e *Engine) start(ctx context.Context, api *client.Client, unit string) error {
	e.awaitCleanup(ctx, unit)
	var c docker.Container
	d, err := readUnit(unit, &c)
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
		have, err = inspect(ctx, api, unit)
	}
	if err != nil {
		return err
	}
	if have == nil {
		return fmt.Errorf("%s was removed meanwhile", docker.Name(unit))
	}
	if have.State.Running && !have.State.Paused {
		if c.Pod == "" || e.inPodNetwork(ctx, api, have, c.Pod) {
			return nil
		}
		if err := e.stop(ctx, api, unit); err != nil { // its pod was restarted, and has another network now
			return err
		}
		e.awaitCleanup(ctx, unit)
	}
	if have.State.Paused {
		_, err := api.ContainerUnpause(ctx, have.ID, client.ContainerUnpauseOptions{})
		return err
	}
	for _, script := range c.Before {
		if err := e.runOnce(ctx, script); err != nil {
			return err
		}
	}
	if err := setRestartPolicy(ctx, api, have, c.Restart); err != nil {
		return err
	}
	if err = startContainer(ctx, api, have.ID, unit); !isStaleContainer(err) {
		return err
	}
	if err := e.recreate(ctx, api, unit); err != nil {
		return err
	}
	return startContainer(ctx, api, docker.Name(unit), unit)
}

// isStaleContainer reports whether a container cannot start because the engine was killed
// and lost track of its lower-level state.
func isStaleContainer(err error) bool {
	f, is := errors.AsType[*CommandError](err)
	return is && f.stale
}

// recreate deletes the container of a version and creates it again.
func (e *Engine) recreate(ctx context.Context, api *client.Client, unit string) error {
	var c docker.Container
	d, err := readUnit(unit, &c)
	if err != nil {
		return err
	}
	if err := remove(ctx, api, docker.Name(unit)); err != nil {
		return err
	}
	_, err = e.create(ctx, api, unit, &c, d)
	return err
}

// inPodNetwork reports whether a running member is in the current network of its pod, and
// not in that of an earlier start.
func (e *Engine) inPodNetwork(ctx context.Context, api *client.Client, member *container.InspectResponse, pod string) bool {
	p, err := inspect(ctx, api, pod)
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

// startContainer starts a container.
func startContainer(ctx context.Context, api *client.Client, id, unit string) error {
	_, err := api.ContainerStart(ctx, id, client.ContainerStartOptions{})
	if err == nil || connectionLost(err) {
		return err
	}
	text := shortError(err)
	userFault := strings.Contains(text, "exec: ") || strings.Contains(text, "port is already allocated") || strings.Contains(text, "unable to find user")
	return &CommandError{Unit: unit, Text: "the engine cannot start it: " + text, UserFault: userFault, stale: strings.Contains(text, "already exists")}
}

// shortError returns the engine's message without the prefixes of its internals.
func shortError(err error) string {
	text := err.Error()
	for _, s := range []string{"Error response from daemon: ", "failed to create shim task: ", "OCI runtime create failed: ", "runc create failed: "} {
		text = strings.ReplaceAll(text, s, "")
	}
	return text
}

// pod creates the container that holds the network of a group, and returns its id. If
// running is set, it also starts it, in place of an earlier version.
func (e *Engine) pod(ctx context.Context, api *client.Client, unit string, running bool) (string, error) {
	var p docker.Pod
	d, err := readUnit(unit, &p)
	if err != nil {
		return "", err
	}
	id := ""
	err = e.withLock("pod "+p.Base, func() error {
		have, err := inspect(ctx, api, unit)
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
			if err := setPorts(p.Ports, config, host); err != nil {
				return err
			}
			nets, err := e.network(ctx, api, p.ID, p.Network, p.Aliases, host)
			if err != nil {
				return err
			}
			if err := e.createNamed(ctx, api, unit, config, host, nets); err != nil {
				return err
			}
			if have, err = inspect(ctx, api, unit); err != nil || have == nil {
				return errors.Join(err, errors.New("the pod was removed immediately"))
			}
		}
		id = have.ID
		if !running || have.State.Running {
			return nil
		}
		others, err := labelled(ctx, api, docker.LabelBase, p.Base)
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
		return startContainer(ctx, api, id, unit)
	})
	return id, err
}

// labelled returns all containers with a label, including stopped ones.
func labelled(ctx context.Context, api *client.Client, label, value string) ([]container.Summary, error) {
	res, err := api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: labelFilter(label, value)})
	return res.Items, err
}

// labelFilter selects what has a label; value "" means any.
func labelFilter(label, value string) client.Filters {
	if value != "" {
		label += "=" + value
	}
	return make(client.Filters).Add("label", label)
}

// runOnce runs a command to its end, in a container of its own that is configured like the
// version's. A file records that it succeeded.
func (e *Engine) runOnce(ctx context.Context, unit string) error {
	return withFileLock(ctx, filepath.Join(unitsDir, unit), func() error { return e.runOnceLocked(ctx, unit) })
}

func (e *Engine) runOnceLocked(ctx context.Context, unit string) error {
	var cmd docker.Command
	if _, err := readUnit(unit, &cmd); err != nil {
		return err
	}
	if cmd.Done != "" {
		if _, err := os.Lstat(cmd.Done); err == nil {
			return nil
		}
	}
	var c docker.Container
	if _, err := readUnit(cmd.Unit, &c); err != nil {
		return err
	}
	c.Entrypoint, c.Args, c.Ports, c.Aliases, c.Restart, c.Before = cmd.Command, nil, nil, nil, "no", nil
	err := e.withRetry(ctx, func(api *client.Client) error {
		if have, err := inspect(ctx, api, unit); err != nil {
			return err
		} else if have != nil && have.State.Running { // the process that started it was killed
			return exitResult(api.ContainerWait(ctx, have.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning}), unit)
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
	if err := os.MkdirAll(filepath.Dir(cmd.Done), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(cmd.Done, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// run starts a container that ends by itself, and waits for its end.
func (e *Engine) run(ctx context.Context, api *client.Client, unit string) error {
	name := docker.Name(unit)
	var wait client.ContainerWaitResult
	begin := func() error {
		wait = api.ContainerWait(ctx, name, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
		return startContainer(ctx, api, name, unit)
	}
	var err error
	if docker.Kind(unit) != ".container" {
		err = begin()
	} else {
		err = withRecordLock(ctx, recordPath(baseOf(unit)), func() error {
			err := begin()
			if isStaleContainer(err) {
				if err := e.recreate(ctx, api, unit); err != nil {
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
	return exitResult(wait, unit)
}

// exitResult waits for the end of a container, and returns an error unless it exited with 0.
func exitResult(wait client.ContainerWaitResult, unit string) error {
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

// probe runs a command inside the running version.
func (e *Engine) probe(ctx context.Context, unit string) error {
	var cmd docker.Command
	if _, err := readUnit(unit, &cmd); err != nil {
		return err
	}
	return e.withRetry(ctx, func(api *client.Client) error {
		in := ""
		list, err := labelled(ctx, api, docker.LabelBase, cmd.Base)
		if err != nil {
			return err
		}
		for _, c := range list { // this version, or the one that it replaces
			if u := c.Labels[docker.LabelUnit]; docker.Kind(u) == ".container" && c.State == container.StateRunning && (in == "" || u == cmd.Unit) {
				in = c.ID
			}
		}
		if in == "" {
			return &CommandError{Unit: unit, Text: "its container is not running"}
		}
		code, output, err := execute(ctx, api, in, cmd.Command)
		if err != nil {
			return err
		}
		e.mu.Lock()
		e.probeResults[unit] = code
		e.mu.Unlock()
		if code != 0 {
			return &CommandError{Unit: unit, Text: strings.TrimSpace(fmt.Sprintf("it ended with exit code %d %s", code, output)), Code: code}
		}
		return nil
	})
}

// execute runs a command in a container, and returns its exit code and the beginning of its
// output.
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
	go func() { // a read has no deadline
		select {
		case <-ctx.Done():
			a.Close()
		case <-over:
		}
	}()
	var output bytes.Buffer
	stdcopy.StdCopy(&limitedWriter{b: &output, left: 4096}, &limitedWriter{b: &output, left: 4096}, a.Reader)
	if ctx.Err() != nil {
		return 0, "", ctx.Err()
	}
	code := 0
	err = poll.Until(ctx, 20*time.Millisecond, func(ctx context.Context) (bool, error) {
		r, err := api.ExecInspect(ctx, x.ID, client.ExecInspectOptions{})
		code = r.ExitCode
		return !r.Running, err
	})
	return code, output.String(), err
}

type limitedWriter struct {
	b    io.Writer
	left int
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	_, err := l.b.Write(p[:n])
	return len(p), err
}

// Stop stops a unit and returns when it has ended. Containers are kept, so that they can be
// started again; networks and pods, which hold no data, are removed.
func (e *Engine) Stop(ctx context.Context, unit string) error {
	switch docker.Kind(unit) {
	case ".container", ".once":
		return e.withRetry(ctx, func(api *client.Client) error { return e.stop(ctx, api, unit) })
	case ".pod", ".cron":
		return e.Remove(ctx, unit)
	case ".network":
		return e.withRetry(ctx, func(api *client.Client) error { return e.removeNetwork(ctx, api, docker.Name(unit)) })
	}
	return nil
}

func (e *Engine) stop(ctx context.Context, api *client.Client, unit string) error {
	e.awaitCleanup(ctx, unit)
	have, err := inspect(ctx, api, unit)
	if err != nil || have == nil {
		if _, foreign := errors.AsType[*foreignContainerError](err); foreign {
			return nil // this unit's container was never created
		}
		return err
	}
	var c docker.Container
	if _, err := readUnit(unit, &c); err == nil && c.Stop != nil && len(c.Stop.Command) > 0 && have.State.Running {
		// The result of the command does not matter: the signal follows in any case.
		if _, _, err := execute(ctx, api, have.ID, c.Stop.Command); err != nil && ctx.Err() != nil {
			return err
		}
	}
	over := make(chan error, 1)
	lasting := context.WithoutCancel(ctx)
	go func() { over <- e.stopContainer(lasting, have) }()
	select {
	case err := <-over:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-e.exited(ctx, have): // what remains is the engine's cleanup
		e.mu.Lock()
		e.cleanups[unit] = over
		e.mu.Unlock()
		return nil
	}
}

// stopContainer stops a container and disables its restart with the engine.
func (e *Engine) stopContainer(ctx context.Context, c *container.InspectResponse) error {
	limit := 10 * time.Minute
	if c.Config != nil && c.Config.StopTimeout != nil {
		limit += time.Duration(max(0, *c.Config.StopTimeout)) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return e.withRetry(ctx, func(api *client.Client) error {
		_, err := api.ContainerStop(ctx, c.ID, client.ContainerStopOptions{}) // also stops a restart loop
		if errdefs.IsNotFound(err) || errdefs.IsNotModified(err) {
			err = nil
		}
		if err != nil {
			return err
		}
		return setRestartPolicy(ctx, api, c, "no")
	})
}

// awaitCleanup waits until the engine has cleaned up after units that were stopped. If that
// failed, the operation that follows reports it.
func (e *Engine) awaitCleanup(ctx context.Context, units ...string) {
	for _, unit := range units {
		e.mu.Lock()
		over := e.cleanups[unit]
		delete(e.cleanups, unit)
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

// exited returns a channel that is closed when the processes of a container have ended,
// which may be long before the engine has removed its network and mounts. It returns nil,
// which never fires, if this cannot be observed, or if the container also holds ports of the
// machine.
func (e *Engine) exited(ctx context.Context, c *container.InspectResponse) <-chan struct{} {
	pid := c.State.Pid
	// PID 1 of the namespace exits last; the cgroup confirms that this is it.
	if group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); pid == 0 || err != nil || !bytes.Contains(group, []byte(c.ID)) ||
		c.HostConfig.PidMode != "" || len(c.HostConfig.PortBindings) > 0 {
		return nil
	}
	out := make(chan struct{})
	go func() {
		err := poll.Until(ctx, 2*time.Millisecond, func(context.Context) (bool, error) {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			_, state, _ := bytes.Cut(stat, []byte(") "))
			return err != nil || bytes.HasPrefix(state, []byte("Z")), nil
		})
		if err == nil {
			close(out)
		}
	}()
	return out
}

// setRestartPolicy sets when the engine starts a container by itself.
func setRestartPolicy(ctx context.Context, api *client.Client, c *container.InspectResponse, name string) error {
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
	leaving := slices.Collect(maps.Keys(e.cleanups))
	e.mu.Unlock()
	e.awaitCleanup(ctx, leaving...)
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
		e.resetCache()
		if _, err = api.NetworkRemove(ctx, name, client.NetworkRemoveOptions{}); err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		// When many containers leave at once, engines can miscount the endpoints of a
		// network until they are restarted. Such a network is empty, and stays as an orphan.
		empty := len(res.Network.Containers) == 0 && strings.Contains(err.Error(), "active endpoints")
		switch {
		case !empty:
			return fmt.Errorf("cannot remove the network %s: %w", name, err)
		case try == 4:
			return nil
		}
		if err := poll.Sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// Restart restarts a unit without changing it. It runs a job now, to its end.
func (e *Engine) Restart(ctx context.Context, unit string) error {
	if docker.Kind(unit) != ".container" {
		return e.Start(ctx, unit)
	}
	var c docker.Container
	d, err := readUnit(unit, &c)
	if err != nil {
		return err
	}
	return e.withRetry(ctx, func(api *client.Client) error {
		if c.Job {
			if _, err := e.create(ctx, api, unit, &c, d); err != nil {
				return err
			}
			for _, script := range c.Before {
				if err := e.runOnce(ctx, script); err != nil {
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

// Reload makes a container read its changed files, by a signal or a command.
func (e *Engine) Reload(ctx context.Context, unit string) error {
	name := docker.Name(unit)
	file := name[:max(0, strings.LastIndexByte(name, '.'))] + ".reload"
	var cmd docker.Command
	if _, err := readUnit(file, &cmd); err != nil {
		return err
	}
	return e.withRetry(ctx, func(api *client.Client) error {
		have, err := inspect(ctx, api, unit)
		if err != nil {
			return err
		}
		if have == nil || !have.State.Running {
			return &CommandError{Unit: unit, Text: "it is not running"}
		}
		if cmd.Signal != "" {
			_, err := api.ContainerKill(ctx, have.ID, client.ContainerKillOptions{Signal: cmd.Signal})
			return err
		}
		code, output, err := execute(ctx, api, have.ID, cmd.Command)
		if err == nil && code != 0 {
			err = &CommandError{Unit: unit, Text: strings.TrimSpace(fmt.Sprintf("its command ended with exit code %d %s", code, output)), Code: code}
		}
		return err
	})
}

// Remove removes the container of a unit, running or not.
func (e *Engine) Remove(ctx context.Context, unit string) error {
	if !slices.Contains([]string{".container", ".once", ".pod", ".cron"}, docker.Kind(unit)) {
		return nil
	}
	e.awaitCleanup(ctx, unit)
	return e.withRetry(ctx, func(api *client.Client) error {
		have, err := inspect(ctx, api, unit)
		if err != nil {
			if _, foreign := errors.AsType[*foreignContainerError](err); foreign {
				return nil
			}
			return err
		}
		if have != nil && docker.Kind(unit) == ".cron" {
			err = e.stopScheduler(ctx, api, have)
		} else if have != nil {
			err = remove(ctx, api, have.ID)
		}
		if err != nil {
			return err
		}
		return os.RemoveAll(filepath.Join(secretsDir, docker.Name(unit)))
	})
}
