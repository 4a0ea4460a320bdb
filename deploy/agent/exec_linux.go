package agent

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
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
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return fmt.Errorf("%w: install util-linux", err)
	}
	env := strings.FieldsFunc(string(environ), func(r rune) bool { return r == 0 })
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
