package agent

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/defx-dev/defx/internal/program"
)

// ExecRequest is a request to run a command in the environment of a unit that runs here.
type ExecRequest struct {
	Scope   string   `json:"scope"`
	Address string   `json:"address"`
	Command []string `json:"command"` // empty: a shell
	Term    string   `json:"term,omitempty"`
	Engine  string   `json:"engine,omitempty"` // socket of the docker engine; empty: the default
}

// Encode returns the request as hexadecimal digits, which every shell passes on unchanged.
func (e ExecRequest) Encode() (string, error) {
	raw, err := json.Marshal(e)
	return hex.EncodeToString(raw), err
}

// Exec replaces this process with the requested command, which runs as the unit's user, with
// its environment variables, working directory and namespaces.
func Exec(ctx context.Context, text string) error {
	raw, err := hex.DecodeString(text)
	var e ExecRequest
	if err == nil {
		err = json.Unmarshal(raw, &e)
	}
	if err != nil {
		return fmt.Errorf("invalid request: %w", err)
	}
	h := OpenHost("/", nil)
	entry, err := h.deployed(e.Scope, e.Address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	sys := &multiSupervisor{}
	sys.engine.Socket = e.Engine
	st, err := sys.State(ctx, entry.Unit)
	sys.Close()
	if err != nil {
		return err
	}
	if st.PID == 0 {
		return fmt.Errorf("%s is not running: it is %s", e.Address, st.Active)
	}
	proc := "/proc/" + strconv.Itoa(st.PID)
	info, err := os.Stat(proc)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("cannot determine the user it runs as")
	}
	environ, err := os.ReadFile(proc + "/environ")
	if err != nil {
		return err
	}
	nsenter, err := program.Find("nsenter")
	if err != nil {
		return fmt.Errorf("%w: install util-linux", err)
	}
	env := commandEnv(string(environ))
	if e.Term != "" {
		env = append(env, "TERM="+e.Term)
	}
	command := e.Command
	if len(command) == 0 {
		command = []string{"/bin/sh", "-i"}
	}
	spaces := []string{"--mount", "--uts", "--ipc", "--net", "--wd"}
	if isContainer(entry.Unit) {
		spaces = append(spaces, "--pid", "--root")
	}
	args := append(append([]string{"nsenter", "--target", strconv.Itoa(st.PID)}, spaces...), "--setgid", strconv.Itoa(int(owner.Gid)), "--setuid", strconv.Itoa(int(owner.Uid)), "--")
	args = append(args, command...)
	return syscall.Exec(nsenter, args, env)
}

// commandEnv returns the environment variables of a process for a command that root starts, and
// that becomes the process's user only then. The process can change its own, so those that have the
// dynamic linker or libc load code or data are left out, as for a program with the setuid bit.
func commandEnv(environ string) []string {
	unsafe := []string{"GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "NIS_PATH", "NLSPATH", "RESOLV_HOST_CONF", "RES_OPTIONS", "TMPDIR", "TZDIR"}
	var out []string
	for v := range strings.SplitSeq(environ, "\x00") {
		name, _, ok := strings.Cut(v, "=")
		if ok && !strings.HasPrefix(name, "LD_") && !strings.HasPrefix(name, "MALLOC_") && !slices.Contains(unsafe, name) {
			out = append(out, v)
		}
	}
	return out
}
