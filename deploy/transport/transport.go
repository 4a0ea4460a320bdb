// Package transport connects to machines: it returns a client of each machine's agent. It
// knows the forms of connect; it refuses to know what is requested.
//
// A remote machine is reached through the user's own ssh, with the user's configuration. The
// agent that runs there is this program, installed under the digest of its bytes.
// Invariants: nothing of the deployment is ever passed to a shell; every wait has a timeout;
// a connection to a machine with an unexpected host key fails.
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

// Dialer connects to the machines of one deployment.
type Dialer struct {
	Root       string       // folder of the entry file: relative dir: paths start here
	Backends   backends.Set // of agents that run in this process
	Executable string       // the program to install on machines; "": the running one
	Builds     string       // folder with programs for other architectures, defx-linux-ARCH; "": none

	Connecting time.Duration // limit until a machine answers; 0: 15 seconds
	Sending    time.Duration // limit until the program is installed; 0: 10 minutes
}

func (d Dialer) connecting() time.Duration {
	if d.Connecting > 0 {
		return d.Connecting
	}
	return 15 * time.Second
}

// Dial connects to a machine's agent. The agent of a dir: machine runs in this process, and
// uses the same protocol.
func (d Dialer) Dial(ctx context.Context, m *graph.Machine) (*agent.Client, error) {
	c, err := d.dial(ctx, m)
	if err == nil {
		c.Name = m.Name
	}
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
	return nil, diag.Errorf("machine "+m.Name, "connect %q is not a valid address", m.Connect).At("machines", m.Name, "connect").
		WithHint("use one of 'local', 'dir:PATH' and 'ssh://user@host:port'")
}

func (d Dialer) dialDir(ctx context.Context, m *graph.Machine, rest string) (*agent.Client, error) {
	path := filepath.FromSlash(rest)
	if path == "" {
		return nil, diag.Errorf("machine "+m.Name, "connect %q has no path", m.Connect).At("machines", m.Name, "connect")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(d.Root, path)
	}
	return d.inProcess(ctx, m, agent.OpenHost(path, d.Backends))
}

// inProcess starts an agent in this process.
func (d Dialer) inProcess(ctx context.Context, m *graph.Machine, h *agent.Host) (*agent.Client, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		agent.Serve(context.WithoutCancel(ctx), there, h) // the client sees its end as an error
	}()
	c, err := agent.NewClient(ctx, here)
	if err != nil {
		return nil, fmt.Errorf("machine %s (%s): %w", m.Name, m.Connect, err)
	}
	return c, nil
}

// dialLocal connects to the machine that defx runs on: as root in this process, otherwise
// through sudo.
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
		return nil, fail("connect 'local' needs root, and sudo cannot be started: %v", err).WithHint("run defx as root")
	}
	limited, cancel := context.WithTimeout(ctx, d.connecting())
	defer cancel()
	c, err := agent.NewClient(limited, p)
	if err != nil {
		p.Close()
		if messages := p.messages(); messages != "" {
			return nil, fail("connect 'local' needs root, and sudo failed: %s", messages).WithHint("run defx as root, or let sudo allow it without a password")
		}
		return nil, fail("the agent does not respond: %v", err)
	}
	return c, nil
}

// program returns the path of the program to install.
func (d Dialer) program() (string, error) {
	if d.Executable != "" {
		return d.Executable, nil
	}
	return os.Executable()
}
