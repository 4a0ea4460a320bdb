// Package spec is what all backends that run processes read of a service in the
// same way: commands, variables, secrets and files with their tokens, and
// values that have a meaning.
//
// It knows what a process can be given. It refuses to know what runs it: how
// something is written for that is the backend's own matter. Invariant: what
// cannot be given is refused with the place of its field, never altered.
package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/internal/token"
)

var (
	// VersionRE is the form of an instance.
	VersionRE = regexp.MustCompile(`^[0-9a-f]{12}$`)
	// UserRE is the form of a user's name.
	UserRE  = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`)
	envRE   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	plainRE = regexp.MustCompile(`^[A-Za-z0-9_./:=@,+-]+$`)
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

// Secret names a secret. Its value is on the machine alone.
type Secret struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// At is a path below the spec.
func At(path ...string) []string { return append([]string{"service"}, path...) }

// Field names a path for people: files."/etc/a b".
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

// Keys lists the keys of a map, sorted.
func Keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// DecodeStrict decodes JSON that holds nothing unknown and nothing after its end.
func DecodeStrict(raw []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("data after the end")
	}
	return nil
}
