package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/internal/atomicfile"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

func dial(path string) (net.Conn, error) { return net.Dial("unix", path) }

// foreignContainerError is the error of a container that has a unit's name and
// was not created by defx.
type foreignContainerError struct{ name string }

func (e *foreignContainerError) Error() string {
	return fmt.Sprintf("the name %s is taken by a container that is not managed by defx: rename or remove that, or choose another path for the service", e.name)
}

// inspect returns the container of a unit; nil if there is none. A container of that name
// without defx's labels is a foreignContainerError.
func inspect(ctx context.Context, api *client.Client, unit string) (*container.InspectResponse, error) {
	res, err := api.ContainerInspect(ctx, docker.Name(unit), client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if c := res.Container; c.Config == nil || c.Config.Labels[docker.LabelUnit] != unit {
		return nil, &foreignContainerError{docker.Name(unit)}
	}
	return &res.Container, nil
}

// Prepare creates all that a unit needs and its container, without starting it, so that
// problems are reported before anything is stopped. replaced are the units that will be
// stopped before it starts.
func (e *Engine) Prepare(ctx context.Context, unit string, replaced []string) error {
	names := []string{}
	if kind := docker.Kind(unit); kind == ".cron" || kind == ".job" {
		var c docker.Cron
		if _, err := readUnit(unit, &c); err != nil {
			return err
		}
		if kind == ".cron" {
			names = append(names, unit)
		}
		unit = c.Unit
	}
	if docker.Kind(unit) != ".container" {
		return nil
	}
	var c docker.Container
	d, err := readUnit(unit, &c)
	if err != nil {
		return err
	}
	return e.withRetry(ctx, func(api *client.Client) error {
		for _, name := range append(names, c.Before...) { // the name may belong to a foreign container
			if _, err := inspect(ctx, api, name); err != nil {
				return err
			}
		}
		if _, err := e.create(ctx, api, unit, &c, d); err != nil {
			return err
		}
		if c.Pod == "" {
			return e.checkPorts(ctx, api, unit, &c, replaced)
		}
		// Members of a pod check the same ports: one must not see the other's test listener,
		// nor their pod starting.
		return e.withLock("pod "+baseOf(c.Pod), func() error { return e.checkPorts(ctx, api, unit, &c, replaced) })
	})
}

// create creates the container of a version; if it exists already, it returns that one. It
// asks the engine as little as possible: each request costs tens of milliseconds when many
// services start at once.
func (e *Engine) create(ctx context.Context, api *client.Client, unit string, c *docker.Container, d digest.Digest) (*container.InspectResponse, error) {
	have, err := inspect(ctx, api, unit)
	if err != nil {
		return nil, err
	}
	join := ""
	if c.Pod != "" {
		if join, err = e.pod(ctx, api, c.Pod, false); err != nil {
			return nil, err
		}
	}
	if have == nil || have.State == nil || !have.State.Running { // a running container has what it mounts
		if err := makeDirs(c); err != nil {
			return nil, err
		}
	}
	if have != nil {
		same := have.Config.Labels[docker.LabelDigest] == string(d) && have.State != nil && have.State.Status != container.StateDead
		if same && (join == "" || string(have.HostConfig.NetworkMode) == "container:"+join) {
			return have, nil
		}
		if err := remove(ctx, api, have.ID); err != nil {
			return nil, err
		}
	}
	for retried := false; ; retried = true {
		config, host, nets, err := e.containerConfig(ctx, api, unit, c, d)
		if err != nil {
			return nil, err
		}
		if join != "" {
			host.NetworkMode = container.NetworkMode("container:" + join)
		}
		err = e.createNamed(ctx, api, unit, config, host, nets)
		if err == nil || retried || !errdefs.IsNotFound(err) {
			return nil, err
		}
		e.resetCache() // a cached image or network no longer exists
	}
}

func (e *Engine) createNamed(ctx context.Context, api *client.Client, unit string, config *container.Config, host *container.HostConfig, nets *network.NetworkingConfig) error {
	o := client.ContainerCreateOptions{Name: docker.Name(unit), Config: config, HostConfig: host, NetworkingConfig: nets}
	for until := time.Now().Add(10 * time.Second); ; {
		_, err := api.ContainerCreate(ctx, o)
		if err == nil {
			return nil
		}
		if errdefs.IsConflict(err) { // created meanwhile: by an interrupted request, a job's timer, or a foreign program
			have, ferr := inspect(ctx, api, unit)
			if ferr != nil {
				return ferr
			}
			if have != nil && have.Config.Labels[docker.LabelDigest] == config.Labels[docker.LabelDigest] {
				return nil
			}
			if have == nil && time.Now().Before(until) && sleepWallClock(ctx, 50*time.Millisecond) { // a name is reserved before its container is visible
				continue
			}
		}
		return fmt.Errorf("the engine cannot create %s: %w", docker.Name(unit), err)
	}
}

func remove(ctx context.Context, api *client.Client, id string) error {
	_, err := api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if errdefs.IsNotFound(err) || err != nil && strings.Contains(err.Error(), "already in progress") {
		return nil
	}
	return err
}

// containerConfig converts a unit's container to the engine's types, and creates the image,
// network, volumes and secrets that it refers to.
func (e *Engine) containerConfig(ctx context.Context, api *client.Client, unit string, c *docker.Container, d digest.Digest) (*container.Config, *container.HostConfig, *network.NetworkingConfig, error) {
	fail := func(err error) (*container.Config, *container.HostConfig, *network.NetworkingConfig, error) {
		return nil, nil, nil, err
	}
	image, err := e.image(ctx, api, c)
	if err != nil {
		return fail(err)
	}
	config, host, err := settings(unit, c)
	if err != nil {
		return fail(err)
	}
	config.Image, config.Labels = image, e.labels(c.ID, unit, d)
	if useInit := !c.NoInit && e.hasInit(ctx, api); useInit {
		host.Init = &useInit
	}
	nets, err := e.network(ctx, api, c.ID, c.Network, c.Aliases, host)
	if err != nil {
		return fail(err)
	}
	gateway := strings.Join(host.ExtraHosts, "")
	if err := e.volumes(ctx, api, c); err != nil {
		return fail(err)
	}
	for _, s := range c.Secrets {
		if err := secret(ctx, unit, s); err != nil {
			return fail(err)
		}
	}
	if err := giveFiles(c.Own); err != nil {
		return fail(err)
	}
	if err := override(c, config, host); err != nil {
		return fail(err)
	}
	for k, v := range e.labels(c.ID, unit, d) {
		config.Labels[k] = v
	}
	if gateway != "" && !slices.Contains(host.ExtraHosts, gateway) { // keep the name of the machine's gateway
		host.ExtraHosts = append(host.ExtraHosts, gateway)
	}
	return config, host, nets, nil
}

// settings returns the engine's settings of a unit's container, as far as its file determines them,
// without those of the user.
func settings(unit string, c *docker.Container) (*container.Config, *container.HostConfig, error) {
	config := &container.Config{Entrypoint: c.Entrypoint, Cmd: c.Args, Env: c.Env, User: c.User, WorkingDir: c.WorkDir, ExposedPorts: network.PortSet{}}
	host := &container.HostConfig{
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyMode(c.Restart)}, ReadonlyRootfs: c.ReadOnly,
		CapDrop: c.CapDrop, CapAdd: c.CapAdd, SecurityOpt: []string{"no-new-privileges"}, Tmpfs: c.Tmpfs, PortBindings: network.PortMap{},
		LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "10m", "max-file": "3"}},
		Resources: container.Resources{NanoCPUs: c.NanoCPUs, Memory: c.Memory},
	}
	if !slices.Contains(c.CapDrop, "ALL") { // the user wants the engine's defaults
		host.SecurityOpt = nil
	}
	if c.Tasks > 0 {
		host.PidsLimit = &c.Tasks
	}
	if c.OpenFiles > 0 {
		host.Ulimits = []*container.Ulimit{{Name: "nofile", Soft: c.OpenFiles, Hard: c.OpenFiles}}
	}
	if s := c.Stop; s != nil {
		config.StopSignal = s.Signal
		if s.Timeout > 0 {
			config.StopTimeout = &s.Timeout
		}
	}
	if len(config.Entrypoint) > 0 && len(config.Cmd) == 0 {
		config.Cmd = []string{} // override the image's command
	}
	for _, m := range c.Mounts {
		one := mount.Mount{Type: mount.TypeBind, Source: m.Path, Target: m.Target, ReadOnly: m.ReadOnly}
		if m.Volume != "" {
			one.Type, one.Source = mount.TypeVolume, m.Volume
		}
		host.Mounts = append(host.Mounts, one)
	}
	for _, s := range c.Secrets {
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeBind, Source: secretCopy(unit, s), Target: s.Target, ReadOnly: true})
	}
	return config, host, setPorts(c.Ports, config, host)
}

// override applies the user's docker: settings, which take precedence over ours.
func override(c *docker.Container, config *container.Config, host *container.HostConfig) error {
	for raw, into := range map[*json.RawMessage]any{&c.Config: config, &c.Host: host} {
		if len(*raw) > 0 {
			if err := json.Unmarshal(*raw, into); err != nil {
				return err
			}
		}
	}
	return nil
}

// hasInit reports whether the engine's init binary is installed; some packages omit it.
func (e *Engine) hasInit(ctx context.Context, api *client.Client) bool {
	info, err := e.cachedInfo(ctx, api)
	if err != nil || info.InitBinary == "" {
		return false
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/libexec/docker/cli-plugins", "/usr/libexec/docker", "/usr/local/libexec/docker", "/usr/bin", "/usr/sbin", "/usr/local/bin") {
		if _, err := os.Stat(filepath.Join(dir, info.InitBinary)); err == nil {
			return true
		}
	}
	return filepath.IsAbs(info.InitBinary)
}

func setPorts(list []docker.Port, config *container.Config, host *container.HostConfig) error {
	for _, p := range list {
		inner, ok := network.PortFrom(uint16(p.Inner), network.IPProtocol(p.Protocol))
		if !ok {
			return fmt.Errorf("%d/%s is not a port", p.Inner, p.Protocol)
		}
		b := network.PortBinding{HostPort: strconv.Itoa(p.Outer)}
		if p.Address != "" {
			a, err := netip.ParseAddr(p.Address)
			if err != nil {
				return err
			}
			b.HostIP = a
		}
		if config.ExposedPorts == nil {
			config.ExposedPorts = network.PortSet{}
		}
		config.ExposedPorts[inner] = struct{}{}
		host.PortBindings[inner] = append(host.PortBindings[inner], b)
	}
	return nil
}

// network connects a container to the network of its deployment.
func (e *Engine) network(ctx context.Context, api *client.Client, id docker.ID, name string, aliases []string, host *container.HostConfig) (*network.NetworkingConfig, error) {
	switch name {
	case "":
		return nil, nil
	case "host":
		host.NetworkMode = "host"
		return nil, nil
	}
	gateway, err := e.ensureNetwork(ctx, api, id.Scope, name)
	if err != nil {
		return nil, err
	}
	host.NetworkMode = container.NetworkMode(name)
	if gateway.IsValid() {
		host.ExtraHosts = []string{docker.Gateway + ":" + gateway.String()}
	}
	return &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{name: {Aliases: aliases}}}, nil
}

// ensureNetwork creates a deployment's network, and returns the machine's address in it.
func (e *Engine) ensureNetwork(ctx context.Context, api *client.Client, scope, name string) (netip.Addr, error) {
	e.mu.Lock()
	gateway, known := e.networks[scope+" "+name]
	e.mu.Unlock()
	if known {
		return gateway, nil
	}
	err := e.withLock("network "+name, func() error {
		for range 2 {
			res, err := api.NetworkInspect(ctx, name, client.NetworkInspectOptions{})
			if err == nil {
				if res.Network.Labels[docker.LabelScope] != scope {
					return fmt.Errorf("the network %s exists and is not managed by defx: rename or remove it", name)
				}
				for _, c := range res.Network.IPAM.Config {
					if c.Gateway.Is4() {
						gateway = c.Gateway
					}
				}
				e.mu.Lock()
				e.networks[scope+" "+name] = gateway
				e.mu.Unlock()
				return nil
			}
			if !errdefs.IsNotFound(err) {
				return err
			}
			_, err = api.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "bridge",
				Labels: e.labels(docker.ID{Scope: scope, Base: name}, name+".network", "")})
			if err != nil && !errdefs.IsConflict(err) {
				return fmt.Errorf("the engine cannot create the network: %w", err)
			}
		}
		return fmt.Errorf("the network %s was removed while it was created", name)
	})
	return gateway, err
}

// secretsDir holds copies of secrets for containers. Only root can enter its parent.
var secretsDir = "/var/lib/defx/secrets/.containers"

// secretCopy returns the path of the copy of a secret for a unit's container.
func secretCopy(unit string, s docker.Secret) string {
	return filepath.Join(secretsDir, docker.Name(unit), filepath.Base(s.Target))
}

// secret creates a copy of a secret that the container's user can read.
func secret(ctx context.Context, unit string, s docker.Secret) error {
	raw, err := os.ReadFile(s.Source)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the secret %s is missing on this machine: there is no %s", filepath.Base(s.Target), s.Source)
	}
	if err != nil {
		return err
	}
	to := secretCopy(unit, s)
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Dir(secretsDir), 0o700); err != nil {
		return err
	}
	return withFileLock(ctx, filepath.Dir(to), func() error { return writeSecret(raw, to, s.Owner) })
}

// writeSecret writes a file that only its owner can read.
func writeSecret(raw []byte, path string, owner int) error {
	if owner > 0 {
		return atomicfile.WriteOwned(path, raw, 0o400, owner, owner)
	}
	return atomicfile.Write(path, raw, 0o400)
}

// checkPorts fails if a port that the container publishes is in use.
func (e *Engine) checkPorts(ctx context.Context, api *client.Client, unit string, c *docker.Container, replaced []string) error {
	list, self := c.Ports, unit
	if c.Pod != "" {
		var p docker.Pod
		if _, err := readUnit(c.Pod, &p); err != nil {
			return err
		}
		list, self = p.Ports, c.Pod
	}
	if len(list) == 0 {
		return nil
	}
	running, err := api.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		return err
	}
	for _, p := range list {
		replaceable := false
		for _, x := range running.Items {
			if !slices.ContainsFunc(x.Ports, func(q container.PortSummary) bool {
				return int(q.PublicPort) == p.Outer && q.Type == p.Protocol && sharesPort(p.Address, q.IP)
			}) {
				continue
			}
			holderUnit := x.Labels[docker.LabelUnit]
			switch {
			case holderUnit == self || holderUnit != "" && slices.Contains(replaced, holderUnit):
				replaceable = true
			case docker.Kind(holderUnit) == ".pod" && docker.Kind(self) == ".pod" && x.Labels[docker.LabelBase] == baseOf(self):
				replaceable = true // the pod that this one replaces
			case holderUnit != "":
				return fmt.Errorf("port %d is taken by %s of %s", p.Outer, x.Labels[docker.LabelAddress], x.Labels[docker.LabelScope])
			default:
				return fmt.Errorf("port %d is taken by the container %s, which is not managed by defx", p.Outer, strings.TrimPrefix(x.Names[0], "/"))
			}
		}
		if replaceable {
			continue
		}
		var l io.Closer
		at := net.JoinHostPort(p.Address, strconv.Itoa(p.Outer))
		switch p.Protocol {
		case "tcp":
			l, err = net.Listen("tcp", at)
		case "udp":
			l, err = net.ListenPacket("udp", at)
		default:
			continue
		}
		if err != nil {
			name, holder := portHolder(p.Protocol, p.Outer)
			switch {
			case holder != "" && slices.Contains(replaced, holder):
				continue
			case strings.HasPrefix(holder, "defx-"):
				return fmt.Errorf("port %d is taken by %s", p.Outer, name)
			case name == "":
				name = "something on this machine"
			}
			return fmt.Errorf("port %d is taken by %s, which is not managed by defx: %w", p.Outer, name, err)
		}
		l.Close()
	}
	return nil
}

// baseOf returns the base of the name of a pod or a version: BASE.DIGEST.pod.
func baseOf(unit string) string {
	name := docker.Name(unit)
	return name[:max(0, strings.LastIndexByte(name, '.'))]
}

// sharesPort reports whether a binding of want conflicts with one of have on the same port.
func sharesPort(want string, have netip.Addr) bool {
	return want == "" || !have.IsValid() || have.IsUnspecified() || want == have.String() || want == "0.0.0.0" || want == "::"
}
