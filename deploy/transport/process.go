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

// process is a connection over the standard input and output of a program. Its errors
// include what the program wrote to standard error.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	stderr *tail
	ended  chan struct{} // closed when the program has ended
	once   sync.Once
}

// start runs a program in a process group of its own, so that a Ctrl-C for defx does not
// interrupt it.
func start(name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), stderr: &tail{}, ended: make(chan struct{})}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	p.cmd.Stderr, p.cmd.WaitDelay = p.stderr, time.Second
	detach(p.cmd)
	return p, p.cmd.Start()
}

// Read reads the program's output. At its end, the error includes the program's messages.
func (p *process) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	if n == 0 && err != nil {
		p.wait()
		if text := p.messages(); text != "" {
			return 0, errors.New("the connection was closed: " + text)
		}
		return 0, io.EOF
	}
	return n, nil
}

func (p *process) Write(b []byte) (int, error) { return p.in.Write(b) }

// wait waits for the end of the program and releases its resources. Its output must have
// been read, or be of no interest.
func (p *process) wait() {
	p.once.Do(func() { p.cmd.Wait(); close(p.ended) })
	<-p.ended
}

// Close closes the program's input, and kills the program if it does not end.
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

// kill ends the program at once. Readers see the end even if a child of the program keeps
// the pipe open.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.out.Close()
}

// line reads up to a newline, and not one byte more.
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
			return string(out), errors.New("the line is too long")
		}
	}
}

// messages returns what the program wrote to standard error, without ssh's own log lines.
func (p *process) messages() string {
	var out []string
	for l := range strings.Lines(p.stderr.String()) {
		l = strings.TrimSpace(l)
		if l != "" && !isSSHLog(l) {
			out = append(out, l)
		}
	}
	return strings.Join(out[max(0, len(out)-10):], "\n")
}

func isSSHLog(l string) bool {
	for _, p := range []string{"debug1:", "OpenSSH_", "Authenticated to ", "Authenticated using ", "Transferred: sent ", "Bytes per second: ", "Connection to ", "Shared connection to "} {
		if strings.HasPrefix(l, p) {
			return true
		}
	}
	return false
}

// tail keeps the last part of what is written to it.
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
