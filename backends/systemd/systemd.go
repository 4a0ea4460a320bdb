// Package systemd renders services to unit files.
//
// Every version of a service is a unit of its own, BASE.REPLICA.INSTANCE.service, with the
// stable alias BASE.REPLICA.service. Other units refer to the alias only, so a new version changes no other unit. Timer
// and socket keep their names across versions, so that a stamp file and a listener survive. Files
// are bind-mounted read-only from the store or, if the service can reload, from copies that are
// rewritten in place. Secrets are passed as credentials. Scripts that run once before the service
// (initializer, migrate) are units too, so that an image built from a layout boots without an
// agent.
//
// The package knows unit files and which bytes each directive can represent. It refuses to know how
// files get to a machine and who starts units. Invariants: every value passes through one function
// of encode.go; what a directive cannot represent is refused at its field, never altered.
//
// It is larger than most packages because systemd has a notation of its own for each subject: there
// is one file for each.
package systemd

import (
	"encoding/json"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
)

const (
	unitDir  = "/etc/systemd/system"
	unitsDir = "/var/lib/defx/units" // copies of reloadable files, one directory per unit
	doneDir  = "/var/lib/defx/done"  // one empty file per script that has succeeded
)

type backend struct{}

// New returns the backend.
func New() backends.Backend { return backend{} }

// Name returns the value of the field backend, which is also the name of the options field.
func (backend) Name() string { return "systemd" }

// Encoding returns the version of the payload encoding. It is increased when equal payloads would
// give other unit files.
func (backend) Encoding() int { return 2 }

var codec = spec.Codec[payload]{Build: build, Encode: payload.encode, Decode: decodePayload}

// Render returns the payload of a service.
func (backend) Render(in backends.Input) (plan.Payload, backends.Effects, diag.List) {
	r := renderer{spec.Reader{In: in, Backend: "systemd", Subject: in.Service.String()}}
	var p payload
	if in.Service.Fact != nil {
		p = r.fact()
	} else {
		p = r.payload()
	}
	return codec.Render(&r.Reader, p)
}

// Realize returns the layout of a payload once the values of its refs are known.
func (backend) Realize(p plan.Payload, version string, value spec.Values) (backends.Layout, error) {
	return codec.Realize(p, version, value)
}

func (p payload) encode() (plan.Payload, error) {
	if p.Fact != nil {
		run, err := digest.Canonical(map[string]any{"fact": p.Fact})
		return plan.Payload{Run: run}, err
	}
	return spec.Encode(p.Run, p.Meta, p.Reload)
}

func decodePayload(pl plan.Payload) (payload, error) {
	var p payload
	var fact struct {
		Fact *factPayload `json:"fact"`
	}
	if err := json.Unmarshal(pl.Run, &fact); err == nil && fact.Fact != nil {
		p.Fact = fact.Fact
		return p, nil
	}
	return p, spec.Decode("systemd", pl, &p.Run, &p.Meta, &p.Reload)
}
