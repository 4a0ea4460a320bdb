// Package program runs other programs. Each is found at an absolute path or in a fixed list of
// folders, gets its arguments without a shell and a minimal environment, ends at a deadline, and its
// output is bounded. Nothing of the environment of defx, which may have credentials, reaches it.
package program

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode"
)

// folders are those of a system, in which only root can install programs. The last is that of NixOS.
var folders = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin", "/run/current-system/sw/bin"}

// Program is a program with its arguments.
type Program struct {
	Name  string        // absolute path, or name of a program of the system
	Args  []string      // what users wrote is the value of an option, or follows "--"
	Env   []string      // in addition to PATH and the locale C.UTF-8
	Limit time.Duration // how long it may run; 0: a minute
	Max   int           // bytes of its output that are kept, and of its error messages; 0: 16 MiB
}

// Find returns the path of a program of the system.
func Find(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	if name != filepath.Base(name) {
		return "", fmt.Errorf("program %q: it is neither a name nor an absolute path", name)
	}
	for _, dir := range folders {
		p := filepath.Join(dir, name)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("program %s: %w in %s", name, exec.ErrNotFound, strings.Join(folders, ", "))
}

func (p Program) command(ctx context.Context) (*exec.Cmd, error) {
	file, err := Find(p.Name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, file, p.Args...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=" + strings.Join(folders, ":"), "LC_ALL=C.UTF-8"}, p.Env...)
	cmd.WaitDelay = time.Second // something may keep its output open
	endWithChildren(cmd)
	return cmd, nil
}

// TooMuch is the error of a program that wrote more than it may.
type TooMuch struct {
	Name string
	Max  int
}

func (t *TooMuch) Error() string {
	return fmt.Sprintf("%s wrote more than %d bytes", filepath.Base(t.Name), t.Max)
}

// Output runs the program to its end and returns what it wrote. An error has its error messages.
func (p Program) Output(ctx context.Context) ([]byte, error) {
	limit := cmp.Or(p.Limit, time.Minute)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd, err := p.command(ctx)
	if err != nil {
		return nil, err
	}
	most := cmp.Or(p.Max, 16<<20)
	out, messages := &bounded{max: most, full: cancel}, &bounded{max: most}
	cmd.Stdout, cmd.Stderr = out, messages
	err = cmd.Run()
	switch name := filepath.Base(p.Name); {
	case out.over:
		return nil, &TooMuch{p.Name, most}
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("%s took more than %s: %w", name, limit, ctx.Err())
	case err != nil && messages.kept.Len() > 0:
		return nil, fmt.Errorf("%s: %w: %s", name, err, Printable(strings.TrimSpace(messages.kept.String())))
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out.kept.Bytes(), nil
}

// Stream runs the program while read reads its output, without a deadline and a bound: it ends with
// read or ctx.
func (p Program) Stream(ctx context.Context, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd, err := p.command(ctx)
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = read(out)
	cancel()
	cmd.Wait() // it was killed, or has ended
	return err
}

// bounded keeps the first bytes that are written to it.
type bounded struct {
	kept bytes.Buffer // not embedded: its ReadFrom has no bound
	max  int
	over bool
	full func()
}

func (b *bounded) Write(raw []byte) (int, error) {
	if room := b.max - b.kept.Len(); len(raw) > room {
		b.kept.Write(raw[:room])
		if b.over = true; b.full != nil {
			b.full()
		}
		return len(raw), nil
	}
	return b.kept.Write(raw)
}

// Printable returns text of a program for a terminal or a log of CI: without control characters,
// and lines after the first indented, because CI systems read commands at the beginning of lines.
func Printable(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control):
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(text, string(unicode.ReplacementChar)))
	return strings.ReplaceAll(text, "\n", "\n    ")
}
