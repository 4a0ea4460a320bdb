// Package ec2 renders resources to Terraform modules, and services that run on EC2 to the instances
// that they run on.
//
// A module is one Terraform root module in JSON: resources that are created and destroyed together.
// A reference to a resource in the same module becomes an expression; a reference to another module
// or to a service stays a symbol until its value is known. Services are packed onto instances,
// where systemd or docker runs them: changing a service never changes its instance.
//
// The package knows the provider's schema, and rules that neither the provider nor its plan checks.
// It refuses to know how Terraform is run. Invariants: no user's text is ever read as an
// expression; what the schema can decide is reported at the user's field before anything is
// created; no secret value gets into a module.
//
// It is larger than most packages because AWS has many rules: placement on instances (instances.go,
// scale.go), derived resources (access.go, balance.go, fetch.go), checks (check.go, rules.go) and
// modules (module.go, realize.go) have their own files.
package ec2

import (
	"errors"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// Name is the value of the field backend that selects this backend, and the name of its options
// field.
const Name = "ec2"

// Backend renders modules.
type Backend struct {
	Schemas map[string]*Schema // of providers that are not built in, by source
	Locked  bool               // a provider without a schema is an error; if not, Terraform checks its resources at apply
}

// New returns the backend.
func New() *Backend { return &Backend{Schemas: map[string]*Schema{}} }

// Name returns the value of the field backend, which is also the name of the options field.
func (*Backend) Name() string { return Name }

// Encoding returns the version of the payload encoding. It is increased when equal payloads would
// give other modules.
func (*Backend) Encoding() int { return 1 }

// Render returns an error: Pack assigns services of this backend to the backend that runs them on
// their instance, so none is left.
func (*Backend) Render(in backends.Input) (plan.Payload, backends.Effects, diag.List) {
	return plan.Payload{}, backends.Effects{}, diag.List{diag.Errorf(in.Service.String(), "service was not placed on an instance").At(in.Service.Path...)}
}

// Realize returns an error: a module has no files on a machine.
func (*Backend) Realize(plan.Payload, string, func(token.Token) (string, bool)) (backends.Layout, error) {
	return backends.Layout{}, errors.New("a module has no files on a machine")
}

// MakesType reports whether the backend makes resources of a type: all except those of the backend
// external.
func (*Backend) MakesType(typ string) bool { return typ != "external.resource" }
