package project

import (
	"encoding/binary"
	"runtime"
	"slices"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
	"github.com/defx-dev/defx/lang/cache"
	"golang.org/x/sync/errgroup"
)

// memo is what earlier plans found out about the libraries of a deployment. The
// evaluation cache holds one entry a library: a summary of each functionality,
// and a summary of each of its rendered services.
type memo struct {
	p              *Project
	entry          digest.Digest // of everything a result depends on that is not in the values of libraries
	values         map[string]digest.Digest
	entries        map[string]map[string]*memoEntry // library → functionality
	reasons        map[string]string                // functionality → why its entry cannot be used
	fullPlanReason string                           // why a full plan is needed
}

// memoEntry is what is memoized of one functionality.
type memoEntry struct {
	name     string
	summary  compile.Summary
	services []memoService
}

// memoService is one replica of a functionality, as it was rendered.
type memoService struct {
	replica  string
	rendered backends.RenderedSummary
}

// loadMemo reads the memo of libraries. It returns nil without a cache.
func (p *Project) loadMemo(in *planInputs, libraries []string) *memo {
	if p.Config.Cache == "" {
		return nil
	}
	encodings := map[string]int{}
	for name, b := range p.Backends {
		encodings[name] = b.Encoding()
	}
	entry, err := digest.Of("memory/5", map[string]any{"entry": in.entry.Deployment, "environment": in.entry.Environment, "images": in.images, "backends": encodings})
	if err != nil {
		return nil
	}
	m := &memo{p: p, entry: entry, entries: map[string]map[string]*memoEntry{}, reasons: map[string]string{}}
	store := cache.Open(p.Config.Cache, p.Config.CacheMax)
	all := make([]map[string]*memoEntry, len(libraries))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, lib := range libraries {
		group.Go(func() error {
			if key, err := p.Config.Key("units of " + lib); err == nil {
				raw, _, _ := store.Find(key, nil)
				all[i] = m.decode(raw)
			}
			return nil
		})
	}
	group.Wait()
	for i, lib := range libraries {
		m.entries[lib] = all[i]
	}
	return m
}

// forResult binds the memo to an evaluation result. It returns nil if any part
// failed to evaluate, or if the libraries are not those of the memo.
func (m *memo) forResult(res *lang.Result) *memo {
	if m == nil || len(m.entries) != len(res.Libraries) {
		return nil
	}
	values := make([][]digest.Digest, len(res.Libraries))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range res.Libraries {
		if m.entries[l.Name] == nil || l.Err != nil || slices.ContainsFunc(l.Functionalities, func(f lang.Functionality) bool { return f.Err != nil }) {
			group.Wait()
			return nil
		}
		group.Go(func() error {
			for _, f := range l.Functionalities {
				values[i] = append(values[i], functionalityDigest(f))
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

// functionalityDigest returns the digest of all that a functionality is decoded from.
func functionalityDigest(f lang.Functionality) digest.Digest {
	h := digest.New()
	for _, part := range [][]byte{f.Value, f.Base} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return h.Digest()
}

// lookup returns the summary of the rendered service at an address, or nil.
func (m *memo) lookup(address string) *backends.RenderedSummary {
	a, err := graph.ParseAddress(address)
	if err != nil || m.entries[a.Lib][a.Name] == nil {
		return nil
	}
	e := m.entries[a.Lib][a.Name]
	for i := range e.services {
		if e.services[i].replica == a.Replica {
			return &e.services[i].rendered
		}
	}
	return nil
}

// store writes the memo of a pass, for the libraries in which something changed.
// It writes nothing if anything is held.
func (m *memo) store(r *pass) {
	if r.rendered == nil || len(r.out.Held) > 0 {
		return
	}
	entries := map[string]map[string]*memoEntry{}
	for lib := range m.entries {
		entries[lib] = make(map[string]*memoEntry, len(m.entries[lib]))
	}
	for full, s := range r.out.Summaries {
		a, _ := graph.ParseAddress(full)
		entries[a.Lib][a.Name] = &memoEntry{name: a.Name, summary: *s}
	}
	changed := map[string]bool{}
	for _, s := range r.out.Graph.Services {
		if e := entries[s.Address.Lib][s.Address.Name]; e != nil && s.Address.Member == "" && s.Address.Machine == "" {
			if rendered := r.rendered.Summaries[s.Address.String()]; rendered != nil {
				e.services = append(e.services, memoService{s.Address.Replica, *rendered})
				changed[s.Address.Lib] = changed[s.Address.Lib] || !s.Summary
			}
		}
	}
	store := cache.Open(m.p.Config.Cache, m.p.Config.CacheMax)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for lib, funcs := range entries {
		if !changed[lib] && len(funcs) == len(m.entries[lib]) {
			continue
		}
		g.Go(func() error {
			if key, err := m.p.Config.Key("units of " + lib); err == nil {
				store.Store(key, nil, m.encode(funcs))
			}
			return nil
		})
	}
	g.Wait()
}

// encode returns the entries of one library as bytes that decode reads.
func (m *memo) encode(funcs map[string]*memoEntry) []byte {
	c := cache.Writer()
	var list []memoEntry
	for _, name := range sets.Keys(funcs) {
		list = append(list, *funcs[name])
	}
	entry := m.entry
	cache.Text(c, &entry)
	cache.List(c, &list, codeEntry)
	return c.Bytes()
}

// decode returns the entries in raw. It returns none if raw is damaged or was
// written for another entry file.
func (m *memo) decode(raw []byte) map[string]*memoEntry {
	out := map[string]*memoEntry{}
	c := cache.Reader(raw)
	var entry digest.Digest
	var list []memoEntry
	if cache.Text(c, &entry); entry != m.entry {
		return out
	}
	if cache.List(c, &list, codeEntry); c.Ok() {
		for i := range list {
			out[list[i].name] = &list[i]
		}
	}
	return out
}

// The code functions below both read and write a type, field by field.

func codeEntry(c *cache.Codec, e *memoEntry) {
	cache.Text(c, &e.name)
	codeSummary(c, &e.summary)
	cache.List(c, &e.services, codeService)
}

func codeSummary(c *cache.Codec, s *compile.Summary) {
	cache.Text(c, &s.Value)
	cache.Text(c, &s.Backend)
	cache.Bytes(c, &s.Options)
	cache.Text(c, &s.FQDN)
	codePlace(c, &s.Place)
	cache.Text(c, &s.With)
	cache.Map(c, &s.Interface.Ports, func(c *cache.Codec, p *graph.Port) { c.Number(&p.Port); cache.Text(c, &p.Protocol) })
	cache.Map(c, &s.Interface.Labels, cache.Text)
	for _, kind := range graph.DirKinds {
		d := s.Interface.Dirs.Kind(kind)
		texts(c, &d.Name, &d.Path, &d.Of)
	}
	cache.Text(c, &s.Interface.User)
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
	cache.List(c, &s.Dependencies, func(c *cache.Codec, d *compile.Dependency) { texts(c, &d.Question, &d.Answer) })
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

func codeService(c *cache.Codec, s *memoService) {
	r := &s.rendered
	texts(c, &s.replica, &r.Context)
	cache.Text(c, &r.Digest)
	cache.Text(c, &r.Object)
	cache.List(c, &r.Requires, cache.Text)
	cache.List(c, &r.After, cache.Text)
	c.Flag(&r.Protect)
	c.Flag(&r.Stateful)
	cache.List(c, &r.Kept, cache.Text)
	cache.Text(c, &r.Identity)
	cache.List(c, &r.Claims, func(c *cache.Codec, p *plan.Claim) {
		texts(c, &p.Kind, &p.Key, &p.Value)
		cache.List(c, &p.Field, cache.Text)
		c.Flag(&p.Shared)
	})
	cache.List(c, &r.Needs, func(c *cache.Codec, n *graph.Need) {
		cache.Text(c, &n.Kind)
		cache.Text(c, &n.Value)
		cache.List(c, &n.Field, cache.Text)
	})
	cache.List(c, &r.Follows, cache.Text)
	c.Number(&r.Drain)
	cache.List(c, &r.Reads, func(c *cache.Codec, t *token.Token) {
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
