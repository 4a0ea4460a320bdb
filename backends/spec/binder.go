package spec

import (
	"cmp"
	"errors"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/document"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/size"
	"github.com/defx-dev/defx/internal/token"
)

var (
	octRE  = regexp.MustCompile(`^[0-7]{3,4}$`)
	zoneRE = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$`)
)

// Binder replaces refs by their values and collects the errors of a payload.
type Binder struct {
	Subject string
	Value   func(token.Token) (string, bool)
	Errs    diag.List
}

// Fail adds an error at a path that begins with "service" or with the backend's name.
func (b *Binder) Fail(at []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(b.Subject, format, args...).At(at...)
	b.Errs = append(b.Errs, e)
	return e
}

// CheckNames refuses names that cannot be part of the names on a machine.
func (b *Binder) CheckNames(environment, deployment string, a graph.Address) {
	for _, name := range []string{environment, deployment, a.Name, cmp.Or(a.Lib, "x"), cmp.Or(a.Member, "x"), cmp.Or(a.Replica, "x")} {
		if !graph.ValidName(name) {
			b.Fail(At(), "%q is not a valid name", name)
		}
	}
}

// Readiness returns the readiness check of a version, without Port and Exec.
func (b *Binder) Readiness(r *graph.Ready) *backends.Ready {
	return &backends.Ready{HTTP: r.HTTP, TCP: r.TCP, Retries: r.Retries,
		Interval: b.Duration(At("ready", "interval"), r.Interval, time.Second),
		Timeout:  b.Duration(At("ready", "timeout"), r.Timeout, 30*time.Second)}
}

// StopTimeout returns how long a service may take to stop: its stop command, and then its
// processes, each have the whole timeout. It is 0 if the service does not set one.
func (b *Binder) StopTimeout(s *graph.Stop) time.Duration {
	if s == nil || s.Timeout == "" {
		return 0
	}
	d := b.Duration(At("stop", "timeout"), s.Timeout, 0)
	if len(s.Command) > 0 {
		d *= 2
	}
	return d
}

// Content returns the content of a file, with refs replaced by their values.
func (b *Binder) Content(where []string, f File) []byte {
	if f.Doc == nil {
		data := []byte(b.Bind(where, f.Text))
		if err := CheckUTF8(string(data)); err != nil {
			b.Fail(where, "%s %v", Field(where), err)
		}
		return data
	}
	filled := f.Doc.Map(where, func(_ []string, t token.Text, _ bool) []any {
		s := b.Bind(where, t)
		if len(t) == 1 && t[0].Token != nil && t[0].Token.Field == "port" {
			if n, err := strconv.Atoi(s); err == nil {
				return []any{float64(n)} // a port on its own is a number, in formats that have numbers
			}
		}
		return []any{s}
	})
	data, err := document.Encode(f.Kind, filled.V)
	if err != nil {
		b.Fail(append(slices.Clone(where), f.Kind), "%s: %v", Field(where), err)
	}
	return data
}

// CheckHostFile refuses paths at which no file of the machine can be written: those of the kernel,
// those that a boot empties, and those of defx and of the units that it writes.
func (b *Binder) CheckHostFile(where []string, p string) {
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", path.Dir(backends.StorePath), "/etc/systemd/system"} {
		if graph.Below(graph.RealPath(p), dir) {
			b.Fail(where, "%s is below %s, where hostFiles are not allowed", Field(where), dir)
		}
	}
}

// Mode parses the permissions of a file that is shown to the service. The service must be able to
// read it and must not be able to write it. A file without an owner belongs to root.
func (b *Binder) Mode(where []string, f File, user string) fs.FileMode {
	m, ok := Octal(f.Mode)
	switch {
	case !ok || m > 0o777:
		b.Fail(where, "mode %q must be three or four octal digits", f.Mode)
	case m&0o222 != 0:
		b.Fail(where, "mode %q is writable, but the file is mounted read-only", f.Mode).WithHint("mode: '0444' or '0555'")
	case m&0o004 == 0 && user != "root" && (f.Owner == "" || f.Owner != user):
		b.Fail(where, "mode %q does not let the service's user read the file", f.Mode).
			WithHint("mode: '0444', or set owner to the service's user; use secrets for confidential content")
	}
	return m
}

// Duration parses a positive duration. It returns otherwise for an empty string.
func (b *Binder) Duration(where []string, s string, otherwise time.Duration) time.Duration {
	if s == "" {
		return otherwise
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		b.Fail(where, "%q is not a positive duration", s).WithHint("a number with a unit: 500ms, 30s, 5m, 2h")
	}
	return d
}

// Zone checks the syntax of a time zone's name. Which zones exist depends on the machine.
func (b *Binder) Zone(where []string, s string) string {
	if !zoneRE.MatchString(s) {
		b.Fail(where, "%q is not a time zone name", s).WithHint("for example Europe/Berlin")
	}
	return s
}

// Bind returns the text with every ref replaced by its value, as token.Text.Fill does.
func (b *Binder) Bind(at []string, t token.Text) string {
	return t.Fill(func(tok token.Token) string {
		v, ok := "", false
		if tok.Kind == token.Ref {
			v, ok = b.Value(tok)
		}
		if !ok {
			b.Fail(at, "%s reads %s, which has no value yet", Field(at), tok)
		}
		return v
	})
}

// CheckUTF8 returns an error unless s survives encoding as JSON.
func CheckUTF8(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("is not valid UTF-8")
	}
	return nil
}

// Octal parses permissions. It returns false unless s has three or four octal digits.
func Octal(s string) (fs.FileMode, bool) {
	if !octRE.MatchString(s) {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 8, 32)
	return fs.FileMode(n), err == nil
}

var signals = []string{"SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL",
	"SIGUSR1", "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT", "SIGSTOP",
	"SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO",
	"SIGPWR", "SIGSYS"}

// Signal returns the full name of a signal, with SIG.
func (b *Binder) Signal(where []string, s string) string {
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if !slices.Contains(signals, name) {
		b.Fail(where, "%q is not a signal", s).WithHint("%s", diag.Suggest(name, signals))
	}
	return name
}

// Bytes parses the size in a field.
func (b *Binder) Bytes(where []string, s string) uint64 {
	n, err := size.ParseMemory(s)
	b.checkSize(where, err)
	return uint64(n)
}

// MilliCores parses a number of cores, in thousandths.
func (b *Binder) MilliCores(where []string, s string) int {
	milli, err := size.ParseCores(s)
	b.checkSize(where, err)
	return int(milli)
}

// checkSize reports the error of a size, if any, with its hint.
func (b *Binder) checkSize(where []string, err error) {
	if err == nil {
		return
	}
	e := b.Fail(where, "%v", err)
	if s, ok := errors.AsType[*size.Error](err); ok {
		e.WithHint("%s", s.Hint())
	}
}
