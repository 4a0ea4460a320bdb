package systemd

import (
	"encoding/json"
	"slices"

	"github.com/defx-dev/defx/backends"
)

// hardeningDirectives is the hardening that every service gets: what an ordinary server
// (nginx, redis, postgresql, an interpreter) never needs. Left out are those that
// break just-in-time compilers, supervisors that look at other processes, and
// shared repositories with set-group-id folders.
var hardeningDirectives = []struct{ directive, value string }{
	{"InaccessiblePaths", "-" + backends.SecretsPath}, // credentials arrive by another way
	{"LockPersonality", "yes"},
	{"NoNewPrivileges", "yes"},
	{"PrivateDevices", "yes"},
	{"PrivateTmp", "yes"},
	{"ProtectClock", "yes"},
	{"ProtectControlGroups", "yes"},
	{"ProtectHome", "tmpfs"}, // empty, but a file can be shown below it
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

// hardening is a user's word on the fences: all off, or single ones set (some
// values) or lifted (none).
type hardening struct {
	Off bool              `json:"off,omitempty"`
	Set map[string]values `json:"set,omitempty"`
}

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
		r.Fail(where, "is neither false nor an object of directives").WithHint("{ ProtectHome: false, PrivateDevices: 'no' }")
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
	b.writeDirectives(u, "hardening", h.Set)
}
