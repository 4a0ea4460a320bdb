package transport

import (
	"os"
	"os/exec"
	"regexp"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/internal/diag"
)

var (
	programRE = regexp.MustCompile(`^/var/lib/defx/bin/defx-[0-9a-f]{12}$`)
	hexRE     = regexp.MustCompile(`^[0-9a-f]+$`)
)

// Exec prepares the command that runs e in a unit of a machine. program is the path of defx
// there. The caller calls the returned function when the command has ended.
func (d Dialer) Exec(m *graph.Machine, program string, e agent.ExecRequest, terminal bool) (*exec.Cmd, func(), error) {
	fail := func(format string, args ...any) *diag.Error {
		return diag.Errorf("machine "+m.Name, format, args...).At("machines", m.Name, "connect")
	}
	request, err := e.Encode()
	if err != nil {
		return nil, nil, err
	}
	noCleanup := func() {}
	if m.Connect == "local" {
		program, err := d.program()
		if err != nil {
			return nil, nil, err
		}
		if os.Geteuid() == 0 {
			return exec.Command(program, "agent", "--enter", request), noCleanup, nil
		}
		return exec.Command("sudo", "--", program, "agent", "--enter", request), noCleanup, nil
	}
	to, err := parseSSH(m.Connect)
	if err != nil {
		return nil, nil, fail("a machine with connect %q runs nothing", m.Connect)
	}
	if !programRE.MatchString(program) || !hexRE.MatchString(request) {
		return nil, nil, fail("unexpected path of defx on the machine: %q", program)
	}
	knownHosts, err := pin(m)
	if err != nil {
		return nil, nil, err
	}
	tty := "-T"
	if terminal {
		tty = "-t"
	}
	args := append([]string{tty, "-o", "LogLevel=ERROR"}, d.sshArgs(m, to, knownHosts)...)
	// Both words were checked above and contain no shell syntax.
	script := `exec /bin/sh -c 'r=; if [ "$(id -u)" -ne 0 ]; then r="sudo -n"; fi; exec $r ` + program + ` agent --enter ` + request + `'`
	return exec.Command("ssh", append(args, script)...), func() { os.Remove(knownHosts) }, nil
}
