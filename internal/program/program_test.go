package program_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/internal/program"
)

func TestOutput_GetsNothingOfTheEnvironment(t *testing.T) {
	t.Setenv("SECRET_TOKEN", "hidden")
	if raw, err := exec.Command("env").Output(); err != nil || !strings.Contains(string(raw), "hidden") {
		t.Fatalf("the variable would not be seen: %q, %v", raw, err)
	}
	out, err := program.Program{Name: "env", Env: []string{"A=b"}}.Output(t.Context())
	if err != nil || strings.Contains(string(out), "hidden") || !strings.Contains(string(out), "A=b\n") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestOutput_IgnoresThePath(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "env"), []byte("#!/bin/sh\necho canary\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if raw, err := exec.Command("env").Output(); err != nil || string(raw) != "canary\n" {
		t.Fatalf("the program would not be seen: %q, %v", raw, err)
	}
	t.Chdir(dir)
	for _, name := range []string{"env", "./env", "../env"} {
		if out, _ := (program.Program{Name: name}).Output(t.Context()); strings.Contains(string(out), "canary") {
			t.Errorf("%s ran the program in PATH", name)
		}
	}
}

func TestOutput_NoShell(t *testing.T) {
	out, err := program.Program{Name: "printf", Args: []string{"%s|", "$(id)", "a b", ";id"}}.Output(t.Context())
	if err != nil || string(out) != "$(id)|a b|;id|" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestOutput_Bounds(t *testing.T) {
	sh := func(script string) program.Program { return program.Program{Name: "sh", Args: []string{"-c", script}} }
	p := sh("sleep 60")
	p.Limit = 50 * time.Millisecond
	begin := time.Now()
	if _, err := p.Output(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 30*time.Second {
		t.Errorf("deadline: %v after %s", err, time.Since(begin))
	}
	p = sh("yes")
	p.Max = 1000
	var much *program.TooMuch
	if _, err := p.Output(t.Context()); !errors.As(err, &much) {
		t.Errorf("endless output: %v", err)
	}
	_, err := sh(`printf 'bad\033[2J\n::set-env name=x::y' >&2; exit 3`).Output(t.Context())
	if err == nil || strings.Contains(err.Error(), "\x1b") || strings.Contains(err.Error(), "\n::") || !strings.Contains(err.Error(), "exit status 3: bad") {
		t.Errorf("messages: %q", err)
	}
	if _, err := (program.Program{Name: "no-such-program"}).Output(t.Context()); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
}

func TestStream_EndsWithItsReader(t *testing.T) {
	var got string
	err := program.Program{Name: "yes"}.Stream(t.Context(), func(r io.Reader) error {
		raw := make([]byte, 4)
		_, err := io.ReadFull(r, raw)
		got = string(raw)
		return err
	})
	if err != nil || got != "y\ny\n" {
		t.Errorf("%q, %v", got, err)
	}
}
