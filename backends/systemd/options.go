package systemd

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
)

// options is the field "systemd" of a functionality.
type options struct {
	Hardening *hardening        `json:"hardening,omitempty"`
	Unit      map[string]values `json:"unit,omitempty"`    // more directives of the version's [Unit]
	Service   map[string]values `json:"service,omitempty"` // more directives of [Service], also for its scripts
}

// IsZero reports whether no option is set.
func (o options) IsZero() bool { return o.Hardening == nil && len(o.Unit) == 0 && len(o.Service) == 0 }

// values holds the values of a directive.
type values []string

// UnmarshalJSON decodes a string, a boolean, a number or a list of strings.
func (v *values) UnmarshalJSON(raw []byte) error {
	var one any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&one); err != nil {
		return err
	}
	switch x := one.(type) {
	case string:
		*v = values{x}
	case bool:
		*v = values{map[bool]string{true: "yes", false: "no"}[x]}
	case json.Number:
		*v = values{x.String()}
	default:
		return json.Unmarshal(raw, (*[]string)(v))
	}
	return nil
}

var directiveRE = regexp.MustCompile(`^[A-Z][A-Za-z]+$`)

// managedDirectives are the directives that defx writes, each with the field of the service that
// sets it. The field is empty if users cannot set it.
var managedDirectives = map[string]string{
	"BusName": "", "CacheDirectory": "dirs.cache", "CPUQuota": "limits.cpu", "Description": "",
	"DynamicUser": "user", "Environment": "env", "EnvironmentFile": "env", "ExecCondition": "initializer", "ExecReload": "reload",
	"ExecStart": "command", "ExecStartPost": "initializer", "ExecStartPre": "initializer", "ExecStop": "stop.command",
	"ExecStopPost": "stop.command", "KillSignal": "stop.signal", "LimitNOFILE": "limits.openFiles", "LoadCredential": "secrets",
	"LoadCredentialEncrypted": "secrets", "LogsDirectory": "dirs.logs", "MemoryMax": "limits.memory", "PassEnvironment": "env",
	"PartOf": "", "RemainAfterExit": "", "Restart": "restart", "RuntimeDirectory": "dirs.runtime", "RuntimeDirectoryPreserve": "dirs.runtime",
	"SetCredential": "secrets", "SetCredentialEncrypted": "secrets", "Slice": "", "Sockets": "sockets",
	"StateDirectory": "dirs.state", "SyslogIdentifier": "", "TasksMax": "limits.tasks", "TimeoutStopSec": "stop.timeout",
	"Type": "ready.notify", "UnsetEnvironment": "env", "User": "user",
}

// readOptions decodes the backend's options and refuses unknown fields.
func (r *renderer) readOptions(out *options) {
	raw := r.In.Service.Options
	if len(raw) == 0 || string(raw) == "null" {
		return
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		r.Fail([]string{"systemd"}, "systemd must be an object")
		return
	}
	known := []string{"hardening", "unit", "service"}
	for _, k := range sets.Keys(fields) {
		where, v := []string{"systemd", k}, fields[k]
		switch {
		case !slices.Contains(known, k):
			hint := diag.Suggest(k, known)
			if hint == "" {
				hint = "one of " + strings.Join(known, ", ")
			}
			r.Fail(where, "unknown option %q", k).WithHint("%s", hint)
		case string(v) == "null":
		case k == "hardening":
			out.Hardening = r.readHardening(where, v)
		case k == "unit":
			out.Unit = r.readDirectives(where, v)
		case k == "service":
			out.Service = r.readDirectives(where, v)
		}
	}
}

// readDirectives reads an object of directives.
func (r *renderer) readDirectives(where []string, raw json.RawMessage) map[string]values {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		r.Fail(where, "%s must be an object of directives", where[len(where)-1]).WithHint("{ Nice: '5', SupplementaryGroups: ['adm'] }")
		return nil
	}
	out := map[string]values{}
	for _, k := range sets.Keys(fields) {
		at := append(slices.Clone(where), k)
		if string(fields[k]) == "null" || !r.allowDirective(at, k) {
			continue
		}
		var v values
		if err := json.Unmarshal(fields[k], &v); err != nil {
			r.Fail(at, "%s must be a string or a list of strings", k)
			continue
		}
		for _, s := range v {
			if _, err := directiveValue(s); err != nil {
				r.Fail(at, "%s %v", k, err)
			}
		}
		out[k] = v
	}
	return out
}

// allowDirective reports whether users may write a directive, and adds an error if not.
func (r *renderer) allowDirective(at []string, name string) bool {
	field, is := managedDirectives[name]
	switch {
	case !directiveRE.MatchString(name):
		r.Fail(at, "%q is not a valid directive name", name)
	case is && field == "":
		r.Fail(at, "%s is written by defx", name)
	case is:
		r.Fail(at, "%s is written by defx", name).WithHint("set the service's field %s", field)
	default:
		return true
	}
	return false
}

// writeDirectives writes a user's directives. They come after those of defx, so that they win.
func (b *builder) writeDirectives(u *unitText, m map[string]values) {
	for _, k := range sets.Keys(m) {
		for _, v := range m[k] {
			u.set(k, v)
		}
	}
}
