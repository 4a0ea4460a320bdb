// Package transport reaches machines: it gives a connection to the agent of
// each. It knows the forms of connect; it refuses to know what is said.
//
// A machine far away is reached through the user's own ssh, with the user's
// configuration. What runs there is this very program, kept under the digest
// of its bytes. Invariants: nothing of the deployment ever becomes text for a
// shell; every wait ends by itself; a host key that is not the known one stops.
package transport

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/internal/diag"
)

// Dialer reaches the machines of one deployment.
type Dialer struct {
	Root       string       // folder of the entry file: relative dir: paths start there
	Backends   backends.Set // of agents in this process
	Executable string       // the program that is put on machines; "" = the one that runs
	Builds     string       // folder of programs for other architectures, defx-linux-ARCH; "" = there are none

	Connecting time.Duration // until a machine answers; 0 = 15 seconds
	Sending    time.Duration // until the program is there; 0 = 10 minutes
}

func (d Dialer) connecting() time.Duration {
	if d.Connecting > 0 {
		return d.Connecting
	}
	return 15 * time.Second
}

// Dial gives a client of the machine's agent. A dir: machine's agent runs in
// this process, and speaks the same frames as one far away.
func (d Dialer) Dial(ctx context.Context, m *graph.Machine) (*agent.Client, error) {
	c, err := d.dial(ctx, m)
	if err == nil && m.Docker != "" {
		if err = c.UseEngine(ctx, m.Docker); err != nil {
			c.Close()
			return nil, fmt.Errorf("machine %s: %w", m.Name, err)
		}
	}
	return c, err
}

func (d Dialer) dial(ctx context.Context, m *graph.Machine) (*agent.Client, error) {
	kind, rest, _ := strings.Cut(m.Connect, ":")
	switch {
	case kind == "dir":
		return d.dialDir(ctx, m, rest)
	case m.Connect == "local":
		return d.dialLocal(ctx, m)
	case kind == "ssh":
		return d.dialSSH(ctx, m)
	}
	return nil, diag.Errorf("machine "+m.Name, "connect %q leads nowhere", m.Connect).At("machines", m.Name, "connect").
		WithHint("one of 'local', 'dir:PATH' and 'ssh://user@host:port'")
}

func (d Dialer) dialDir(ctx context.Context, m *graph.Machine, rest string) (*agent.Client, error) {
	path := filepath.FromSlash(rest)
	if path == "" {
		return nil, diag.Errorf("machine "+m.Name, "connect %q names no folder", m.Connect).At("machines", m.Name, "connect")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(d.Root, path)
	}
	return d.inProcess(ctx, m, agent.OpenHost(path, d.Backends))
}

// inProcess runs an agent beside us.
func (d Dialer) inProcess(ctx context.Context, m *graph.Machine, h *agent.Host) (*agent.Client, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		agent.Serve(context.WithoutCancel(ctx), there, h) // its end is the client's error
	}()
	c, err := agent.NewClient(ctx, here)
	if err != nil {
		return nil, fmt.Errorf("machine %s (%s): %w", m.Name, m.Connect, err)
	}
	return c, nil
}

// dialLocal reaches the machine that we are on: as root in this process, else through sudo.
func (d Dialer) dialLocal(ctx context.Context, m *graph.Machine) (*agent.Client, error) {
	if os.Geteuid() == 0 {
		return d.inProcess(ctx, m, agent.OpenMachine(d.Backends))
	}
	fail := func(format string, args ...any) *diag.Error {
		return diag.Errorf("machine "+m.Name, format, args...).At("machines", m.Name, "connect")
	}
	program, err := d.program()
	if err != nil {
		return nil, fail("%v", err)
	}
	p, err := start("sudo", "-n", program, "agent")
	if err != nil {
		return nil, fail("connect 'local' needs root, and sudo cannot be run: %v", err).WithHint("run defx as root")
	}
	greet, cancel := context.WithTimeout(ctx, d.connecting())
	defer cancel()
	c, err := agent.NewClient(greet, p)
	if err != nil {
		p.Close()
		if said := p.said(); said != "" {
			return nil, fail("connect 'local' needs root, and sudo says: %s", said).WithHint("run defx as root, or let sudo allow it without a password")
		}
		return nil, fail("the agent does not answer: %v", err)
	}
	return c, nil
}

// program is the file of the program that runs.
func (d Dialer) program() (string, error) {
	if d.Executable != "" {
		return d.Executable, nil
	}
	return os.Executable()
}
