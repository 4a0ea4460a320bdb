package systemd

import (
	"cmp"

	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/sets"
)

// user returns the user that the service runs as.
func (b *builder) user() string {
	if b.Run.User != "" {
		return b.Run.User
	}
	return dynamicUser(cmp.Or(b.Run.Identity, b.base))
}

// claims returns what the service takes on its machine.
func (b *builder) claims() []plan.Claim {
	out := []plan.Claim{{Kind: plan.ClaimUnit, Key: b.base}}
	add := func(kind, key string, shared bool, field ...string) {
		out = append(out, plan.Claim{Kind: kind, Key: key, Shared: shared, Field: spec.At(field...)})
	}
	shared := b.Run.User != ""
	for _, d := range b.Run.Dirs {
		shared = shared || d.Shared // it runs as the user of the owner
		add(plan.ClaimPath, d.Path, d.Shared, "dirs", d.Kind)
	}
	if user := b.user(); user != "root" {
		add(plan.ClaimUser, user, shared, "user")
	}
	for _, name := range sets.Keys(b.Meta.Ports) {
		p := b.Meta.Ports[name]
		out = append(out, spec.PortClaim(p.Protocol, "", p.Port, spec.At("ports", name)))
	}
	for _, l := range b.Run.Sockets {
		if l.Path != "" {
			add(plan.ClaimSocket, l.Path, false, "sockets", l.Name)
		}
	}
	for _, files := range b.allHostFiles() {
		for _, p := range sets.Keys(files) {
			add(plan.ClaimPath, p, false, "hostFiles", p)
		}
	}
	return out
}

// allHostFiles returns the files that are visible to the whole machine.
func (b *builder) allHostFiles() []map[string]spec.File {
	out := []map[string]spec.File{b.Run.HostFiles}
	if b.Reload != nil {
		out = append(out, b.Reload.HostFiles)
	}
	return out
}

// claims returns what a fact takes on its machine. Equal facts of several deployments share it.
func (f *factPayload) claims(base string) []plan.Claim {
	kind := map[string]string{"sysctl": plan.ClaimSetting, "modules": plan.ClaimModule, "packages": plan.ClaimPackage, "users": plan.ClaimUser}[f.Kind]
	value := string(f.Value)
	return []plan.Claim{{Kind: plan.ClaimUnit, Key: base}, {Kind: kind, Key: f.Key, Value: value, Shared: kind == plan.ClaimPackage && value == `""`}}
}
