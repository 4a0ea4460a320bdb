package backends

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// Infrastructure is a backend that makes modules of a graph's resources.
type Infrastructure interface {
	Backend
	// ResourceTypes tells whether it makes resources of a type.
	ResourceTypes(typ string) bool
	// Modules is pure, as Render is. Errors have the address of a resource as their subject.
	Modules(*graph.Graph) (Modules, diag.List)
	// Boot puts what a scaled service is on a machine into the template of its group, and adds the resources that it needs for that.
	Boot(*graph.Graph, Input, Layout) *diag.Error
}

// Modules are the resources of a graph, put together.
type Modules struct {
	List []Module // sorted by address
	// Output tells which output of which module a ref to a resource reads.
	Output func(token.Token) (key, module string, err *diag.Error)
}

// Module is a group of resources that live and die together. It is a unit that
// stands on no machine.
type Module struct {
	Address   graph.Address
	Payload   plan.Payload
	Requires  []string            // modules that it reads of, sorted
	Spec      json.RawMessage     // address → fields: what differences are shown of
	Sources   map[string][]string // address → where it stands in the entry's value
	Replaces  []string            // fields, as pointers into Spec, whose change makes a new resource of it
	Sensitive []string            // fields, as pointers into Spec, whose values are not shown
	Protect   bool
	Stateful  bool
	Follows   []string      // services whose places it tells others, sorted
	Uploads   []token.Token // artifacts that it uploads
	Drain     int           // seconds that what it leads to may go on before it is stopped; 0: it leads users to nobody
}

// infra knows what modules give.
type infra struct {
	g        *graph.Graph
	deployed func(address string) (plan.Placed, bool)
	output   func(token.Token) (key, module string, err *diag.Error)
	artifact func(token.Token) (plan.Artifact, bool)
	settled  map[string]bool // modules whose outputs stay as they are
}

// modules renders the resources of a graph.
func (s Set) modules(in *infra, out *Rendered) diag.List {
	if len(in.g.Resources) == 0 {
		return nil
	}
	var errs diag.List
	makers := map[string]Infrastructure{} // by name
	types := map[string]Infrastructure{}
	for _, name := range s.Names() {
		if i, ok := s[name].(Infrastructure); ok {
			makers[name] = i
		}
	}
	maker := func(typ string) Infrastructure {
		for _, name := range slices.Sorted(maps.Keys(makers)) {
			if types[typ] == nil && makers[name].ResourceTypes(typ) {
				types[typ] = makers[name]
			}
		}
		return types[typ]
	}
	for _, svc := range in.g.Scaled {
		errs = append(errs, s.boot(maker("aws.launchTemplate"), in, svc)...)
	}
	if len(errs) > 0 {
		return errs
	}
	if len(in.g.Scaled) > 0 {
		in.g.Sort()
	}
	for _, r := range in.g.Resources {
		if maker(r.Type) == nil {
			errs = append(errs, diag.Errorf(r.Address.String(), "no backend of this version makes a resource of type %q", r.Type).At(append(slices.Clone(r.Path), "type")...).
				WithHint("what stands already is said so: external: { host: '…', ports: { … } }"))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	outputs := map[Infrastructure]func(token.Token) (string, string, *diag.Error){}
	by, of := map[string]Module{}, map[string]Infrastructure{}
	for _, name := range slices.Sorted(maps.Keys(makers)) {
		made, bad := makers[name].Modules(in.g)
		errs = append(errs, bad...)
		outputs[makers[name]] = made.Output
		for _, m := range made.List {
			address := m.Address.String()
			if by[address].Sources != nil {
				errs = append(errs, diag.Errorf(address, "two backends make a module of this name").WithHint("another name of the resource, or module: 'another'"))
			}
			by[address], of[address] = m, makers[name]
		}
	}
	if len(errs) > 0 {
		return errs
	}
	in.output = func(t token.Token) (string, string, *diag.Error) {
		return outputs[types[in.g.Resource(t.Name).Type]](t)
	}
	for _, m := range in.g.Machines {
		if m.Made == nil {
			continue
		}
		key, module, err := in.output(*m.Made)
		if err != nil {
			errs = append(errs, err.At("machines", m.Name, "made"))
			continue
		}
		m.Output, m.Module, m.Identity = key, module, key
		if p, stands := in.deployed(module); stands && p.Outputs[key] != "" {
			m.Address = p.Outputs[key]
			m.Connect += m.Address
			for _, old := range in.g.PreviousMachines {
				if old.Name == m.Name && old.Address == m.Address && m.HostKey == "" {
					m.HostKey = old.HostKey
				}
			}
		}
	}
	done := map[string]bool{}
	var visit func(address string)
	visit = func(address string) { // what a module reads is settled first
		m, ok := by[address]
		if !ok || done[address] {
			return
		}
		done[address] = true
		for _, r := range m.Requires {
			visit(r)
		}
		for _, t := range m.Payload.Reads() {
			if t.Of != "me" && in.g.Resource(t.Name) != nil {
				if _, module, err := in.output(t); err == nil {
					visit(module)
				}
			}
		}
		errs = append(errs, s.module(of[address], m, in, out)...)
	}
	for _, address := range slices.Sorted(maps.Keys(by)) {
		visit(address)
	}
	return errs
}

// boot renders a scaled service into the template of its group. What it reads
// must be known: nobody tells an instance later.
func (s Set) boot(maker Infrastructure, in *infra, svc *graph.Service) diag.List {
	b := s[svc.Backend]
	if b == nil {
		return diag.List{diag.Errorf(svc.Address.String(), "there is no backend %q", svc.Backend).At(svc.Path...)}
	}
	input := Input{Deployment: in.g.Name, Environment: in.g.Environment, Service: svc, Artifact: in.artifact}
	payload, errs := b.Render(input)
	for _, e := range errs {
		e.Subject = svc.Address.String()
	}
	if len(errs) > 0 {
		return errs
	}
	values := plan.Values{}
	for _, t := range payload.Reads() {
		if m := in.g.Reads(svc, t); in.g.Resource(t.Name) != nil && t.Of != "me" || m != nil && m.Module != "" && m.Address == "" {
			errs = append(errs, diag.Errorf(svc.Address.String(), "reads %s, which is known only when it is made: a template must know all before", t).At(svc.SpecPath...).
				WithHint("give it a name in DNS, and write that; or make it first and say it by external"))
			continue
		}
		v, err := in.g.Value(svc, t)
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
		return diag.List{diag.Errorf(svc.Address.String(), "%v", err)}
	}
	l, err := b.Realize(payload, version, func(t token.Token) (string, bool) { v, ok := values[plan.Key(t)]; return v, ok })
	if err != nil {
		return diag.List{diag.Errorf(svc.Address.String(), "%v", err).At(svc.SpecPath...)}
	}
	if e := maker.Boot(in.g, input, l); e != nil {
		return diag.List{e}
	}
	return nil
}

// module makes a unit of a module.
func (s Set) module(b Infrastructure, m Module, in *infra, out *Rendered) diag.List {
	address := m.Address.String()
	u := &plan.Unit{Address: address, Backend: b.Name(), Encoding: b.Encoding(), Payload: m.Payload, Reads: m.Payload.Reads(),
		Traits: plan.Traits{Requires: slices.Clone(m.Requires), Protect: m.Protect, Stateful: m.Stateful, Follows: m.Follows, Drain: m.Drain}, Sensitive: m.Sensitive, Spec: m.Spec}
	u.Requires = append(u.Requires, m.Follows...)
	for _, t := range m.Uploads {
		if a, ok := in.artifact(t); ok {
			u.Artifacts = append(u.Artifacts, a)
		}
	}
	reader := &graph.Service{Address: m.Address}
	values, p := plan.Values{}, plan.Placed{}
	var errs diag.List
	for _, t := range u.Reads {
		if err := in.value(reader, t, values, &p, &u.Requires); err != nil {
			for _, r := range in.g.Resources { // the module is nobody's word: the resource that reads it is at fault
				if m.Sources[r.Address.String()] != nil && reads(r.Fields, t) {
					err.Subject = r.Address.String()
					err.At(r.Path...)
				}
			}
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return errs
	}
	slices.Sort(u.Requires)
	u.Requires = slices.Compact(u.Requires)
	if len(values) == 0 {
		values = nil
	}
	d, err := u.Digest()
	if err == nil {
		var raw []byte
		if raw, err = u.Canonical(); err == nil {
			p.Address, p.Backend, p.Digest, p.Object, p.Values = address, u.Backend, d, digest.Bytes(raw), values
			p.Traits = u.Traits
			out.Units[address], out.Objects[p.Object], out.Modules[address] = u, raw, m
			out.Plan.Units = append(out.Plan.Units, p)
			old, stands := in.deployed(address)
			in.settled[address] = stands && len(p.Unknown) == 0 && old.Digest == d && maps.Equal(old.Values, values)
		}
	}
	if err != nil {
		return diag.List{diag.Errorf(address, "%v", err)}
	}
	return nil
}

func reads(v any, t token.Token) bool {
	switch v := v.(type) {
	case token.Text:
		return slices.ContainsFunc(v.Tokens(), func(o token.Token) bool { return o.Name == t.Name })
	case []any:
		return slices.ContainsFunc(v, func(x any) bool { return reads(x, t) })
	case map[string]any:
		for _, x := range v {
			if reads(x, t) {
				return true
			}
		}
	}
	return false
}

// value finds what a ref stands for. What only an apply will know is noted
// with the output that will tell, and the value that it had last.
func (in *infra) value(reader *graph.Service, t token.Token, values plan.Values, p *plan.Placed, requires *[]string) *diag.Error {
	key := plan.Key(t)
	from, module := "", ""
	if t.Of != "me" && in.g.Resource(t.Name) != nil {
		if in.output == nil {
			return diag.Errorf(reader.Address.String(), "reads %s, which cannot be made", t.Name).At(reader.SpecPath...)
		}
		var err *diag.Error
		if from, module, err = in.output(t); err != nil {
			return err.At(reader.SpecPath...)
		}
	} else if m := in.g.Reads(reader, t); m != nil && m.Module != "" {
		from, module = m.Output, m.Module
	}
	if from == "" {
		v, err := in.g.Value(reader, t)
		if err == nil {
			values[key] = v
		}
		return err
	}
	if module != reader.Address.String() {
		*requires = append(*requires, module)
	}
	in.bind(key, from, module, values, p)
	return nil
}

// bind notes what a module gives: its value if that is known for good, and
// otherwise the one it had, and the output that will tell.
func (in *infra) bind(key, from, module string, values plan.Values, p *plan.Placed) {
	old, stands := in.deployed(module)
	v, known := old.Outputs[from]
	if stands && known {
		values[key] = v
	}
	if in.settled[module] && known {
		return
	}
	if p.Binds == nil {
		p.Binds = plan.Values{}
	}
	p.Binds[key] = from
	p.Unknown = append(p.Unknown, key)
	slices.Sort(p.Unknown)
	p.Unknown = slices.Compact(p.Unknown)
}
