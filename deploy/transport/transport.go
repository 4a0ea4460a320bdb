// Package transport reaches machines: it gives a connection to the agent of
// each. It knows the forms of connect; it refuses to know what is said.
package transport

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/lang/diag"
)

// Dialer reaches the machines of one deployment.
type Dialer struct {
	Root     string       // folder of the entry file: relative dir: paths start there
	Backends backends.Set // of agents in this process
}

// Dial gives a client of the machine's agent. A dir: machine's agent runs in
// this process, and speaks the same frames as one far away.
func (d Dialer) Dial(ctx context.Context, m *graph.Machine) (*agent.Client, error) {
	kind, rest, _ := strings.Cut(m.Connect, ":")
	if kind != "dir" {
		return nil, diag.Errorf("machine "+m.Name, "connect %q: only dir: machines can be reached by this version", m.Connect).
			At("machines", m.Name, "connect").WithHint("connect: 'dir:./%s' makes a folder that an image can be baked of", m.Name)
	}
	path := filepath.FromSlash(rest)
	if path == "" {
		return nil, diag.Errorf("machine "+m.Name, "connect %q names no folder", m.Connect).At("machines", m.Name, "connect")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(d.Root, path)
	}
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		agent.Serve(there, agent.OpenHost(path, d.Backends)) // its end is the client's error
	}()
	c, err := agent.NewClient(ctx, here)
	if err != nil {
		return nil, fmt.Errorf("machine %s (%s): %w", m.Name, m.Connect, err)
	}
	return c, nil
}
