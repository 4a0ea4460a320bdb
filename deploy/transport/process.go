package transport

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// process is a connection through the standard input and output of a program.
// Its errors say what the program wrote before it ended.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	errors *tail
	ended  chan struct{} // closed when it is over
	once   sync.Once
}

// start runs a program in a process group of its own: a Ctrl-C for us is none
// for what is under way.
func start(name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), errors: &tail{}, ended: make(chan struct{})}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	p.cmd.Stderr, p.cmd.WaitDelay = p.errors, time.Second
	detach(p.cmd)
	return p, p.cmd.Start()
}

// Read reads what the program says. Its end is an error that tells why.
func (p *process) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	if n == 0 && err != nil {
		p.wait()
		if said := p.said(); said != "" {
			return 0, errors.New("the connection ended: " + said)
		}
		return 0, io.EOF
	}
	return n, nil
}

func (p *process) Write(b []byte) (int, error) { return p.in.Write(b) }

// wait reaps the program once; all output was read, or nobody wants it.
func (p *process) wait() {
	p.once.Do(func() { p.cmd.Wait(); close(p.ended) })
	<-p.ended
}

// Close hangs up. A program that does not end by that is killed.
func (p *process) Close() error {
	p.in.Close()
	go p.wait()
	select {
	case <-p.ended:
	case <-time.After(2 * time.Second):
		p.cmd.Process.Kill()
		<-p.ended
	}
	return nil
}

// kill ends the program now: whoever reads from it sees that, even if a child
// of the program goes on and holds the other end.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.out.Close()
}

// line reads up to a newline, and not one byte beyond.
func (p *process) line() (string, error) {
	var out []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(p.out, b); err != nil {
			p.wait()
			return string(out), err
		}
		if b[0] == '\n' {
			return string(out), nil
		}
		if out = append(out, b[0]); len(out) > 64<<10 {
			return string(out), errors.New("a line without end")
		}
	}
}

// said is what the program wrote to its standard error, without ssh's own chatter.
func (p *process) said() string {
	var out []string
	for l := range strings.Lines(p.errors.String()) {
		l = strings.TrimSpace(l)
		if l != "" && !chatter(l) {
			out = append(out, l)
		}
	}
	return strings.Join(out[max(0, len(out)-10):], "\n")
}

func chatter(l string) bool {
	for _, p := range []string{"debug1:", "OpenSSH_", "Authenticated to ", "Authenticated using ", "Transferred: sent ", "Bytes per second: ", "Connection to ", "Shared connection to "} {
		if strings.HasPrefix(l, p) {
			return true
		}
	}
	return false
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if extra := len(t.b) - 64<<10; extra > 0 {
		t.b = bytes.Clone(t.b[extra:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
