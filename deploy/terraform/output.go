package terraform

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// outputParser reads the JSON lines that Terraform writes while it runs.
type outputParser struct {
	rest        []byte // incomplete last line
	changes     []plannedChange
	diagnostics []diagnostic // errors only
	started     bool         // the change of a resource was started
}

// plannedChange is a change that Terraform plans for a resource.
type plannedChange struct {
	Addr, Action string
}

// diagnostic is a diagnostic message of Terraform.
type diagnostic struct {
	Severity, Summary, Detail, Address string
}

func (o *outputParser) Write(p []byte) (int, error) {
	o.rest = append(o.rest, p...)
	for {
		i := bytes.IndexByte(o.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		o.line(o.rest[:i])
		o.rest = o.rest[i+1:]
	}
}

// line parses one line; lines of other types are ignored.
func (o *outputParser) line(raw []byte) {
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
		o.started = true
	case l.Type == "diagnostic" && l.Diagnostic != nil && l.Diagnostic.Severity == "error":
		o.diagnostics = append(o.diagnostics, *l.Diagnostic)
	case l.Type == "planned_change" && l.Change != nil:
		o.changes = append(o.changes, plannedChange{l.Change.Resource.Addr, l.Change.Action})
	}
}

// toAddress returns the defx address of a Terraform resource (kind.name).
func toAddress(id string, addresses map[string]string) string {
	if a := addresses[id]; a != "" {
		return a
	}
	if _, name, ok := strings.Cut(id, "."); ok { // removed from the module
		lib, rest, in := strings.Cut(name, "_")
		if in && lib != "" {
			return lib + "/" + rest
		}
		return strings.TrimPrefix(name, "_")
	}
	return id
}

// translateError returns the errors that Terraform has reported, with the addresses
// of defx, or else err without Terraform's frame.
func translateError(err error, output *outputParser, addresses ...map[string]string) error {
	if err == nil {
		return nil
	}
	if output == nil || len(output.diagnostics) == 0 {
		return errors.New(stripFrame(err.Error()))
	}
	var out []string
	for _, d := range output.diagnostics {
		text := d.Summary
		if detail := strings.TrimSpace(d.Detail); detail != "" && detail != d.Summary {
			text += ": " + strings.Join(strings.Fields(detail), " ")
		}
		if d.Address != "" && len(addresses) > 0 {
			text = fmt.Sprintf("%s: %s", toAddress(d.Address, addresses[0]), text)
		}
		out = append(out, text)
	}
	return errors.New(strings.Join(out, "\n"))
}

// stripFrame removes the frame that Terraform draws around messages.
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
