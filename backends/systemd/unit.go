package systemd

import (
	"strings"

	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/internal/token"
)

// unitText builds a unit file. Sections and directives are in the order of the calls.
type unitText struct{ b strings.Builder }

func (u *unitText) section(name string) {
	if u.b.Len() > 0 {
		u.b.WriteByte('\n')
	}
	u.b.WriteString("[" + name + "]\n")
}

// set writes a directive. The value must be encoded already.
func (u *unitText) set(directive, value string) {
	u.b.WriteString(directive + "=" + value + "\n")
}

func (u *unitText) bytes() []byte { return []byte(u.b.String()) }

// builder writes the units of a payload and collects the errors.
type builder struct {
	payload
	names
	spec.Binder
	chowns []ownedFile // files to give to users before the service starts
}

// checked returns a function that takes the result of an encoder, adds its error with the name of
// the field, and returns its text.
func (b *builder) checked(at []string) func(string, error) string {
	return func(s string, err error) string {
		if err != nil {
			b.Fail(at, "%s %v", spec.Field(at), err)
		}
		return s
	}
}

// exec encodes a command. The prefix ":" keeps systemd from expanding "$".
func (b *builder) exec(field string, command []token.Text) string {
	words := make([]string, 0, len(command))
	for i, t := range command {
		path := spec.At(field)
		switch field {
		case "stop", "reload":
			path = spec.At(field, "command")
		case "ready":
			path = spec.At(field, "exec")
		case "update":
			path = spec.At(field, "healthy")
		case "check":
			path = spec.At("reload", "check")
		}
		s := b.Bind(path, t)
		if i == 0 {
			words = append(words, ":"+b.checked(path)(programPath(s)))
		} else {
			words = append(words, b.checked(path)(arg(s)))
		}
	}
	return strings.Join(words, " ")
}
