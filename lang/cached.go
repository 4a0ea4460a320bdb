package lang

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/lang/cache"
	"golang.org/x/sync/errgroup"
)

// The entry and each library are kept by themselves: each is evaluated with
// nothing in memory but parsed files, and what it reads meanwhile is told by the
// importer. What failed is not kept.

// CacheUse tells whether a part of the deployment came out of the cache.
type CacheUse struct {
	Part string `json:"part"` // "entry", or the name of a library
	Hit  bool   `json:"hit"`
	Why  string `json:"why,omitempty"` // it did not
}

const entryPart = "entry"

// ErrCacheMismatch tells that what is kept is not what evaluation gives. It cannot be.
var ErrCacheMismatch = errors.New("the cache holds another value than evaluation gives")

// Key names what is kept: by the program that evaluates, and by all that it is given.
func (c Config) Key(part string) (digest.Digest, error) {
	program, err := identity(c.command())
	if err != nil {
		return "", err
	}
	folders := []string{}
	for _, j := range c.JPath {
		folders = append(folders, relative(c.Root, j))
	}
	return digest.Of("evaluation/1", map[string]any{"program": program, "entry": c.Entry, "env": c.Env, "str": merge(c.TLAStr, nil), "code": merge(c.TLACode, nil),
		"jpath": folders, "part": part})
}

func (c Config) command() string {
	if len(c.Command) > 0 {
		return c.Command[0]
	}
	self, _ := os.Executable()
	return self
}

var identities sync.Map

// identity tells one build of a program from all others: by the name that the
// linker gave it, which covers its content, else by its content.
func identity(program string) (string, error) {
	if id, ok := identities.Load(program); ok {
		return id.(string), nil
	}
	id := ""
	if f, err := elf.Open(program); err == nil {
		if s := f.Section(".note.go.buildid"); s != nil {
			if raw, err := s.Data(); err == nil && bytes.Count(raw, []byte("/")) >= 1 {
				id = digest.Bytes(raw).Hex()
			}
		}
		f.Close()
	}
	if id == "" {
		f, err := os.Open(program)
		if err != nil {
			return "", err
		}
		defer f.Close()
		h := digest.New()
		if _, err := io.Copy(h, f); err != nil {
			return "", err
		}
		id = h.Digest().Hex()
	}
	identities.Store(program, id)
	return id, nil
}

// CacheKeyReader tells how files are now, as the importer finds them. It reads each once.
func (c Config) CacheKeyReader() (func(path string) ReadRecord, error) {
	i, err := newImporter(c.Root, c.JPath)
	if err != nil {
		return nil, err
	}
	return i.look, nil
}

// look reads a place as Import does, and what cannot be read is neither there nor absent.
func (i *importer) look(place string) ReadRecord {
	i.mu.Lock()
	defer i.mu.Unlock()
	if r, ok := i.reads[place]; ok {
		return r
	}
	i.read(place)
	if r, ok := i.reads[place]; ok {
		return r
	}
	return ReadRecord{Path: place}
}

// cached evaluates what the cache does not know, and keeps it.
func cached(ctx context.Context, c Config) (*Result, error) {
	look, err := c.CacheKeyReader()
	if err != nil {
		return nil, err
	}
	store := cache.Open(c.Cache, c.CacheMax)
	key, err := c.Key(entryPart)
	if err != nil {
		return nil, err
	}
	raw, reads, why := store.Find(key, look)
	parts, bad := cache.Parts(raw)
	if bad == nil && len(parts) == 2 {
		res := &Result{Reads: reads, Cache: []CacheUse{{Part: entryPart, Hit: true}}}
		var names []string
		if json.Unmarshal(parts[0], res) == nil && json.Unmarshal(parts[1], &names) == nil {
			return librariesOf(ctx, c, store, look, res, names)
		}
	}
	res, err := fresh(ctx, c)
	if err != nil {
		return nil, err
	}
	res.Cache = []CacheUse{{Part: entryPart, Why: why}}
	if res.EntryReads != nil {
		head := *res
		head.Libraries, head.Reads, head.EntryReads, head.Cache = nil, nil, nil, nil
		var names []string
		for _, l := range res.Libraries {
			names = append(names, l.Name)
		}
		store.Store(key, res.EntryReads, cache.Lengths(must(head), must(names)))
	}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range res.Libraries {
		g.Go(func() error { res.Libraries[i].keep(c, store); return nil })
		res.Cache = append(res.Cache, CacheUse{Part: res.Libraries[i].Name, Why: "the entry was evaluated anew"})
	}
	g.Wait()
	store.Trim()
	return res, nil
}

// librariesOf completes the entry's own value.
func librariesOf(ctx context.Context, c Config, store *cache.Cache, look func(string) ReadRecord, res *Result, names []string) (*Result, error) {
	res.Libraries = make([]Library, len(names))
	uses := make([]CacheUse, len(names))
	found := make([][]ReadRecord, len(names))
	missing := map[string]int{}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for n := range names {
		g.Go(func() error {
			key, err := c.Key("library " + names[n])
			if err != nil {
				return err
			}
			raw, reads, why := store.Find(key, look)
			l, ok := readLibrary(names[n], raw)
			uses[n] = CacheUse{Part: names[n], Hit: ok, Why: why}
			mu.Lock()
			defer mu.Unlock()
			if ok {
				res.Libraries[n], found[n] = l, reads
			} else {
				missing[names[n]] = n
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	res.Cache = append(res.Cache, uses...)
	if c.Known != nil {
		c.Known(*res, names)
	}
	if len(missing) > 0 {
		var ask []string
		for _, n := range names {
			if _, is := missing[n]; is {
				ask = append(ask, n)
			}
		}
		a, err := some(ctx, c, ask)
		if _, died := errors.AsType[*dead](err); died || errors.As(err, &diag.List{}) {
			return fresh(ctx, c) // alone again: which one was it
		}
		if err != nil {
			return nil, err
		}
		for _, l := range a.Libraries {
			n := missing[l.Name]
			for _, r := range l.Reads {
				if was := look(r.Path); was.Digest != r.Digest || was.Absent != r.Absent {
					return fresh(ctx, c) // files change under our hands: libraries of two states do not mix
				}
			}
			l.keep(c, store)
			found[n], res.Libraries[n] = l.Reads, l
			res.Libraries[n].Reads = nil
		}
		store.Trim()
	}
	res.Reads = union(append(found, res.Reads)...)
	return res, nil
}

// union joins lists of reads, sorted by path.
func union(lists ...[]ReadRecord) []ReadRecord {
	all := map[string]ReadRecord{}
	for _, l := range lists {
		for _, r := range l {
			all[r.Path] = r
		}
	}
	return sortedReads(all)
}

func (l *Library) good() bool {
	return l.Err == nil && l.Reads != nil && !slices.ContainsFunc(l.Functionalities, func(f Functionality) bool { return f.Err != nil })
}

// keep stores a library that evaluated.
func (l *Library) keep(c Config, store *cache.Cache) {
	if !l.good() {
		return
	}
	key, err := c.Key("library " + l.Name)
	if err != nil {
		return
	}
	parts := [][]byte{}
	for _, f := range l.Functionalities {
		parts = append(parts, []byte(f.Name), f.Value, f.Base)
	}
	store.Store(key, l.Reads, cache.Lengths(parts...))
}

func readLibrary(name string, raw []byte) (Library, bool) {
	parts, err := cache.Parts(raw)
	if raw == nil || err != nil || len(parts)%3 != 0 {
		return Library{}, false
	}
	l := Library{Name: name}
	for p := range slices.Chunk(parts, 3) {
		l.Functionalities = append(l.Functionalities, Functionality{Name: string(p[0]), Value: value(p[1]), Base: value(p[2])})
	}
	return l, true
}

// verify evaluates without the cache, and holds what came out of it against that.
func verify(ctx context.Context, c Config, res *Result) error {
	now, err := fresh(ctx, c)
	if err != nil {
		return err
	}
	a, b := *res, *now
	for _, r := range []*Result{&a, &b} {
		r.Cache, r.EntryReads = nil, nil
		r.Libraries = slices.Clone(r.Libraries)
		for i := range r.Libraries {
			r.Libraries[i].Reads = nil
		}
	}
	if !bytes.Equal(must(a), must(b)) {
		d := diag.Errorf("", "%v", ErrCacheMismatch).WithHint("remove %s, and tell us: this cannot happen", c.Cache)
		d.Cause = ErrCacheMismatch
		return d
	}
	return nil
}

func must(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // it came out of JSON
	}
	return raw
}
