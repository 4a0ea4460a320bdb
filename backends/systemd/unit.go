package systemd

import (
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/lang/diag"
	"github.com/defx-dev/defx/lang/token"
)

// unitText writes a unit file. It keeps order: the same calls, the same bytes.
type unitText struct{ b strings.Builder }

func (u *unitText) section(name string) {
	if u.b.Len() > 0 {
		u.b.WriteByte('\n')
	}
	u.b.WriteString("[" + name + "]\n")
}

// set writes a directive. The value is encoded already.
func (u *unitText) set(directive, value string) {
	u.b.WriteString(directive + "=" + value + "\n")
}

func (u *unitText) bytes() []byte { return []byte(u.b.String()) }

// builder collects what is wrong with a payload while its units are written.
type builder struct {
	payload
	names
	value   func(token.Token) (string, bool)
	subject string
	owned   []ownedFile // given to users before the service starts
	errs    diag.List
}

// fail notes an error at a path that begins with "service" or "systemd".
func (b *builder) fail(at []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(b.subject, format, args...).At(at...)
	b.errs = append(b.errs, e)
	return e
}

// take notes the error of an encoder, with the field's name before it.
func (b *builder) take(at []string) func(string, error) string {
	return func(s string, err error) string {
		if err != nil {
			b.fail(at, "%s %v", field(at), err)
		}
		return s
	}
}

// bind gives the text with the value of every ref.
func (b *builder) bind(at []string, t token.Text) string {
	var out strings.Builder
	for _, s := range t {
		if s.Token == nil {
			out.WriteString(s.Lit)
			continue
		}
		v, ok := "", false
		if s.Token.Kind == token.Ref {
			v, ok = b.value(*s.Token)
		}
		if !ok {
			b.fail(at, "%s reads %s, which has no value yet", field(at), s.Token)
		}
		out.WriteString(v)
	}
	return out.String()
}

// field names a path for people: files."/etc/a b".
func field(at []string) string {
	parts := make([]string, 0, len(at))
	for _, p := range at[1:] {
		if !plainRE.MatchString(p) {
			p = strconv.Quote(p)
		}
		parts = append(parts, p)
	}
	return strings.Join(parts, ".")
}

// at is a path below the spec.
func at(path ...string) []string { return append([]string{"service"}, path...) }

// exec encodes a command. The prefix ":" keeps systemd from expanding "$".
func (b *builder) exec(field string, command []token.Text) string {
	words := make([]string, 0, len(command))
	for i, t := range command {
		path := at(field)
		switch field {
		case "stop", "reload":
			path = at(field, "command")
		case "ready":
			path = at(field, "exec")
		case "update":
			path = at(field, "healthy")
		}
		s := b.bind(path, t)
		if i == 0 {
			words = append(words, ":"+b.take(path)(program(s)))
		} else {
			words = append(words, b.take(path)(arg(s)))
		}
	}
	return strings.Join(words, " ")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
