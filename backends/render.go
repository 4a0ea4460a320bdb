package backends

import (
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// Set is the backends there are, by name.
type Set map[string]Backend

// NewSet makes a Set. Two backends of one name are a mistake of the program.
func NewSet(list ...Backend) Set {
	s := Set{}
	for _, b := range list {
		if s[b.Name()] != nil {
			panic("two backends named " + b.Name())
		}
		s[b.Name()] = b
	}
	return s
}

// Names lists the backends, sorted.
func (s Set) Names() []string { return slices.Sorted(maps.Keys(s)) }

// Rendered is a plan with its units.
type Rendered struct {
	Plan    *plan.Plan
	Modules map[string]Module // by address
	// Incomplete means that resources failed, and nothing else was rendered.
	Incomplete bool
	Units      map[string]*plan.Unit       // by address; without what is held or known
	Objects    map[digest.Digest][]byte    // canonical bytes of each unit
	Summaries  map[string]*RenderedSummary // by address: what the next run may know; nil if nobody asked
	Unknown    []string                    // sketches of which nobody knows what they come to: the plan lacks them
}

// RenderedSummary is what a service comes to, and in which surroundings: all that its
// rendering saw besides the service as its functionality says it.
type RenderedSummary struct {
	Context        string
	Digest, Object digest.Digest
	plan.Traits
	Reads []token.Token
}

// RenderCache knows what services of sketches come to. The zero Memory knows nothing.
type RenderCache struct {
	Lookup      func(address string) *RenderedSummary // nil: nothing is known of it
	Store       bool                                  // tell what can be known of the next time
	Discardable func(address string) bool             // nobody will ask for the unit at an address; nil: somebody may, for each
}

// Failure is a functionality that a backend, or a value it reads, refuses.
type Failure struct {
	Functionality string
	Errors        diag.List
}

// Render makes the plan of a placed graph. Held services take the place that
// deployed gives them; one that was never deployed is left out.
func (s Set) Render(g *graph.Graph, deployed func(address string) (plan.Placed, bool), artifact func(token.Token) (plan.Artifact, bool), memory RenderCache) (*Rendered, []Failure) {
	out := &Rendered{Modules: map[string]Module{}, Units: map[string]*plan.Unit{}, Objects: map[digest.Digest][]byte{},
		Plan: &plan.Plan{APIVersion: plan.APIVersion, Kind: "Plan", Deployment: g.Name, Environment: g.Environment, Units: make([]plan.Placed, 0, len(g.Services))}}
	if memory.Store {
		out.Summaries = make(map[string]*RenderedSummary, len(g.Services))
	}
	failures := map[string]diag.List{}
	infra := &infra{g: g, deployed: deployed, artifact: artifact, settled: map[string]bool{}}
	for _, e := range s.modules(infra, out) {
		f := ""
		if a, err := graph.ParseAddress(e.Subject); err == nil && a.Lib != "" {
			f = a.Functionality()
		}
		failures[f] = append(failures[f], e)
	}
	if out.Incomplete = len(failures) > 0; out.Incomplete { // what reads of them cannot be told either
		return out, listed(failures)
	}
	var asking sync.Mutex
	one := func(t token.Token) (plan.Artifact, bool) {
		asking.Lock()
		defer asking.Unlock()
		return artifact(t)
	}
	units := make([]rendered, len(g.Services))
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(g.Services)) { // one service knows nothing of another's unit
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(units); i = int(next.Add(1)) - 1 {
				if !g.Services[i].Held {
					units[i] = s.one(g, g.Services[i], one, infra, memory)
				}
			}
		})
	}
	all.Wait()
	for i, svc := range g.Services {
		u := units[i]
		switch {
		case svc.Held:
			if p, ok := deployed(svc.Address.String()); ok {
				out.Plan.Units = append(out.Plan.Units, p)
			}
		case u.unknown:
			out.Unknown = append(out.Unknown, svc.Address.String())
		case len(u.errs) > 0:
			f := svc.Address.Functionality()
			failures[f] = append(failures[f], u.errs...)
		default:
			if !svc.Summary && !u.dropped {
				out.Units[u.placed.Address], out.Objects[u.placed.Object] = u.unit, u.raw
			}
			if memory.Store {
				out.Summaries[u.placed.Address] = u.known
			}
			out.Plan.Units = append(out.Plan.Units, u.placed)
		}
	}
	slices.SortFunc(out.Plan.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	return out, listed(failures)
}

func listed(failures map[string]diag.List) []Failure {
	var list []Failure
	for _, name := range slices.Sorted(maps.Keys(failures)) {
		list = append(list, Failure{name, failures[name].Sort()})
	}
	return list
}

// rendered is one unit, or why there is none.
type rendered struct {
	unit   *plan.Unit
	raw    []byte
	placed plan.Placed
	errs   diag.List

	dropped bool // only its place and digests are left

	known   *RenderedSummary
	unknown bool // it is a sketch, and it was never rendered here
}

func (s Set) one(g *graph.Graph, svc *graph.Service, artifact func(token.Token) (plan.Artifact, bool), infra *infra, memory RenderCache) (out rendered) {
	address := svc.Address.String()
	b := s[svc.Backend]
	if b == nil {
		out.errs = diag.List{diag.Errorf(address, "there is no backend %q", svc.Backend).At(append(slices.Clone(svc.Path), "backend")...)}
		return out
	}
	in := Input{Deployment: g.Name, Environment: g.Environment, Service: svc, Artifact: artifact}
	u := &plan.Unit{Address: address, Backend: svc.Backend, Encoding: b.Encoding(), Traits: plan.Traits{Protect: svc.Spec.Protect, Stateful: svc.Spec.Dirs.State != ""}}
	if svc.Spec.Update != nil {
		u.AtOnce, u.Graceful = svc.Spec.Update.AtOnce, svc.Spec.Update.Style == "graceful"
	}
	if svc.Spec.Ready != nil && svc.Address.Replica != "" {
		u.MinReady = svc.Spec.Ready.Count
	}
	local := map[graph.Address]bool{}
	for _, e := range svc.Requires {
		for _, to := range e.To {
			u.Requires = append(u.Requires, to.String())
			local[to] = true
		}
	}
	for _, e := range svc.After {
		for _, to := range e.To {
			u.After = append(u.After, to.String())
			local[to] = true
		}
	}
	for _, to := range slices.SortedFunc(maps.Keys(local), graph.Address.Compare) {
		if t := g.Find(to); t != nil && t.Machine == svc.Machine && t.Spec.Schedule == nil { // what runs on time is not started by others
			in.Local = append(in.Local, to)
		}
	}
	slices.Sort(u.Requires)
	slices.Sort(u.After)
	u.Requires, u.After = slices.Compact(u.Requires), slices.Compact(u.After)

	if svc.Address.Member != "" {
		for _, m := range g.Services {
			if a := m.Address; a.Functionality() == svc.Address.Functionality() && a.Replica == svc.Address.Replica && a.Machine == "" && m.Machine == svc.Machine {
				in.Group = append(in.Group, m)
			}
		}
	}
	var around string
	if svc.Summary || memory.Store {
		around = surroundings(svc, in.Local)
	}
	var errs diag.List
	if svc.Summary {
		out.known = memory.Lookup(address)
		if out.unknown = out.known == nil || out.known.Context != around; out.unknown {
			return out
		}
		u.Reads, u.Traits = out.known.Reads, out.known.Traits
	} else {
		if u.Payload, errs = b.Render(in); len(errs) > 0 {
			for _, e := range errs {
				e.Subject = address
			}
			out.errs = errs
			return out
		}
		u.Reads = u.Payload.Reads()
	}
	values := plan.Values{}
	placed := plan.Placed{}
	for _, t := range u.Reads {
		if v, ok := seen(g, b, in, t); ok {
			values[plan.Key(t)] = v
			continue
		}
		if err := infra.value(svc, t, values, &placed, &u.Requires); err != nil {
			errs = append(errs, err)
		}
	}
	if m := g.Machine(svc.Machine); m != nil && m.Module != "" { // its machine must be there
		u.Requires = append(u.Requires, m.Module)
		infra.bind(m.Identity, m.Identity, m.Module, values, &placed) // another machine is an empty one
	}
	slices.Sort(u.Requires)
	u.Requires = slices.Compact(u.Requires)
	if len(errs) > 0 {
		out.errs = errs
		return out
	}
	if len(values) == 0 {
		values = nil
	}
	if svc.Summary {
		out.placed = plan.Placed{Address: address, Machine: svc.Machine, Backend: svc.Backend, Digest: out.known.Digest, Object: out.known.Object,
			Values: values, Unknown: placed.Unknown, Binds: placed.Binds, Traits: u.Traits}
		return out
	}
	u.Artifacts = artifactsOf(svc, artifact)
	u.Spec = shown(svc, u)
	d, err := u.Digest()
	if err != nil {
		out.errs = diag.List{diag.Errorf(address, "%v", err).At(svc.SpecPath...)}
		return out
	}
	raw, err := u.Canonical()
	if err != nil {
		out.errs = diag.List{diag.Errorf(address, "%v", err).At(svc.SpecPath...)}
		return out
	}
	object := digest.Bytes(raw)
	if memory.Store {
		out.known = &RenderedSummary{Context: around, Digest: d, Object: object, Traits: u.Traits, Reads: u.Reads}
	}
	if out.dropped = memory.Discardable != nil && memory.Discardable(address); !out.dropped { // there may be very many
		out.unit, out.raw = u, raw
	}
	out.placed = plan.Placed{Address: address, Machine: svc.Machine, Backend: svc.Backend, Digest: d, Object: object,
		Values: values, Unknown: placed.Unknown, Binds: placed.Binds, Traits: u.Traits}
	return out
}

// surroundings writes all of a service that its functionality does not say
// alone: its machine, where its edges end, and who of those is beside it.
func surroundings(svc *graph.Service, local []graph.Address) string {
	var b strings.Builder
	b.WriteString(svc.Machine)
	for _, kind := range [][]graph.Edge{svc.Requires, svc.Connects, svc.After} {
		b.WriteString("\n")
		for _, e := range kind {
			b.WriteString(" " + e.Alias + "=" + e.Set + ":")
			for _, to := range e.To {
				b.WriteString(" " + to.String())
			}
		}
	}
	b.WriteString("\n")
	for _, a := range local {
		b.WriteString(" " + a.String())
	}
	return b.String()
}

// seen asks the reader's backend what a neighbour on the same machine is to it.
func seen(g *graph.Graph, b Backend, in Input, t token.Token) (string, bool) {
	n, ok := b.(Networker)
	if !ok || t.Field != "host" && t.Field != "address" && t.Field != "port" {
		return "", false
	}
	target := g.Target(in.Service, t)
	if target == nil || target.Machine != in.Service.Machine {
		return "", false
	}
	field := t.Field
	if field == "host" && t.Of == "me" {
		field = "address"
	}
	m := g.Machine(target.Machine)
	return n.AddressFor(in, target, field, t.Arg, m != nil && m.Address != "")
}

func artifactsOf(svc *graph.Service, artifact func(token.Token) (plan.Artifact, bool)) []plan.Artifact {
	seen := map[digest.Digest]plan.Artifact{}
	svc.Spec.Texts(func(t token.Text) {
		for _, tok := range t.Tokens() {
			if tok.Kind == token.Artifact {
				if a, ok := artifact(tok); ok {
					seen[a.Digest] = a
				}
			}
		}
	})
	var out []plan.Artifact
	for _, d := range slices.Sorted(maps.Keys(seen)) {
		out = append(out, seen[d])
	}
	return out
}

// shown is the normalized service that differences are shown of: its spec, its
// backend's namespace, and what goes before it.
func shown(svc *graph.Service, u *plan.Unit) json.RawMessage {
	raw, err := json.Marshal(svc.Spec)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", svc.Address, err)) // plain data always encodes
	}
	raw = raw[:len(raw)-1] // more fields follow; none has the name of one of a spec
	add := func(name string, v any) {
		field, err := json.Marshal(v)
		if err != nil {
			panic(fmt.Sprintf("%s: %v", svc.Address, err))
		}
		if len(raw) > 1 {
			raw = append(raw, ',')
		}
		raw = append(append(append(raw, '"'), name...), '"', ':')
		raw = append(raw, field...)
	}
	if svc.Options != nil {
		add(svc.Backend, svc.Options)
	}
	for name, list := range map[string][]string{"requires": u.Requires, "after": u.After} {
		if len(list) > 0 {
			add(name, list)
		}
	}
	out, err := digest.CanonicalJSON(append(raw, '}'))
	if err != nil {
		panic(fmt.Sprintf("%s: %v", svc.Address, err))
	}
	return out
}
