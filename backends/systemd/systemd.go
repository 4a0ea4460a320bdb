// Package systemd renders services to unit files.
//
// A version of a service is a unit of its own, BASE:VERSION.service, behind
// the stable alias BASE.service; other units know the alias only, so that a new
// version changes nothing but itself. Timer and socket keep their names over
// versions: a stamp and a listener survive. Files reach a service read-only by
// bind mounts from the store, or, if it can reload, from copies of its own that
// are rewritten in place. Secrets reach it as credentials. What runs once
// before it (initializer, migrate) is a unit too, so that an image baked from
// a layout boots without any agent.
//
// The package knows unit files and the bytes that each directive can carry. It
// refuses to know how files get to a machine and who starts what. Invariants:
// every value passes one function of encode.go; what a directive cannot carry
// is refused with the place of its field, never altered.
//
// It is larger than most packages because systemd has a notation of its own for
// each thing: one file a notation.
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
	unitsDir = "/var/lib/defx/units" // copies of reloadable files, a folder a unit
	doneDir  = "/var/lib/defx/done"  // one empty file for each script that succeeded
)

type backend struct{}

// New gives the backend.
func New() backends.Backend { return backend{} }

// Name is the word of the field backend and of the namespace.
func (backend) Name() string { return "systemd" }

// Encoding rises when equal payloads would give other unit files.
func (backend) Encoding() int { return 1 }

var codec = spec.Codec[payload]{Build: build, Encode: payload.encode, Decode: decodePayload}

// Render makes the payload of a service.
func (backend) Render(in backends.Input) (plan.Payload, diag.List) {
	r := renderer{spec.Reader{In: in, Backend: "systemd", Subject: in.Service.Address.String()}}
	var p payload
	if in.Service.Fact != nil {
		p = r.fact()
	} else {
		p = r.payload()
	}
	return codec.Render(&r.Reader, p)
}

// Realize makes the files of a payload once the values of its refs are known.
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
