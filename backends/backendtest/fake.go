package backendtest

import (
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// Dir is the directory of the files that a Fake realizes: Dir + "/" + the service's address.
const Dir = "/etc/defx-test"

// Fake is the backend "test". It turns a service into one file that holds its spec with values in
// place of refs. The zero Fake is ready for use; set its hooks before the first call.
type Fake struct {
	// OnRender and OnRealize can refuse a service by its address.
	OnRender, OnRealize func(address string) error
	// Renders and Realizes count the calls.
	Renders, Realizes atomic.Int64
}

type fakeRun struct {
	Address graph.Address `json:"address"`
	Spec    graph.Spec    `json:"spec"`
}

// Name returns "test".
func (*Fake) Name() string { return "test" }

// Encoding returns 1.
func (*Fake) Encoding() int { return 1 }

// Render distributes the fields of the spec over the parts of the payload, as the comments of
// graph.Spec describe.
func (f *Fake) Render(in backends.Input) (plan.Payload, backends.Effects, diag.List) {
	f.Renders.Add(1)
	s := in.Service
	refuse := func(err error) (plan.Payload, backends.Effects, diag.List) {
		return plan.Payload{}, backends.Effects{}, diag.List{diag.Errorf(s.String(), "%v", err).At(s.SpecPath...)}
	}
	if f.OnRender != nil {
		if err := f.OnRender(s.Address.String()); err != nil {
			return refuse(err)
		}
	}
	if len(s.Options) > 0 && string(s.Options) != "{}" {
		return refuse(fmt.Errorf("backend test has no options"))
	}
	run, meta := s.Spec, graph.Spec{}
	run.Protect, run.Links, run.Labels = false, nil, nil
	meta.Ports, run.Ports = run.Ports, nil
	meta.Initializer, run.Initializer = run.Initializer, nil
	meta.Schedule, run.Schedule = run.Schedule, nil
	meta.Reload, run.Reload = run.Reload, nil
	meta.Update, run.Update = run.Update, nil
	if run.Ready != nil {
		ready := *run.Ready
		meta.Ready, run.Ready = &ready, nil
		if ready.Notify {
			run.Ready = &graph.Ready{Notify: true}
		}
	}
	var p plan.Payload
	var err error
	if meta.Reload != nil {
		if p.Reload, err = digest.Canonical(run.Files); err != nil {
			return refuse(err)
		}
		run.Files = nil
	}
	if p.Run, err = digest.Canonical(fakeRun{s.Address, run}); err != nil {
		return refuse(err)
	}
	if p.Meta, err = digest.Canonical(meta); err != nil {
		return refuse(err)
	}
	return p, backends.Effects{Claims: fakeClaims(s.Address.String())}, nil
}

// fakeClaims returns the claims of every unit.
func fakeClaims(address string) []plan.Claim {
	return []plan.Claim{{Kind: plan.ClaimUnit, Key: address}}
}

// Realize writes the parts of the payload into the service's file.
func (f *Fake) Realize(p plan.Payload, version string, value func(token.Token) (string, bool)) (backends.Layout, error) {
	f.Realizes.Add(1)
	var run struct {
		Address string
	}
	if err := json.Unmarshal(p.Run, &run); err != nil {
		return backends.Layout{}, err
	}
	if f.OnRealize != nil {
		if err := f.OnRealize(run.Address); err != nil {
			return backends.Layout{}, err
		}
	}
	parts := map[string]any{}
	for name, raw := range map[string]json.RawMessage{"run": p.Run, "reload": p.Reload, "meta": p.Meta} {
		if raw == nil {
			continue
		}
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			return backends.Layout{}, err
		}
		bound, err := bind(v, value)
		if err != nil {
			return backends.Layout{}, fmt.Errorf("%s: %w", run.Address, err)
		}
		parts[name] = bound
	}
	content, err := digest.Canonical(parts)
	if err != nil {
		return backends.Layout{}, err
	}
	unit := run.Address + ":" + version
	return backends.Layout{
		Name: run.Address, Unit: unit, Start: []string{unit},
		Files:  []backends.File{{Path: Dir + "/" + run.Address, Content: append(content, '\n'), Mode: 0o644}},
		Claims: fakeClaims(run.Address),
	}, nil
}

// bind returns v with every text bound: refs are replaced by their values.
func bind(v any, value func(token.Token) (string, bool)) (any, error) {
	switch x := v.(type) {
	case []any:
		for i := range x {
			var err error
			if x[i], err = bind(x[i], value); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		if _, is := x["$text"]; is {
			return bindText(x, value)
		}
		for k := range x {
			var err error
			if x[k], err = bind(x[k], value); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

func bindText(x map[string]any, value func(token.Token) (string, bool)) (any, error) {
	raw, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	var t token.Text
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, err
	}
	var unbound error
	out := t.Fill(func(tok token.Token) string {
		if tok.Kind != token.Ref {
			return "${" + tok.String() + "}"
		}
		s, ok := value(tok)
		if !ok {
			unbound = fmt.Errorf("%s has no value yet", tok)
		}
		return s
	})
	return out, unbound
}
