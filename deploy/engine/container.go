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
	"github.com/defx-dev/defx/internal/digest"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

func dial(path string) (net.Conn, error) { return net.Dial("unix", path) }

// find looks a container up by the name of its unit; nil if there is none. One
// that is a stranger's is an error.
func find(ctx context.Context, api *client.Client, unit string) (*container.InspectResponse, error) {
	res, err := api.ContainerInspect(ctx, docker.Name(unit), client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if c := res.Container; c.Config == nil || c.Config.Labels[docker.LabelUnit] != unit {
		return nil, fmt.Errorf("the name %s is taken by a container that is not defx's: rename or remove that, or name the service otherwise", docker.Name(unit))
	}
	return &res.Container, nil
}

// Prepare makes all that a unit needs and the unit itself, without starting it:
// whatever is in the way is told before anything is stopped. replaced are the
// units that will be stopped before it starts.
func (e *Engine) Prepare(ctx context.Context, unit string, replaced []string) error {
	names := []string{}
	if kind := docker.Kind(unit); kind == ".cron" || kind == ".job" {
		var c docker.Cron
		if _, err := read(unit, &c); err != nil {
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
	d, err := read(unit, &c)
	if err != nil {
		return err
	}
	return e.lasting(ctx, func(api *client.Client) error {
		for _, name := range append(names, c.Before...) { // a stranger may have it
			if _, err := find(ctx, api, name); err != nil {
				return err
			}
		}
		if _, err := e.create(ctx, api, unit, &c, d); err != nil {
			return err
		}
		if c.Pod == "" {
			return e.portsFree(ctx, api, unit, &c, replaced)
		}
		// Members look at the same ports: one must neither meet with the other's look, nor with their pod that starts meanwhile.
		return e.alone("pod "+baseOf(c.Pod), func() error { return e.portsFree(ctx, api, unit, &c, replaced) })
	})
}

// create makes the container of a version, and gives the one that was there
// already: each question to the engine costs a service tens of milliseconds
// where many start at once.
func (e *Engine) create(ctx context.Context, api *client.Client, unit string, c *docker.Container, d digest.Digest) (*container.InspectResponse, error) {
	have, err := find(ctx, api, unit)
	if err != nil {
		return nil, err
	}
	join := ""
	if c.Pod != "" {
		if join, err = e.pod(ctx, api, c.Pod, false); err != nil {
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
	for again := false; ; again = true {
		config, host, nets, err := e.translate(ctx, api, unit, c, d)
		if err != nil {
			return nil, err
		}
		if join != "" {
			host.NetworkMode = container.NetworkMode("container:" + join)
		}
		err = e.createNamed(ctx, api, unit, config, host, nets)
		if err == nil || again || !errdefs.IsNotFound(err) {
			return nil, err
		}
		e.forget() // something that was seen is gone
	}
}

func (e *Engine) createNamed(ctx context.Context, api *client.Client, unit string, config *container.Config, host *container.HostConfig, nets *network.NetworkingConfig) error {
	o := client.ContainerCreateOptions{Name: docker.Name(unit), Config: config, HostConfig: host, NetworkingConfig: nets}
	for until := time.Now().Add(10 * time.Second); ; {
		_, err := api.ContainerCreate(ctx, o)
		if err == nil {
			return nil
		}
		if errdefs.IsConflict(err) { // somebody was faster: an interrupted request of our own, a job whose time came, or a stranger
			have, ferr := find(ctx, api, unit)
			if ferr != nil {
				return ferr
			}
			if have != nil && have.Config.Labels[docker.LabelDigest] == config.Labels[docker.LabelDigest] {
				return nil
			}
			if have == nil && time.Now().Before(until) && sleep(ctx, 50*time.Millisecond) { // a name is taken before its container can be seen
				continue
			}
		}
		return fmt.Errorf("the engine does not make %s: %w", docker.Name(unit), err)
	}
}

func remove(ctx context.Context, api *client.Client, id string) error {
	_, err := api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if errdefs.IsNotFound(err) || err != nil && strings.Contains(err.Error(), "already in progress") {
		return nil
	}
	return err
}

// translate says in the engine's words what a container is. All that it leads to is made.
func (e *Engine) translate(ctx context.Context, api *client.Client, unit string, c *docker.Container, d digest.Digest) (*container.Config, *container.HostConfig, *network.NetworkingConfig, error) {
	fail := func(err error) (*container.Config, *container.HostConfig, *network.NetworkingConfig, error) {
		return nil, nil, nil, err
	}
	image, err := e.image(ctx, api, c)
	if err != nil {
		return fail(err)
	}
	initial := !c.NoInit && e.hasInit(ctx, api)
	config := &container.Config{Image: image, Entrypoint: c.Entrypoint, Cmd: c.Args, Env: c.Env, User: c.User, WorkingDir: c.WorkDir,
		Labels: e.labels(c.ID, unit, d), ExposedPorts: network.PortSet{}}
	host := &container.HostConfig{
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyMode(c.Restart)}, ReadonlyRootfs: c.ReadOnly,
		CapDrop: c.CapDrop, CapAdd: c.CapAdd, SecurityOpt: []string{"no-new-privileges"}, Tmpfs: c.Tmpfs, PortBindings: network.PortMap{},
		LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "10m", "max-file": "3"}},
		Resources: container.Resources{NanoCPUs: c.NanoCPUs, Memory: c.Memory},
	}
	if initial {
		host.Init = &initial
	}
	if !slices.Contains(c.CapDrop, "ALL") { // it is to be as the engine wants
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
		config.Cmd = []string{} // not the image's own
	}
	if err := ports(c.Ports, config, host); err != nil {
		return fail(err)
	}
	nets, err := e.network(ctx, api, c.ID, c.Network, c.Aliases, host)
	if err != nil {
		return fail(err)
	}
	gateway := strings.Join(host.ExtraHosts, "")
	for _, m := range c.Mounts {
		one := mount.Mount{Type: mount.TypeBind, Source: m.Path, Target: m.Target, ReadOnly: m.ReadOnly}
		if m.Volume != "" {
			one.Type, one.Source = mount.TypeVolume, m.Volume
			if err := e.volume(ctx, api, c, m); err != nil {
				return fail(err)
			}
		}
		host.Mounts = append(host.Mounts, one)
	}
	for _, s := range c.Secrets {
		copied, err := secret(ctx, unit, s)
		if err != nil {
			return fail(err)
		}
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeBind, Source: copied, Target: s.Target, ReadOnly: true})
	}
	for _, o := range c.Own {
		if err := os.Chown(o.Path, o.User, o.User); err != nil {
			return fail(err)
		}
	}
	// The user's own words come last, so that they win.
	for raw, into := range map[*json.RawMessage]any{&c.Config: config, &c.Host: host} {
		if len(*raw) > 0 {
			if err := json.Unmarshal(*raw, into); err != nil {
				return fail(err)
			}
		}
	}
	for k, v := range e.labels(c.ID, unit, d) {
		config.Labels[k] = v
	}
	if gateway != "" && !slices.Contains(host.ExtraHosts, gateway) { // the machine keeps its name
		host.ExtraHosts = append(host.ExtraHosts, gateway)
	}
	return config, host, nets, nil
}

// hasInit tells whether the engine has a process 1 to give away. Not every
// machine's packages bring it along.
func (e *Engine) hasInit(ctx context.Context, api *client.Client) bool {
	info, err := e.about(ctx, api)
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

func ports(list []docker.Port, config *container.Config, host *container.HostConfig) error {
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

// network puts a container into the network of its deployment.
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

// ensureNetwork makes a deployment's network, and tells the machine's address in it.
func (e *Engine) ensureNetwork(ctx context.Context, api *client.Client, scope, name string) (netip.Addr, error) {
	e.mu.Lock()
	gateway, known := e.networks[scope+" "+name]
	e.mu.Unlock()
	if known {
		return gateway, nil
	}
	err := e.alone("network "+name, func() error {
		for range 2 {
			res, err := api.NetworkInspect(ctx, name, client.NetworkInspectOptions{})
			if err == nil {
				if res.Network.Labels[docker.LabelScope] != scope {
					return fmt.Errorf("the network %s is not defx's: rename or remove it", name)
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
				return fmt.Errorf("the engine makes no network: %w", err)
			}
		}
		return fmt.Errorf("the network %s does not stay", name)
	})
	return gateway, err
}

// volume makes a volume, and gives a new one to the user of the container.
func (e *Engine) volume(ctx context.Context, api *client.Client, c *docker.Container, m docker.Mount) error {
	return e.alone("volume "+m.Volume, func() error {
		have, err := api.VolumeInspect(ctx, m.Volume, client.VolumeInspectOptions{})
		if err == nil {
			if have.Volume.Labels[docker.LabelScope] != c.Scope {
				return fmt.Errorf("the volume %s is not defx's: rename or remove it", m.Volume)
			}
			if m.Owner > 0 {
				return give(have.Volume.Mountpoint, m.Owner) // a crash may have come between
			}
			return nil
		}
		if !errdefs.IsNotFound(err) {
			return err
		}
		made, err := api.VolumeCreate(ctx, client.VolumeCreateOptions{Name: m.Volume, Driver: "local", Labels: e.labels(docker.ID{Scope: c.Scope, Base: c.Base}, m.Volume, "")})
		if err != nil {
			return err
		}
		if m.Owner > 0 {
			return give(made.Volume.Mountpoint, m.Owner)
		}
		return nil
	})
}

// give gives an empty folder of root's to a user.
func give(dir string, user int) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) { // an engine that keeps its volumes elsewhere
		return nil
	}
	if err != nil || len(list) > 0 {
		return err
	}
	return os.Chown(dir, user, user)
}

// secretsDir holds copies of secrets for containers, below a folder that root alone may enter.
var secretsDir = "/var/lib/defx/secrets/.containers"

// secret gives a container a copy of a secret that its user may read.
func secret(ctx context.Context, unit string, s docker.Secret) (string, error) {
	raw, err := os.ReadFile(s.Source)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("the secret %s is not on this machine: there is no %s", filepath.Base(s.Target), s.Source)
	}
	if err != nil {
		return "", err
	}
	dir := filepath.Join(secretsDir, docker.Name(unit))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := os.Chmod(filepath.Dir(secretsDir), 0o700); err != nil {
		return "", err
	}
	to := filepath.Join(dir, filepath.Base(s.Target))
	return to, within(ctx, dir, func() error { return copied(raw, to, s.Owner) })
}

// copied writes a file that only its owner may read.
func copied(raw []byte, to string, owner int) error {
	tmp := to + ".new"
	os.Remove(tmp)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if owner > 0 {
		err = errors.Join(err, f.Chown(owner, owner))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, to)
}

// portsFree tells who has a port that is needed.
func (e *Engine) portsFree(ctx context.Context, api *client.Client, unit string, c *docker.Container, replaced []string) error {
	list, self := c.Ports, unit
	if c.Pod != "" {
		var p docker.Pod
		if _, err := read(c.Pod, &p); err != nil {
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
	otherKind := slices.ContainsFunc(replaced, func(u string) bool { return docker.Kind(u) == "" })
	for _, p := range list {
		mine := false
		for _, x := range running.Items {
			if !slices.ContainsFunc(x.Ports, func(q container.PortSummary) bool {
				return int(q.PublicPort) == p.Outer && q.Type == p.Protocol && meet(p.Address, q.IP)
			}) {
				continue
			}
			theirs := x.Labels[docker.LabelUnit]
			switch {
			case theirs == self || theirs != "" && slices.Contains(replaced, theirs):
				mine = true
			case docker.Kind(theirs) == ".pod" && docker.Kind(self) == ".pod" && x.Labels[docker.LabelBase] == baseOf(self):
				mine = true // the pod that this one takes the place of
			case theirs != "":
				return fmt.Errorf("port %d is taken by %s of %s", p.Outer, x.Labels[docker.LabelAddress], x.Labels[docker.LabelScope])
			default:
				return fmt.Errorf("port %d is taken by the container %s, which is not defx's", p.Outer, strings.TrimPrefix(x.Names[0], "/"))
			}
		}
		if mine || otherKind {
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
			who := holder(p.Protocol, p.Outer)
			if who == "" {
				who = "something on this machine"
			}
			return fmt.Errorf("port %d is taken by %s, which is not defx's: %w", p.Outer, who, err)
		}
		l.Close()
	}
	return nil
}

// baseOf is the base in the name of a pod, or of a version: BASE.DIGEST.pod.
func baseOf(unit string) string {
	name := docker.Name(unit)
	return name[:max(0, strings.LastIndexByte(name, '.'))]
}

// meet tells whether two addresses of the machine share a port.
func meet(want string, have netip.Addr) bool {
	return want == "" || !have.IsValid() || have.IsUnspecified() || want == have.String() || want == "0.0.0.0" || want == "::"
}
