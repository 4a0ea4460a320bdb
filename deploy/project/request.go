package project

import (
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/internal/digest"
)

// NewRequest returns a request to apply an empty plan to one environment of a
// deployment. Every other apply request begins with it.
func (p *Project) NewRequest(deployment, environment, verb string) *apply.Request {
	store := p.Store(deployment, environment)
	return &apply.Request{Store: store, Dir: store.Path(), Verb: verb, LeaseTime: p.LeaseTime, Objects: map[digest.Digest][]byte{},
		Plan: &plan.Plan{APIVersion: plan.APIVersion, Kind: "Plan", Deployment: deployment, Environment: environment, Units: []plan.Placed{}},
		Dial: p.Dialer().Dial, HostKey: p.Dialer().HostKey, Artifact: p.artifacts.Stream, Modules: p.TerraformRunner(deployment, environment)}
}
