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

// HostKey returns the host key that a machine presents, in the format of authorized_keys; ""
// for a machine that is not reached over ssh. It verifies nothing, does not log in, and runs
// nothing there. It uses the user's ssh, so that its configuration and jump hosts apply.
func (d Dialer) HostKey(ctx context.Context, m *graph.Machine) (string, error) {
	if !strings.HasPrefix(m.Connect, "ssh:") {
		return "", nil
	}
	fail := func(format string, args ...any) *diag.Error {
		return diag.Errorf("machine "+m.Name, format, args...).At("machines", m.Name, "connect")
	}
	to, err := parseSSH(m.Connect)
	if err != nil {
		return "", fail("connect %q is not a valid address: %v", m.Connect, err).WithHint("use ssh://user@host:port; user and port are optional")
	}
	dir, err := os.MkdirTemp("", "defx-scan-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	keyFile := filepath.Join(dir, "seen")
	args := []string{"-T", "-x", "-a"}
	for _, o := range []string{"BatchMode=yes", fmt.Sprintf("ConnectTimeout=%d", max(1, int(d.connecting()/time.Second))), "StrictHostKeyChecking=accept-new",
		"UserKnownHostsFile=" + keyFile, "GlobalKnownHostsFile=/dev/null", "HostKeyAlias=" + pinned, "HashKnownHosts=no", "UpdateHostKeys=no", "VerifyHostKeyDNS=no",
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
		return "", fail("cannot run ssh: %v", err).WithHint("defx connects through OpenSSH's client: install it")
	}
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	limit := time.AfterFunc(2*d.connecting(), p.kill)
	defer limit.Stop()
	p.in.Close()
	_, err = p.line() // no login method is offered, so ssh only ends
	p.kill()
	p.wait()
	raw, _ := os.ReadFile(keyFile)
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == pinned {
			return f[1] + " " + f[2], nil
		}
	}
	return "", d.explain(m, to, p, err)
}

// SameKey reports whether two keys are equal, apart from their comments.
func SameKey(a, b string) bool {
	ka, ba, ea := parsePin(a)
	kb, bb, eb := parsePin(b)
	return ea == nil && eb == nil && ka == kb && ba == bb
}

// Fingerprint returns a key of the form of authorized_keys as ssh shows it.
func Fingerprint(key string) string {
	kind, blob, err := parsePin(key)
	if err != nil {
		return "unreadable"
	}
	return kind + " " + fingerprint(blob)
}
