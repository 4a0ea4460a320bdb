// Package spec reads the parts of a service that all backends that run processes treat alike:
// commands, variables, secrets and files with their tokens, and values such as sizes and durations.
//
// It knows what a process can be given. It refuses to know what runs the process: notation is the
// matter of each backend. Invariant: what cannot be represented is refused at its field, never
// altered.
package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/internal/token"
)

var (
	// VersionRE matches an instance, 12 hexadecimal digits.
	VersionRE = regexp.MustCompile(`^[0-9a-f]{12}$`)
	envRE     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	plainRE   = regexp.MustCompile(`^[A-Za-z0-9_./:=@,+-]+$`)
)

// File is content at a path: a text, a structured value of a kind, or a file of the store.
type File struct {
	Text  token.Text `json:"text,omitempty"`
	Kind  string     `json:"kind,omitempty"` // of Doc
	Doc   *token.Doc `json:"doc,omitempty"`
	Store string     `json:"store,omitempty"`
	Mode  string     `json:"mode"` // four octal digits
	Owner string     `json:"owner,omitempty"`
}

// Secret names a secret. Its value is on the machine only.
type Secret struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// At returns a path below the spec.
func At(path ...string) []string { return append([]string{"service"}, path...) }

// Field formats a path for people: files."/etc/a b".
func Field(at []string) string {
	parts := make([]string, 0, len(at))
	for _, p := range at[1:] {
		if !plainRE.MatchString(p) {
			p = strconv.Quote(p)
		}
		parts = append(parts, p)
	}
	return strings.Join(parts, ".")
}

// ShellQuote returns a word of a POSIX shell that stands for exactly s. It is for scripts that a
// machine runs at its first boot; elsewhere values are arguments of constant scripts.
func ShellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// DecodeStrict decodes JSON and refuses unknown fields and data after the end.
func DecodeStrict(raw []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("data after the end")
	}
	return nil
}
