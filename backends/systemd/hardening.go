package systemd

import (
	"encoding/json"
	"slices"

	"github.com/defx-dev/defx/backends"
)

// hardeningDirectives are written to every service: restrictions that ordinary servers (nginx,
// redis, postgresql, an interpreter) do not notice. Left out are those that break just-in-time
// compilers, supervisors that look at other processes, and shared repositories with set-group-id
// folders.
var hardeningDirectives = []struct{ directive, value string }{
	{"InaccessiblePaths", "-" + backends.SecretsPath}, // services get their secrets as credentials instead
	{"LockPersonality", "yes"},
	{"NoNewPrivileges", "yes"},
	{"PrivateDevices", "yes"},
	{"PrivateTmp", "yes"},
	{"ProtectClock", "yes"},
	{"ProtectControlGroups", "yes"},
	{"ProtectHome", "tmpfs"}, // empty, but files can be mounted below it
	{"ProtectHostname", "yes"},
	{"ProtectKernelLogs", "yes"},
	{"ProtectKernelModules", "yes"},
	{"ProtectKernelTunables", "yes"},
	{"ProtectSystem", "strict"},
	{"RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"},
	{"RestrictNamespaces", "yes"},
	{"RestrictRealtime", "yes"},
	{"SystemCallArchitectures", "native"},
}

// hardening is the user's change to hardeningDirectives: all off, or single directives set (with
// values) or removed (without values).
type hardening struct {
	Off bool              `json:"off,omitempty"`
	Set map[string]values `json:"set,omitempty"`
}

// readHardening reads the option hardening.
func (r *renderer) readHardening(where []string, raw json.RawMessage) *hardening {
	var on bool
	if json.Unmarshal(raw, &on) == nil {
		if on {
			return nil
		}
		return &hardening{Off: true}
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		r.Fail(where, "hardening must be false or an object of directives").WithHint("{ ProtectHome: false, PrivateDevices: 'no' }")
		return nil
	}
	h := &hardening{Set: map[string]values{}}
	for k, v := range fields {
		if s := string(v); s == "false" || s == "null" {
			if r.allowDirective(append(slices.Clone(where), k), k) {
				h.Set[k] = values{}
			}
			delete(fields, k)
		}
	}
	rest, err := json.Marshal(fields)
	if err != nil {
		r.Fail(where, "%v", err)
		return nil
	}
	for k, v := range r.readDirectives(where, rest) {
		h.Set[k] = v
	}
	return h
}

// writeHardening writes the hardening of a service.
func (b *builder) writeHardening(u *unitText) {
	h := b.Run.Options.Hardening
	if h == nil {
		h = &hardening{}
	}
	for _, f := range hardeningDirectives {
		if _, set := h.Set[f.directive]; !h.Off && !set {
			u.set(f.directive, f.value)
		}
	}
	b.writeDirectives(u, h.Set)
}
