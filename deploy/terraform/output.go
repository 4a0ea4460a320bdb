package terraform

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// outputParser reads the lines of JSON that Terraform writes while it works.
type outputParser struct {
	rest        []byte
	changes     []plannedChange
	diagnostics []diagnostic
	started     bool // something was changed, or tried
}

type plannedChange struct {
	Addr, Action string
}

type diagnostic struct {
	Severity, Summary, Detail, Address string
}

func (s *outputParser) Write(p []byte) (int, error) {
	s.rest = append(s.rest, p...)
	for {
		i := bytes.IndexByte(s.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		s.line(s.rest[:i])
		s.rest = s.rest[i+1:]
	}
}

func (s *outputParser) line(raw []byte) {
	var l struct {
		Type       string
		Diagnostic *diagnostic
		Change     *struct {
			Resource struct{ Addr string }
			Action   string
		}
	}
	if json.Unmarshal(raw, &l) != nil {
		return
	}
	switch {
	case l.Type == "apply_start":
		s.started = true
	case l.Type == "diagnostic" && l.Diagnostic != nil && l.Diagnostic.Severity == "error":
		s.diagnostics = append(s.diagnostics, *l.Diagnostic)
	case l.Type == "planned_change" && l.Change != nil:
		s.changes = append(s.changes, plannedChange{l.Change.Resource.Addr, l.Change.Action})
	}
}

// toAddress is the address of a resource as users know it.
func toAddress(id string, addresses map[string]string) string {
	if a := addresses[id]; a != "" {
		return a
	}
	if _, name, ok := strings.Cut(id, "."); ok { // it is not in the module any more
		lib, rest, in := strings.Cut(name, "_")
		if in && lib != "" {
			return lib + "/" + rest
		}
		return strings.TrimPrefix(name, "_")
	}
	return id
}

// translateError words what Terraform says, with our addresses.
func translateError(err error, said *outputParser, addresses ...map[string]string) error {
	if err == nil {
		return nil
	}
	if said == nil || len(said.diagnostics) == 0 {
		return errors.New(stripFrame(err.Error()))
	}
	var out []string
	for _, f := range said.diagnostics {
		text := f.Summary
		if d := strings.TrimSpace(f.Detail); d != "" && d != f.Summary {
			text += ": " + strings.Join(strings.Fields(d), " ")
		}
		if f.Address != "" && len(addresses) > 0 {
			text = fmt.Sprintf("%s: %s", toAddress(f.Address, addresses[0]), text)
		}
		out = append(out, text)
	}
	return errors.New(strings.Join(out, "\n"))
}

// stripFrame takes the frame off what Terraform prints for people.
func stripFrame(s string) string {
	var out []string
	for l := range strings.Lines(s) {
		l = strings.TrimSpace(strings.Trim(strings.TrimSpace(l), "│╷╵"))
		if l != "" {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}
