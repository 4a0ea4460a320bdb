package backends

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// Infrastructure is a backend that renders the resources of a graph to modules.
type Infrastructure interface {
	Backend
	// MakesType reports whether the backend makes resources of a type.
	MakesType(typ string) bool
	// Modules returns the modules of the graph's resources. It is pure, as Render is. The subject
	// of each error is a resource's address.
	Modules(*graph.Graph) (Modules, diag.List)
	// Boot writes the layout of a scaled service into the launch template of its group and adds the
	// resources that the instances need to fetch the rest.
	Boot(*graph.Graph, Input, Layout) *diag.Error
}

// Modules is the result of Infrastructure.Modules.
type Modules struct {
	List []Module // sorted by address
	// Output returns the module and the output that a ref to a resource reads.
	Output func(token.Token) (key, module string, err *diag.Error)
}

// Module is a set of resources that are created and destroyed together. It becomes a unit without a
// machine.
type Module struct {
	Address   graph.Address
	Payload   plan.Payload
	Requires  []string            // modules whose outputs it reads, sorted
	Spec      json.RawMessage     // address → fields; differences between plans are shown from it
	Sources   map[string][]string // address → path of the resource in the entry's value
	Replaces  []string            // JSON pointers into Spec; a change of such a field replaces the resource
	Sensitive []string            // JSON pointers into Spec; the values of such fields are not shown
	Protect   bool
	Stateful  bool
	Follows   []string      // services whose location it publishes, sorted
	Uploads   []token.Token // artifacts that it uploads
	Needs     []graph.Need  // what its resources ask for, sorted
	Drain     int           // seconds that open connections get before a target is stopped; 0: it sends no traffic
}

// resolver finds the values of refs, including those that come from modules.
type resolver struct {
	graph    *graph.Graph
	deployed func(address string) (plan.Placed, bool)
	output   func(token.Token) (key, module string, err *diag.Error)
	artifact func(token.Token) (plan.Artifact, bool)
	stable   map[string]bool // modules that this plan does not change, so that their recorded outputs stay valid
}

// renderModules renders the resources of the graph and appends their modules to out.
func (s Set) renderModules(r *resolver, out *Rendered) diag.List {
	if len(r.graph.Resources) == 0 {
		return nil
	}
	var errs diag.List
	backends := map[string]Infrastructure{} // by name
	types := map[string]Infrastructure{}
	for _, name := range s.Names() {
		if i, ok := s[name].(Infrastructure); ok {
			backends[name] = i
		}
	}
	backendOf := func(typ string) Infrastructure {
		for _, name := range sets.Keys(backends) {
			if types[typ] == nil && backends[name].MakesType(typ) {
				types[typ] = backends[name]
			}
		}
		return types[typ]
	}
	for _, svc := range r.graph.Scaled {
		errs = append(errs, s.renderScaled(backendOf("aws.launchTemplate"), r, svc)...)
	}
	if len(errs) > 0 {
		return errs
	}
	if len(r.graph.Scaled) > 0 {
		r.graph.Sort()
	}
	for _, res := range r.graph.Resources {
		if backendOf(res.Type) == nil {
			errs = append(errs, diag.Errorf(res.Address.String(), "unknown resource type %q", res.Type).At(append(slices.Clone(res.Path), "type")...).
				WithHint("for something that already exists write external: { host: '…', ports: { … } }"))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	outputs := map[Infrastructure]func(token.Token) (string, string, *diag.Error){}
	modules, owner := map[string]Module{}, map[string]Infrastructure{}
	for _, name := range sets.Keys(backends) {
		result, bad := backends[name].Modules(r.graph)
		errs = append(errs, bad...)
		outputs[backends[name]] = result.Output
		for _, m := range result.List {
			address := m.Address.String()
			if modules[address].Sources != nil {
				errs = append(errs, diag.Errorf(address, "two backends make a module with this name").WithHint("rename the resource, or set module: 'another-name'"))
			}
			modules[address], owner[address] = m, backends[name]
		}
	}
	if len(errs) > 0 {
		return errs
	}
	r.output = func(t token.Token) (string, string, *diag.Error) {
		return outputs[types[r.graph.Resource(t.Name).Type]](t)
	}
	for _, m := range r.graph.Machines {
		if m.Made == nil {
			continue
		}
		key, module, err := r.output(*m.Made)
		if err != nil {
			errs = append(errs, err.At("machines", m.Name, "made"))
			continue
		}
		m.Output, m.Module, m.Identity = key, module, key
		if p, deployed := r.deployed(module); deployed && p.Outputs[key] != "" {
			m.Address = p.Outputs[key]
			m.Connect += token.URLHost(m.Address)
			for _, old := range r.graph.PreviousMachines {
				if old.Name == m.Name && old.Address == m.Address && m.HostKey == "" {
					m.HostKey = old.HostKey
				}
			}
		}
	}
	done := map[string]bool{}
	var visit func(address string)
	visit = func(address string) { // modules are rendered after those that they read
		m, ok := modules[address]
		if !ok || done[address] {
			return
		}
		done[address] = true
		for _, module := range m.Requires {
			visit(module)
		}
		for _, t := range m.Payload.Reads() {
			if t.Of != "me" && r.graph.Resource(t.Name) != nil {
				if _, module, err := r.output(t); err == nil {
					visit(module)
				}
			}
		}
		errs = append(errs, s.renderModule(owner[address], m, r, out)...)
	}
	for _, address := range sets.Keys(modules) {
		visit(address)
	}
	return errs
}

// renderScaled renders a scaled service into the launch template of its group. All values that it
// reads must be known now: an instance cannot be given values later.
func (s Set) renderScaled(backend Infrastructure, r *resolver, svc *graph.Service) diag.List {
	b := s[svc.Backend]
	if b == nil {
		return diag.List{diag.Errorf(svc.String(), "unknown backend %q", svc.Backend).At(svc.Path...)}
	}
	input := Input{Deployment: r.graph.Name, Environment: r.graph.Environment, Service: svc, Artifact: r.artifact}
	payload, effects, errs := b.Render(input)
	for _, e := range errs {
		e.Subject = svc.String()
	}
	if len(errs) == 0 {
		errs = notAllowed(r.graph, svc, known(r.graph, append(effects.Needs, foreignSecrets(svc)...)))
	}
	if len(errs) > 0 {
		return errs
	}
	values := plan.Values{}
	for _, t := range payload.Reads() {
		if m := r.graph.Reads(svc, t); r.graph.Resource(t.Name) != nil && t.Of != "me" || m != nil && m.Module != "" && m.Address == "" {
			errs = append(errs, diag.Errorf(svc.String(), "reads %s, whose value is known only after it is created, but a launch template needs all values before", t).At(svc.SpecPath...).
				WithHint("give it a DNS name and read that; or create it first and describe it with external"))
			continue
		}
		v, err := r.graph.Value(svc, t)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		values[plan.Key(t)] = v
	}
	if len(errs) > 0 {
		return errs
	}
	u := &plan.Unit{Backend: svc.Backend, Encoding: b.Encoding(), Payload: payload}
	version, err := u.Instance(values)
	if err != nil {
		return diag.List{diag.Errorf(svc.String(), "%v", err)}
	}
	l, err := b.Realize(payload, version, func(t token.Token) (string, bool) { v, ok := values[plan.Key(t)]; return v, ok })
	if err != nil {
		return diag.List{diag.Errorf(svc.String(), "%v", err).At(svc.SpecPath...)}
	}
	if e := backend.Boot(r.graph, input, l); e != nil {
		return diag.List{e}
	}
	return nil
}

// renderModule renders one module to a unit and appends it to out.
func (s Set) renderModule(b Infrastructure, m Module, r *resolver, out *Rendered) diag.List {
	address := m.Address.String()
	u := &plan.Unit{Address: address, Backend: b.Name(), Encoding: b.Encoding(), Payload: m.Payload, Reads: m.Payload.Reads(),
		Traits: plan.Traits{Requires: slices.Clone(m.Requires), Protect: m.Protect, Stateful: m.Stateful, Follows: m.Follows, Drain: m.Drain}, Sensitive: m.Sensitive, Spec: m.Spec}
	u.Requires = append(u.Requires, m.Follows...)
	for _, t := range m.Uploads {
		if a, ok := r.artifact(t); ok {
			u.Artifacts = append(u.Artifacts, a)
		}
	}
	reader := &graph.Service{Address: m.Address}
	values, p := plan.Values{}, plan.Placed{}
	var errs diag.List
	for _, t := range u.Reads {
		if err := r.value(reader, t, values, &p, &u.Requires); err != nil {
			for _, res := range r.graph.Resources { // users wrote no module: report the resource that reads the value
				if m.Sources[res.Address.String()] != nil && readsToken(res.Fields, t) {
					err.Subject = res.Address.String()
					err.At(res.Path...)
				}
			}
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return errs
	}
	u.Requires = sets.Union(u.Requires)
	if len(values) == 0 {
		values = nil
	}
	d, err := u.Digest()
	if err == nil {
		var raw []byte
		if raw, err = u.Canonical(); err == nil {
			p.Address, p.Backend, p.Digest, p.Object, p.Values = address, u.Backend, d, digest.Bytes(raw), values
			p.Traits, p.Needs = u.Traits, m.Needs
			out.Units[address], out.Objects[p.Object], out.Modules[address] = u, raw, m
			out.Plan.Units = append(out.Plan.Units, p)
			old, deployed := r.deployed(address)
			r.stable[address] = deployed && len(p.Unknown) == 0 && old.Digest == d && maps.Equal(old.Values, values)
		}
	}
	if err != nil {
		return diag.List{diag.Errorf(address, "%v", err)}
	}
	return nil
}

// readsToken reports whether a value contains a token that names the same thing as t.
func readsToken(v any, t token.Token) bool {
	switch v := v.(type) {
	case token.Text:
		return slices.ContainsFunc(v.Tokens(), func(o token.Token) bool { return o.Name == t.Name })
	case []any:
		return slices.ContainsFunc(v, func(x any) bool { return readsToken(x, t) })
	case map[string]any:
		for _, x := range v {
			if readsToken(x, t) {
				return true
			}
		}
	}
	return false
}

// value finds the value of a ref and adds it to values. If the value comes from a module that may
// change it, value also records in p which output gives it.
func (r *resolver) value(reader *graph.Service, t token.Token, values plan.Values, p *plan.Placed, requires *[]string) *diag.Error {
	key := plan.Key(t)
	from, module := "", ""
	if t.Of != "me" && r.graph.Resource(t.Name) != nil {
		if r.output == nil {
			return diag.Errorf(reader.String(), "reads %s, which has an error", t.Name).At(reader.SpecPath...)
		}
		var err *diag.Error
		if from, module, err = r.output(t); err != nil {
			return err.At(reader.SpecPath...)
		}
	} else if m := r.graph.Reads(reader, t); m != nil && m.Module != "" {
		from, module = m.Output, m.Module
	}
	if from == "" {
		v, err := r.graph.Value(reader, t)
		if err == nil {
			values[key] = v
		}
		return err
	}
	if module != reader.Address.String() {
		*requires = append(*requires, module)
	}
	r.bind(key, from, module, values, p)
	return nil
}

// bind records that the ref key reads an output of a module. values gets the last known value, if
// any. Unless the module is stable, p records that the value is known only after the module was
// applied.
func (r *resolver) bind(key, from, module string, values plan.Values, p *plan.Placed) {
	old, deployed := r.deployed(module)
	v, known := old.Outputs[from]
	if deployed && known {
		values[key] = v
	}
	if r.stable[module] && known {
		return
	}
	if p.Binds == nil {
		p.Binds = plan.Values{}
	}
	p.Binds[key] = from
	p.Unknown = sets.Union(append(p.Unknown, key))
}
