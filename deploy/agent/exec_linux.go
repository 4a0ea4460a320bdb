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

// ExecRequest asks for a command in the surroundings of a unit that runs here.
type ExecRequest struct {
	Scope   string   `json:"scope"`
	Address string   `json:"address"`
	Command []string `json:"command"` // none = a shell
	Term    string   `json:"term,omitempty"`
	Engine  string   `json:"engine,omitempty"` // socket of the docker engine, if it is not where they usually are
}

// Encode is the request as one word of hexadecimal digits, which no shell changes.
func (e ExecRequest) Encode() (string, error) {
	raw, err := json.Marshal(e)
	return hex.EncodeToString(raw), err
}

// Exec becomes what is asked for: as the unit's user, with its variables, in
// its folder, and seeing what it sees.
func Exec(text string) error {
	raw, err := hex.DecodeString(text)
	var e ExecRequest
	if err == nil {
		err = json.Unmarshal(raw, &e)
	}
	if err != nil {
		return fmt.Errorf("not a request: %w", err)
	}
	h := OpenHost("/", nil)
	entry, err := h.standing(e.Scope, e.Address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	sys := &multiSupervisor{}
	sys.engine.Socket = e.Engine
	st, err := sys.State(ctx, entry.Unit)
	sys.Close()
	if err != nil {
		return err
	}
	if st.PID == 0 {
		return fmt.Errorf("%s does not run: it is %s", e.Address, st.Active)
	}
	proc := "/proc/" + strconv.Itoa(st.PID)
	info, err := os.Stat(proc)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("nobody knows as whom it runs")
	}
	environ, err := os.ReadFile(proc + "/environ")
	if err != nil {
		return err
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return fmt.Errorf("%w: it is of util-linux", err)
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
	if contained(entry.Unit) {
		spaces = append(spaces, "--pid", "--root")
	}
	args := append(append([]string{"nsenter", "--target", strconv.Itoa(st.PID)}, spaces...), "--setgid", strconv.Itoa(int(owner.Gid)), "--setuid", strconv.Itoa(int(owner.Uid)), "--")
	args = append(args, command...)
	return syscall.Exec(nsenter, args, env)
}
