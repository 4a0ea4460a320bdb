package project

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"maps"
	"runtime"
	"slices"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
	"github.com/defx-dev/defx/lang/cache"
	"golang.org/x/sync/errgroup"
)

// What a plan found out about each functionality is kept beside evaluation: a
// file for each library, with the sketch of each functionality and what each of
// its services came to. The next plan decodes, resolves and renders only what
// the sketches do not tell, and places, orders and compares all of them.
//
// A sketch counts only if value, answers and surroundings are those of the run
// that made it (compile.Sketch, backends.Known), and if what it comes to is what
// stands: so whatever is to change was rendered in this very run. The short road
// knows no errors. Where it meets with anything but success it is left, and the
// whole road decides, and tells.

// memory is what is kept of a deployment's libraries.
type memory struct {
	p      *Project
	entry  digest.Digest // of all that libraries' values do not tell
	values map[string]digest.Digest
	kept   map[string]map[string]*kept // library → functionality
	why    map[string]string           // functionality → why what is kept does not count
	whole  string                      // why the whole road has to be walked
}

// kept is what is known of a functionality.
type kept struct {
	name     string
	sketch   compile.Summary
	services []service
}

// service is one replica of it.
type service struct {
	replica string
	known   backends.RenderedSummary
}

// recall reads what is kept of libraries; nil if nothing can be, or nothing is wanted.
func (p *Project) recall(g *ground, libraries []string) *memory {
	if p.Config.Cache == "" {
		return nil
	}
	encodings := map[string]int{}
	for name, b := range p.Backends {
		encodings[name] = b.Encoding()
	}
	entry, err := digest.Of("memory/2", map[string]any{"entry": g.entry.Deployment, "environment": g.entry.Environment, "images": g.images, "backends": encodings})
	if err != nil {
		return nil
	}
	m := &memory{p: p, entry: entry, kept: map[string]map[string]*kept{}, why: map[string]string{}}
	store := cache.Open(p.Config.Cache, p.Config.CacheMax)
	all := make([]map[string]*kept, len(libraries))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, lib := range libraries {
		group.Go(func() error {
			if key, err := p.Config.Key("units of " + lib); err == nil {
				raw, _, _ := store.Find(key, nil)
				all[i] = m.read(raw)
			}
			return nil
		})
	}
	group.Wait()
	for i, lib := range libraries {
		m.kept[lib] = all[i]
	}
	return m
}

// of makes it that of what was evaluated; nil if not all was, or if it is of other libraries.
func (m *memory) of(res *lang.Result) *memory {
	if m == nil || len(m.kept) != len(res.Libraries) {
		return nil
	}
	values := make([][]digest.Digest, len(res.Libraries))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range res.Libraries {
		if m.kept[l.Name] == nil || l.Err != nil || slices.ContainsFunc(l.Functionalities, func(f lang.Functionality) bool { return f.Err != nil }) {
			group.Wait()
			return nil
		}
		group.Go(func() error {
			for _, f := range l.Functionalities {
				values[i] = append(values[i], valueOf(f))
			}
			return nil
		})
	}
	group.Wait()
	count := 0
	for _, l := range values {
		count += len(l)
	}
	m.values = make(map[string]digest.Digest, count)
	for i, l := range res.Libraries {
		for j, f := range l.Functionalities {
			m.values[l.Name+"/"+f.Name] = values[i][j]
		}
	}
	return m
}

// valueOf names all that a functionality is decoded from.
func valueOf(f lang.Functionality) digest.Digest {
	h := digest.New()
	for _, part := range [][]byte{f.Value, f.Base} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return h.Digest()
}

// sketches gives those of what stands as they know it.
func (m *memory) sketches(old *plan.Plan) map[string]*compile.Summary {
	out := make(map[string]*compile.Summary, len(m.values))
	for lib, funcs := range m.kept {
		for name, k := range funcs {
			full := lib + "/" + name
			if m.values[full] != k.sketch.Value {
				m.why[full] = "its value changed"
				continue
			}
			i := slices.IndexFunc(k.services, func(s service) bool {
				u := old.Find(graph.Address{Lib: lib, Name: name, Replica: s.replica}.String())
				return u == nil || u.Object != s.known.Object || u.Digest != s.known.Digest
			})
			if i >= 0 {
				m.why[full] = "it does not stand as it was rendered last"
				continue
			}
			out[full] = &k.sketch
		}
	}
	return out
}

// known gives what a service of a sketch comes to.
func (m *memory) known(address string) *backends.RenderedSummary {
	a, err := graph.ParseAddress(address)
	if err != nil || m.kept[a.Lib][a.Name] == nil {
		return nil
	}
	k := m.kept[a.Lib][a.Name]
	for i := range k.services {
		if k.services[i].replica == a.Replica {
			return &k.services[i].known
		}
	}
	return nil
}

// short walks the road with sketches. It gives false, and leaves d as it was,
// if there is anything to tell besides the plan.
func (m *memory) short(d *Desired, in compile.Input, old *plan.Plan) bool {
	in.Summaries, in.Values = m.sketches(old), m.values
	m.whole = "nothing is known of this entry, or nothing stands as it was rendered last"
	for len(in.Summaries) > 0 {
		m.whole = "something is held, moved, refused, or made by a module"
		r, err := m.p.round(d, in, old, backends.RenderCache{Lookup: m.known, Store: true})
		if err != nil || len(r.more) > 0 || len(r.out.Held) > 0 || len(r.out.Graph.Resources)+len(r.out.Graph.Balancers) > 0 ||
			slices.ContainsFunc(r.out.Graph.Machines, func(m *graph.Machine) bool { return m.Module != "" }) { // modules have a world of their own
			return false
		}
		if len(r.rendered.Unknown) == 0 {
			d.take(r)
			m.keep(r)
			m.whole = ""
			if m.p.Explain {
				d.Uses = m.uses(r)
			}
			return true
		}
		before := len(in.Summaries)
		for _, address := range r.rendered.Unknown {
			a, _ := graph.ParseAddress(address)
			delete(in.Summaries, a.Functionality())
			m.why[a.Functionality()] = "its machine, or where its neighbours are, changed"
		}
		m.whole = "most of it is new"
		if len(in.Summaries) < before*3/4 || len(in.Summaries) == before {
			return false // most is new: the whole road is shorter
		}
	}
	return false
}

// uses tells of each functionality whether it was rendered now, and why.
func (m *memory) uses(r *round) []lang.CacheUse {
	var out []lang.CacheUse
	for _, s := range r.out.Graph.Services {
		full := s.Address.Functionality()
		if n := len(out); n > 0 && out[n-1].Part == full {
			continue
		}
		u := lang.CacheUse{Part: full, Hit: s.Summary}
		if !s.Summary {
			u.Why = cmp.Or(m.why[full], r.out.Invalidated[full], "nothing is kept of it")
		}
		out = append(out, u)
	}
	return out
}

// verify walks the whole road besides, and holds what the short one led to against that.
func (p *Project) verify(ctx context.Context, d *Desired) error {
	whole, err := p.evaluate(ctx, false)
	if err != nil {
		return err
	}
	told := func(d *Desired) string {
		raw, err := json.Marshal([]any{d.Rendered.Plan, d.Reasons, len(d.Held)})
		if err != nil {
			panic(err) // plain data always encodes
		}
		return string(raw)
	}
	if told(d) != told(whole) {
		e := diag.Errorf("", "earlier plans told another plan than the whole road leads to").WithHint("remove %s, and tell us: this cannot happen", p.Config.Cache)
		e.Cause = lang.ErrCacheMismatch
		return e
	}
	return nil
}

// keep writes what is known now, of libraries of which that changed.
func (m *memory) keep(r *round) {
	if r.rendered == nil || len(r.out.Held) > 0 {
		return
	}
	now := map[string]map[string]*kept{}
	for lib := range m.kept {
		now[lib] = make(map[string]*kept, len(m.kept[lib]))
	}
	for full, s := range r.out.Summaries {
		a, _ := graph.ParseAddress(full)
		now[a.Lib][a.Name] = &kept{name: a.Name, sketch: *s}
	}
	changed := map[string]bool{}
	for _, s := range r.out.Graph.Services {
		if k := now[s.Address.Lib][s.Address.Name]; k != nil && s.Address.Member == "" && s.Address.Machine == "" {
			if known := r.rendered.Summaries[s.Address.String()]; known != nil {
				k.services = append(k.services, service{s.Address.Replica, *known})
				changed[s.Address.Lib] = changed[s.Address.Lib] || !s.Summary
			}
		}
	}
	store := cache.Open(m.p.Config.Cache, m.p.Config.CacheMax)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for lib, funcs := range now {
		if !changed[lib] && len(funcs) == len(m.kept[lib]) {
			continue
		}
		g.Go(func() error {
			if key, err := m.p.Config.Key("units of " + lib); err == nil {
				store.Store(key, nil, m.write(funcs))
			}
			return nil
		})
	}
	g.Wait()
}

func (m *memory) write(funcs map[string]*kept) []byte {
	c := cache.Writer()
	var list []kept
	for _, name := range slices.Sorted(maps.Keys(funcs)) {
		list = append(list, *funcs[name])
	}
	entry := m.entry
	cache.Text(c, &entry)
	cache.List(c, &list, codeKept)
	return c.Bytes()
}

func (m *memory) read(raw []byte) map[string]*kept {
	out := map[string]*kept{}
	c := cache.Reader(raw)
	var entry digest.Digest
	var list []kept
	if cache.Text(c, &entry); entry != m.entry {
		return out
	}
	if cache.List(c, &list, codeKept); c.Ok() {
		for i := range list {
			out[list[i].name] = &list[i]
		}
	}
	return out
}

// How each thing that is kept is written and read.

func codeKept(c *cache.Codec, k *kept) {
	cache.Text(c, &k.name)
	codeSketch(c, &k.sketch)
	cache.List(c, &k.services, codeService)
}

func codeSketch(c *cache.Codec, s *compile.Summary) {
	cache.Text(c, &s.Value)
	cache.Text(c, &s.Backend)
	cache.Bytes(c, &s.Options)
	cache.Text(c, &s.FQDN)
	codePlace(c, &s.Place)
	cache.Text(c, &s.With)
	cache.Map(c, &s.Interface.Ports, func(c *cache.Codec, p *graph.Port) { c.Number(&p.Port); cache.Text(c, &p.Protocol) })
	cache.Map(c, &s.Interface.Labels, cache.Text)
	d := &s.Interface.Dirs
	texts(c, &d.State, &d.Cache, &d.Logs, &d.Runtime)
	cache.Optional(c, &s.Schedule, func(c *cache.Codec, s *graph.Schedule) {
		texts(c, &s.Cron, &s.Every, &s.Timezone, &s.Jitter, &s.Missed)
	})
	cache.Optional(c, &s.Limits, func(c *cache.Codec, l *graph.Limits) {
		texts(c, &l.CPU, &l.Memory)
		c.Number(&l.Tasks)
		c.Number(&l.OpenFiles)
	})
	for _, edges := range []*[]graph.Edge{&s.Requires, &s.Connects, &s.After} {
		cache.List(c, edges, func(c *cache.Codec, e *graph.Edge) { texts(c, &e.Alias, &e.Set) })
	}
	cache.List(c, &s.Dependencies, func(c *cache.Codec, l *compile.Dependency) { texts(c, &l.Question, &l.Answer) })
}

func codePlace(c *cache.Codec, p *graph.Place) {
	texts(c, &p.Machine, &p.Every, &p.With, &p.Pool, &p.Location, &p.Spread)
	cache.List(c, &p.Roles, cache.Text)
	cache.Map(c, &p.Labels, cache.Text)
	cache.List(c, &p.Except, cache.Text)
	cache.Optional(c, &p.Replicas, func(c *cache.Codec, r *graph.Replicas) {
		c.Number(&r.Count)
		named := r.Names != nil
		if c.Flag(&named); named {
			if cache.List(c, &r.Names, cache.Text); r.Names == nil {
				r.Names = []string{}
			}
		}
	})
}

func codeService(c *cache.Codec, s *service) {
	k := &s.known
	texts(c, &s.replica, &k.Context)
	cache.Text(c, &k.Digest)
	cache.Text(c, &k.Object)
	cache.List(c, &k.Requires, cache.Text)
	cache.List(c, &k.After, cache.Text)
	c.Flag(&k.Protect)
	c.Flag(&k.Stateful)
	cache.List(c, &k.Follows, cache.Text)
	c.Number(&k.Drain)
	cache.List(c, &k.Reads, func(c *cache.Codec, t *token.Token) {
		cache.Text(c, &t.Kind)
		texts(c, &t.Of, &t.Name, &t.Field, &t.Arg, &t.Body, &t.Digest, &t.Version)
		c.Flag(&t.Here)
	})
}

func texts(c *cache.Codec, list ...*string) {
	for _, s := range list {
		cache.Text(c, s)
	}
}
