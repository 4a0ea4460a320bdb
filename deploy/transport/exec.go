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
	wordRE    = regexp.MustCompile(`^[0-9a-f]+$`)
)

// Exec makes the command that puts us into a unit of a machine. program is
// defx there. The second result is to be called when it is over.
func (d Dialer) Exec(m *graph.Machine, program string, e agent.ExecRequest, terminal bool) (*exec.Cmd, func(), error) {
	fail := func(format string, args ...any) *diag.Error {
		return diag.Errorf("machine "+m.Name, format, args...).At("machines", m.Name, "connect")
	}
	word, err := e.Encode()
	if err != nil {
		return nil, nil, err
	}
	nothing := func() {}
	if m.Connect == "local" {
		here, err := d.program()
		if err != nil {
			return nil, nil, err
		}
		if os.Geteuid() == 0 {
			return exec.Command(here, "agent", "--enter", word), nothing, nil
		}
		return exec.Command("sudo", "--", here, "agent", "--enter", word), nothing, nil
	}
	to, err := parseSSH(m.Connect)
	if err != nil {
		return nil, nil, fail("nothing runs behind connect %q", m.Connect)
	}
	if !programRE.MatchString(program) || !wordRE.MatchString(word) {
		return nil, nil, fail("defx lies at an unexpected place: %q", program)
	}
	known, err := pin(m)
	if err != nil {
		return nil, nil, err
	}
	tty := "-T"
	if terminal {
		tty = "-t"
	}
	args := append([]string{tty, "-o", "LogLevel=ERROR"}, d.sshArgs(m, to, known)...)
	// Both words were looked at above: digits and letters are all that is in them.
	script := `exec /bin/sh -c 'r=; if [ "$(id -u)" -ne 0 ]; then r="sudo -n"; fi; exec $r ` + program + ` agent --enter ` + word + `'`
	return exec.Command("ssh", append(args, script)...), func() { os.Remove(known) }, nil
}
