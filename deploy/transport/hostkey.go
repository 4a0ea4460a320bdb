package transport

import (
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
)

// HostKey asks a machine for the public key of its ssh server. It is for
// machines that were made a moment ago, and that nobody has seen yet: from
// then on the key is pinned.
func (d Dialer) HostKey(ctx context.Context, m *graph.Machine) (string, error) {
	u, err := url.Parse(m.Connect)
	if err != nil || u.Scheme != "ssh" {
		return "", fmt.Errorf("connect %q is not reached by ssh", m.Connect)
	}
	ctx, cancel := context.WithTimeout(ctx, d.connecting())
	defer cancel()
	args := []string{"-T", "5", "-t", "ed25519"}
	if u.Port() != "" {
		args = append(args, "-p", u.Port())
	}
	var out []byte
	if m.Via != "" { // the hop looks for us
		out, err = exec.CommandContext(ctx, "ssh", "-x", "-a", "-o", "BatchMode=yes", "-o", "ClearAllForwardings=yes", "--", m.Via, "ssh-keyscan", strings.Join(args, " "), u.Hostname()).Output()
	} else {
		out, err = exec.CommandContext(ctx, "ssh-keyscan", append(args, "--", u.Hostname())...).Output()
	}
	if err != nil {
		return "", fmt.Errorf("its ssh server does not tell its key: %w", err)
	}
	for l := range strings.Lines(string(out)) {
		if f := strings.Fields(l); len(f) >= 3 && f[1] == "ssh-ed25519" {
			return f[1] + " " + f[2], nil
		}
	}
	return "", fmt.Errorf("its ssh server does not tell its key")
}
