package transport

import (
	"errors"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
)

func TestExplain_HostKeysAndJumpHosts(t *testing.T) {
	const closed = "Connection closed by UNKNOWN port 65535\n"
	for name, c := range map[string]struct {
		via, stderr, msg, hint string
	}{
		"unknown key":              {"", "debug1: Server host key: ssh-ed25519 SHA256:abc\nHost key verification failed.\n", "its host key is not known: ssh-ed25519 SHA256:abc", "defx machine scan box prints the line for hostKey"},
		"unknown key behind a hop": {"gate", "debug1: Server host key: ssh-ed25519 SHA256:abc\nHost key verification failed.\n", "its host key is not known", "defx machine scan box"},
		"unknown key of the hop":   {"ops@gate:2222", "Host key verification failed.\n" + closed, "the host key of the jump host ops@gate:2222 is not known", "must be in ~/.ssh/known_hosts: 'ssh -p 2222 ops@gate true'"},
		"changed key of the hop":   {"gate", "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.\n" + closed, "the host key of the jump host gate has changed", "this may be an attack"},
		"login at the hop":         {"ssh://ops@gate", "ops@gate: Permission denied (publickey).\n" + closed, "cannot connect through the jump host ssh://ops@gate: ops@gate: Permission denied (publickey).", "'ssh ops@gate true' must work without a prompt"},
		"silent hop":               {"gate", closed, "cannot connect through the jump host gate: it closed the connection", "'ssh gate true'"},
	} {
		p := &process{stderr: &tail{}}
		p.stderr.Write([]byte(c.stderr))
		err := Dialer{}.explain(&graph.Machine{Name: "box", Connect: "ssh://web1", Via: c.via}, target{host: "web1"}, p, errors.New("closed"))
		e, ok := errors.AsType[*diag.Error](err)
		if !ok || !strings.HasPrefix(e.Msg, c.msg) || !strings.Contains(e.Hint, c.hint) || strings.Contains(e.Error(), "UNKNOWN port") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
