package transport

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
)

// HostKey is the key that a machine shows, as authorized_keys has it; "" for a
// machine that is not reached over ssh. Nothing is believed of it, nobody is let
// in, and nothing runs there. The user's own ssh asks, so that names of its
// configuration and jumps count.
func (d Dialer) HostKey(ctx context.Context, m *graph.Machine) (string, error) {
	if !strings.HasPrefix(m.Connect, "ssh:") {
		return "", nil
	}
	fail := func(format string, args ...any) *diag.Error {
		return diag.Errorf("machine "+m.Name, format, args...).At("machines", m.Name, "connect")
	}
	to, err := parseSSH(m.Connect)
	if err != nil {
		return "", fail("connect %q leads nowhere: %v", m.Connect, err).WithHint("ssh://user@host:port; user and port may be left out")
	}
	dir, err := os.MkdirTemp("", "defx-scan-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	seen := filepath.Join(dir, "seen")
	args := []string{"-T", "-x", "-a"}
	for _, o := range []string{"BatchMode=yes", fmt.Sprintf("ConnectTimeout=%d", max(1, int(d.connecting()/time.Second))), "StrictHostKeyChecking=accept-new",
		"UserKnownHostsFile=" + seen, "GlobalKnownHostsFile=/dev/null", "HostKeyAlias=" + pinned, "HashKnownHosts=no", "UpdateHostKeys=no", "VerifyHostKeyDNS=no",
		"KnownHostsCommand=none", "PreferredAuthentications=none", "ControlMaster=no", "ControlPath=none", "RemoteCommand=none", "PermitLocalCommand=no", "ClearAllForwardings=yes"} {
		args = append(args, "-o", o)
	}
	if m.Via != "" {
		for hop := range strings.SplitSeq(m.Via, ",") {
			if !hopRE.MatchString(hop) {
				return "", fail("via %q is not user@host:port", m.Via)
			}
		}
		args = append(args, "-o", "ProxyJump="+m.Via)
	}
	if to.user != "" {
		args = append(args, "-l", to.user)
	}
	if to.port != "" {
		args = append(args, "-p", to.port)
	}
	p, err := start("ssh", append(args, "--", to.host, "true")...)
	if err != nil {
		return "", fail("ssh cannot be run: %v", err).WithHint("defx reaches machines through OpenSSH's client: install it")
	}
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	limit := time.AfterFunc(2*d.connecting(), p.kill)
	defer limit.Stop()
	p.in.Close()
	_, err = p.line() // it is let in nowhere, so this is its end
	p.kill()
	p.wait()
	raw, _ := os.ReadFile(seen)
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == pinned {
			return f[1] + " " + f[2], nil
		}
	}
	return "", d.explain(m, to, p, err)
}

// SameKey tells whether two keys are one, whatever is said about them.
func SameKey(a, b string) bool {
	ka, ba, ea := parsePin(a)
	kb, bb, eb := parsePin(b)
	return ea == nil && eb == nil && ka == kb && ba == bb
}

// Fingerprint is how ssh shows a key in the form of authorized_keys.
func Fingerprint(key string) string {
	kind, blob, err := parsePin(key)
	if err != nil {
		return "unreadable"
	}
	return kind + " " + fingerprint(blob)
}
