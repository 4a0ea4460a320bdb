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
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// Set holds the available backends by name.
type Set map[string]Backend

// NewSet returns a Set. Two backends with one name are a programming error and panic.
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

// Names returns the names of the backends, sorted.
func (s Set) Names() []string { return sets.Keys(s) }

// Lint returns what the backends find in the services of a graph. Replicas of one set are checked
// once.
func (s Set) Lint(g *graph.Graph) diag.List {
	var out diag.List
	seen := map[string]bool{}
	for _, svc := range g.Services {
		l, ok := s[svc.Backend].(Linter)
		if set := svc.Address.Set(); ok && !seen[set] && !svc.Held && !svc.Summary {
			seen[set] = true
			out = append(out, l.Lint(svc)...)
		}
	}
	return out
}

// Rendered is a plan with its units.
type Rendered struct {
	Plan    *plan.Plan
	Modules map[string]Module // by address
	// Incomplete means that resources have errors and that nothing else was rendered.
	Incomplete bool
	Units      map[string]*plan.Unit       // by address; without held, memoized and discarded ones
	Objects    map[digest.Digest][]byte    // canonical bytes of each unit
	Summaries  map[string]*RenderedSummary // by address: what the next run can reuse; nil if RenderCache.Store is not set
	Unknown    []string                    // memoized services without a usable summary, by address: the plan lacks them
}

// RenderedSummary is the rendering of a service without its content. It is valid as long as the
// functionality and Context are the same: Context is everything else that rendering read.
type RenderedSummary struct {
	Context        string
	Digest, Object digest.Digest
	plan.Traits
	Effects
	Reads []token.Token
}

// RenderCache gives access to the summaries of earlier runs. The zero RenderCache is empty.
type RenderCache struct {
	Lookup      func(address string) *RenderedSummary // nil result: there is no summary for this address
	Store       bool                                  // collect summaries for the next run
	Discardable func(address string) bool             // reports that the unit's content is not needed; nil: all content is needed
}

// Failure is a functionality with errors in its services or in the values that they read.
type Failure struct {
	Functionality string
	Errors        diag.List
}

// Render returns the plan of a placed graph. A held service keeps its deployed entry; a held
// service that was never deployed is left out.
func (s Set) Render(g *graph.Graph, deployed func(address string) (plan.Placed, bool), artifact func(token.Token) (plan.Artifact, bool), cache RenderCache) (*Rendered, []Failure) {
	out := &Rendered{Modules: map[string]Module{}, Units: map[string]*plan.Unit{}, Objects: map[digest.Digest][]byte{},
		Plan: &plan.Plan{APIVersion: plan.APIVersion, Kind: "Plan", Deployment: g.Name, Environment: g.Environment, Units: make([]plan.Placed, 0, len(g.Services))}}
	if cache.Store {
		out.Summaries = make(map[string]*RenderedSummary, len(g.Services))
	}
	failures := map[string]diag.List{}
	refs := &resolver{graph: g, deployed: deployed, artifact: artifact, stable: map[string]bool{}}
	for _, e := range s.renderModules(refs, out) {
		f := ""
		if a, err := graph.ParseAddress(e.Subject); err == nil && a.Lib != "" {
			f = a.Functionality()
		}
		failures[f] = append(failures[f], e)
	}
	if out.Incomplete = len(failures) > 0; out.Incomplete { // services that read these resources have no values either
		return out, sortedFailures(failures)
	}
	var mu sync.Mutex
	lockedArtifact := func(t token.Token) (plan.Artifact, bool) {
		mu.Lock()
		defer mu.Unlock()
		return artifact(t)
	}
	units := make([]result, len(g.Services))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(g.Services)) { // services are rendered independently of each other
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(units); i = int(next.Add(1)) - 1 {
				if !g.Services[i].Held {
					units[i] = s.renderService(g, g.Services[i], lockedArtifact, refs, cache)
				}
			}
		})
	}
	workers.Wait()
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
			addFailure(failures, svc, u.errs)
		default:
			if !svc.Summary && !u.discarded {
				out.Units[u.placed.Address], out.Objects[u.placed.Object] = u.unit, u.raw
			}
			if cache.Store {
				out.Summaries[u.placed.Address] = u.summary
			}
			out.Plan.Units = append(out.Plan.Units, u.placed)
		}
	}
	slices.SortFunc(out.Plan.Units, func(a, b plan.Placed) int { return strings.Compare(a.Address, b.Address) })
	return out, sortedFailures(failures)
}

// addFailure adds the errors of a service to those of its functionality. A fact belongs to no
// functionality: its errors are those of all that require it, each at its own field.
func addFailure(failures map[string]diag.List, svc *graph.Service, errs diag.List) {
	if svc.Fact == nil || len(svc.Fact.AskedBy) == 0 {
		f := svc.Address.Functionality()
		failures[f] = append(failures[f], errs...)
		return
	}
	for f, path := range svc.Fact.AskedBy {
		for _, e := range errs {
			if e.Subject != f && svc.Fact.AskedBy[e.Subject] != nil { // it is that of another one
				continue
			}
			one := *e
			one.Subject, one.Path = f, path
			failures[f] = append(failures[f], &one)
		}
	}
}

// sortedFailures returns the failures by functionality, in order.
func sortedFailures(failures map[string]diag.List) []Failure {
	var list []Failure
	for _, name := range sets.Keys(failures) {
		list = append(list, Failure{name, failures[name].Sort()})
	}
	return list
}

// result is one rendered unit, or the errors that prevent it.
type result struct {
	unit   *plan.Unit
	raw    []byte
	placed plan.Placed
	errs   diag.List

	discarded bool // unit and raw are nil, because RenderCache.Discardable said so

	// of RenderCache, or for it
	summary *RenderedSummary
	unknown bool // the service is memoized, but there is no valid summary
}

// renderService renders one service and finds the values of the refs that it reads.
func (s Set) renderService(g *graph.Graph, svc *graph.Service, artifact func(token.Token) (plan.Artifact, bool), refs *resolver, cache RenderCache) (out result) {
	address := svc.Address.String()
	b := s[svc.Backend]
	if b == nil {
		out.errs = diag.List{diag.Errorf(svc.String(), "unknown backend %q", svc.Backend).At(append(slices.Clone(svc.Path), "backend")...)}
		return out
	}
	if c, ok := b.(MachineChecker); ok {
		if m := g.Machine(svc.Machine); m != nil {
			if problem, hint := c.CheckMachine(m); problem != "" {
				out.errs = diag.List{diag.Errorf(address, "%s", problem).At(append(slices.Clone(svc.Path), "backend")...).WithHint("%s", hint)}
				return out
			}
		}
	}
	in := Input{Deployment: g.Name, Environment: g.Environment, Service: svc, Artifact: artifact}
	u := &plan.Unit{Address: address, Backend: svc.Backend, Encoding: b.Encoding(), Traits: plan.Traits{Protect: svc.Spec.Protect, Stateful: svc.Spec.Dirs.State.Own(), Identity: svc.Identity}}
	if svc.Spec.Dirs.State.Own() {
		u.Kept = []string{svc.Spec.Dirs.State.String()}
	}
	if svc.Spec.Update != nil {
		u.AtOnce, u.Graceful = svc.Spec.Update.AtOnce, svc.Spec.Update.Style == "graceful"
	}
	if svc.Spec.Ready != nil && !svc.Sole {
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
		if t := g.Find(to); t != nil && t.Machine == svc.Machine && t.Spec.Schedule == nil { // a scheduled service is started by its schedule only
			in.Local = append(in.Local, to)
		}
	}
	u.Requires, u.After = sets.Union(u.Requires), sets.Union(u.After)

	if svc.Address.Member != "" {
		for _, m := range g.Services {
			if a := m.Address; a.Functionality() == svc.Address.Functionality() && a.Replica == svc.Address.Replica && a.Machine == "" && m.Machine == svc.Machine {
				in.Group = append(in.Group, m)
			}
		}
	}
	for kind, owner := range svc.Shares {
		if in.Owners == nil {
			in.Owners = map[string]*graph.Service{}
		}
		in.Owners[kind] = g.Find(owner)
	}
	var context string
	if svc.Summary || cache.Store {
		context = contextOf(svc, in.Local)
	}
	var errs diag.List
	var effects Effects
	if svc.Summary {
		out.summary = cache.Lookup(address)
		if out.unknown = out.summary == nil || out.summary.Context != context; out.unknown {
			return out
		}
		u.Reads, u.Traits, effects = out.summary.Reads, out.summary.Traits, out.summary.Effects
	} else {
		if u.Payload, effects, errs = b.Render(in); len(errs) > 0 {
			for _, e := range errs {
				e.Subject = svc.String()
			}
			out.errs = errs
			return out
		}
		u.Reads = u.Payload.Reads()
		effects.Needs = graph.SortNeeds(append(effects.Needs, foreignSecrets(svc)...))
	}
	needs := known(g, effects.Needs)
	if out.errs = notAllowed(g, svc, needs); len(out.errs) > 0 {
		return out
	}
	values := plan.Values{}
	placed := plan.Placed{}
	for _, t := range u.Reads {
		if v, ok := addressFor(g, b, in, t); ok {
			values[plan.Key(t)] = v
			continue
		}
		if err := refs.value(svc, t, values, &placed, &u.Requires); err != nil {
			errs = append(errs, err)
		}
	}
	if m := g.Machine(svc.Machine); m != nil && m.Module != "" { // its machine must exist
		u.Requires = append(u.Requires, m.Module)
		refs.bind(m.Identity, m.Identity, m.Module, values, &placed) // a replaced machine is empty, so the unit must be created again
	}
	u.Requires = sets.Union(u.Requires)
	if len(errs) > 0 {
		out.errs = errs
		return out
	}
	if len(values) == 0 {
		values = nil
	}
	if svc.Summary {
		out.placed = plan.Placed{Address: address, Machine: svc.Machine, Backend: svc.Backend, Digest: out.summary.Digest, Object: out.summary.Object,
			Values: values, Unknown: placed.Unknown, Binds: placed.Binds, Traits: u.Traits, Claims: effects.Claims, Needs: needs}
		return out
	}
	u.Artifacts = artifactsOf(svc, artifact)
	u.Spec = displaySpec(svc, u)
	d, err := u.Digest()
	if err != nil {
		out.errs = diag.List{diag.Errorf(svc.String(), "%v", err).At(svc.SpecPath...)}
		return out
	}
	raw, err := u.Canonical()
	if err != nil {
		out.errs = diag.List{diag.Errorf(svc.String(), "%v", err).At(svc.SpecPath...)}
		return out
	}
	object := digest.Bytes(raw)
	if cache.Store {
		out.summary = &RenderedSummary{Context: context, Digest: d, Object: object, Traits: u.Traits, Effects: effects, Reads: u.Reads}
	}
	if out.discarded = cache.Discardable != nil && cache.Discardable(address); !out.discarded { // large plans would hold too much content
		out.unit, out.raw = u, raw
	}
	out.placed = plan.Placed{Address: address, Machine: svc.Machine, Backend: svc.Backend, Digest: d, Object: object,
		Values: values, Unknown: placed.Unknown, Binds: placed.Binds, Traits: u.Traits, Claims: effects.Claims, Needs: needs}
	return out
}

// contextOf returns everything that rendering reads of a service and that its functionality does
// not determine: its machine, the services that its edges lead to, and which of those are on the
// same machine.
func contextOf(svc *graph.Service, local []graph.Address) string {
	var b strings.Builder
	b.WriteString(svc.Machine + " " + svc.Identity)
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

// addressFor asks the reader's backend for the value of a ref to a service on the same machine. It
// returns false if the reader gets the same value as all other readers.
func addressFor(g *graph.Graph, b Backend, in Input, t token.Token) (string, bool) {
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

// artifactsOf returns the artifacts that a service uses, by digest, each once.
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
	for _, d := range sets.Keys(seen) {
		out = append(out, seen[d])
	}
	return out
}

// displaySpec returns the normalized service from which differences between plans are shown: its
// spec, its backend's options, and its requires and after.
func displaySpec(svc *graph.Service, u *plan.Unit) json.RawMessage {
	raw, err := json.Marshal(svc.Spec)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", svc.Address, err)) // plain data always encodes
	}
	raw = raw[:len(raw)-1] // more fields follow; none has the name of a field of graph.Spec
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
