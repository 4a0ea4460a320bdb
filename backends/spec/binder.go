package spec

import (
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/defx-dev/defx/backends/document"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/size"
	"github.com/defx-dev/defx/internal/token"
)

var (
	octRE  = regexp.MustCompile(`^[0-7]{3,4}$`)
	zoneRE = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$`)
)

// Binder fills the values of refs in, and collects what is wrong with a payload
// while that is done.
type Binder struct {
	Subject string
	Value   func(token.Token) (string, bool)
	Errs    diag.List
}

// Fail notes an error at a path that begins with "service" or the backend's namespace.
func (b *Binder) Fail(at []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(b.Subject, format, args...).At(at...)
	b.Errs = append(b.Errs, e)
	return e
}

// Content is what a file holds once the values of its refs are known.
func (b *Binder) Content(where []string, f File) []byte {
	if f.Doc == nil {
		data := []byte(b.Bind(where, f.Text))
		if err := Text(string(data)); err != nil {
			b.Fail(where, "%s %v", Field(where), err)
		}
		return data
	}
	filled := f.Doc.Map(where, func(_ []string, t token.Text, _ bool) []any {
		s := b.Bind(where, t)
		if len(t) == 1 && t[0].Token != nil && t[0].Token.Field == "port" {
			if n, err := strconv.Atoi(s); err == nil {
				return []any{float64(n)} // a port alone is a number where there are numbers
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

// Mode reads the permissions of a file that the service sees. It must be able
// to read it, and the file belongs to root if it names no owner.
func (b *Binder) Mode(where []string, f File, user string) fs.FileMode {
	m, ok := Octal(f.Mode)
	switch {
	case !ok || m > 0o777:
		b.Fail(where, "mode %q is not three or four octal digits", f.Mode)
	case m&0o222 != 0:
		b.Fail(where, "mode %q would let the service write a file that it sees read-only", f.Mode).WithHint("mode: '0444' or '0555'")
	case m&0o004 == 0 && user != "root" && (f.Owner == "" || f.Owner != user):
		b.Fail(where, "mode %q keeps the file from the service", f.Mode).
			WithHint("mode: '0444', or owner: the service's user; what nobody else may read belongs into secrets")
	}
	return m
}

// Length reads a duration.
func (b *Binder) Length(where []string, s string, otherwise time.Duration) time.Duration {
	if s == "" {
		return otherwise
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		b.Fail(where, "%q is not a duration", s).WithHint("a number with a unit: 500ms, 30s, 5m, 2h")
	}
	return d
}

// Zone reads the name of a time zone. Which there are, the machine knows.
func (b *Binder) Zone(where []string, s string) string {
	if !zoneRE.MatchString(s) {
		b.Fail(where, "%q is not the name of a time zone", s).WithHint("for example Europe/Berlin")
	}
	return s
}

// Bind gives the text with the value of every ref.
func (b *Binder) Bind(at []string, t token.Text) string {
	var out strings.Builder
	for _, s := range t {
		if s.Token == nil {
			out.WriteString(s.Lit)
			continue
		}
		v, ok := "", false
		if s.Token.Kind == token.Ref {
			v, ok = b.Value(*s.Token)
		}
		if !ok {
			b.Fail(at, "%s reads %s, which has no value yet", Field(at), s.Token)
		}
		out.WriteString(v)
	}
	return out.String()
}

// Text tells whether content survives the way through JSON.
func Text(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("is not valid UTF-8")
	}
	return nil
}

// Octal reads permissions.
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

// Signal gives the full name of a signal.
func (b *Binder) Signal(where []string, s string) string {
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if !slices.Contains(signals, name) {
		b.Fail(where, "%q is not a signal", s).WithHint("%s", diag.Suggest(name, signals))
	}
	return name
}

// Bytes parses an amount of memory.
func (b *Binder) Bytes(where []string, s string) uint64 {
	n, err := size.ParseMemory(s)
	b.checkSize(where, err)
	return uint64(n)
}

// Milli parses a number of cores, in thousandths.
func (b *Binder) Milli(where []string, s string) int {
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
