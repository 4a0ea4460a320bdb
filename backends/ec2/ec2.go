// Package ec2 renders resources to modules of Terraform, and services that run
// on EC2 to the instances that they run on.
//
// A module is one root module in Terraform's JSON: resources that live and die
// together. What a resource reads of another in its module is an expression;
// what it reads of other modules and of services stays a symbol until it is
// known. Services are packed onto instances, and there run by systemd: a
// changed service never changes its instance.
//
// The package knows the provider's schema and what the provider itself does
// not check. It refuses to know how Terraform is run. Invariants: no text of a
// user's is ever read as an expression; what the schema can tell is told at
// the user's field before anything is created; no value of a secret gets into
// a module.
package ec2

import (
	"errors"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// Name is the word of the field backend, and of the namespace.
const Name = "ec2"

// Backend makes modules.
type Backend struct {
	Schemas map[string]*Schema // of providers besides what is built in, by source
}

// New gives the backend.
func New() *Backend { return &Backend{Schemas: map[string]*Schema{}} }

// Name is the word of the field backend, and of the namespace.
func (*Backend) Name() string { return Name }

// Encoding rises when equal payloads would give other modules.
func (*Backend) Encoding() int { return 1 }

// Render refuses: services of this backend are packed onto instances before
// anything is rendered, and belong to what runs them there.
func (*Backend) Render(in backends.Input) (plan.Payload, diag.List) {
	return plan.Payload{}, diag.List{diag.Errorf(in.Service.Address.String(), "it was not packed onto an instance").At(in.Service.Path...)}
}

// Realize refuses: no machine holds a module.
func (*Backend) Realize(plan.Payload, string, func(token.Token) (string, bool)) (backends.Layout, error) {
	return backends.Layout{}, errors.New("a module stands on no machine")
}

// MakesType tells whether it makes resources of a type: all but those that are another backend's.
func (*Backend) MakesType(typ string) bool { return typ != "external.resource" }
