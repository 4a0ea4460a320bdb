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

// The entry and each library are cached separately. Each is evaluated with
// nothing in memory but parsed files, so what the importer records meanwhile is
// exactly what it depends on. Errors are not cached.

// CacheUse reports whether a part of the deployment came from the cache.
type CacheUse struct {
	Part string `json:"part"` // "entry", or the name of a library
	Hit  bool   `json:"hit"`
	Why  string `json:"why,omitempty"` // the reason, if it did not
}

// entryPart is the name of the entry in CacheUse and Config.Key.
const entryPart = "entry"

// ErrCacheMismatch reports that the cache holds another value than evaluation
// produces, which would be a bug.
var ErrCacheMismatch = errors.New("the cache holds another value than evaluation produces")

// Key returns the cache key of a part: a digest over the program that evaluates
// and all of its inputs other than files.
func (c Config) Key(part string) (digest.Digest, error) {
	program, err := programID(c.command())
	if err != nil {
		return "", err
	}
	folders := []string{}
	for _, j := range c.JPath {
		folders = append(folders, relative(c.Root, j))
	}
	return digest.Of("evaluation/1", map[string]any{"program": program, "entry": c.Entry, "env": c.Env, "str": mergeMaps(c.TLAStr, nil), "code": mergeMaps(c.TLACode, nil),
		"jpath": folders, "part": part})
}

// command returns the path of the program that evaluates.
func (c Config) command() string {
	if len(c.Command) > 0 {
		return c.Command[0]
	}
	self, _ := os.Executable()
	return self
}

// programIDs caches the results of programID by path.
var programIDs sync.Map

// programID identifies one build of a program: by the build ID that the Go linker
// wrote into it, which covers its content, or else by a digest of the file.
func programID(program string) (string, error) {
	if id, ok := programIDs.Load(program); ok {
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
	programIDs.Store(program, id)
	return id, nil
}

// CacheKeyReader returns a function that reports the current state of a file as
// the importer finds it. It reads each file once.
func (c Config) CacheKeyReader() (func(path string) ReadRecord, error) {
	i, err := newImporter(c.Root, c.JPath)
	if err != nil {
		return nil, err
	}
	return i.stat, nil
}

// stat returns the record of a place as an import would make it. A place that
// cannot be read is neither present nor absent.
func (i *importer) stat(place string) ReadRecord {
	i.mu.Lock()
	defer i.mu.Unlock()
	if r, ok := i.reads[place]; ok {
		return r
	}
	i.load(place)
	if r, ok := i.reads[place]; ok {
		return r
	}
	return ReadRecord{Path: place}
}

// evaluateCached evaluates the parts that the cache lacks, and stores them.
func evaluateCached(ctx context.Context, c Config) (*Result, error) {
	stat, err := c.CacheKeyReader()
	if err != nil {
		return nil, err
	}
	store := cache.Open(c.Cache, c.CacheMax)
	key, err := c.Key(entryPart)
	if err != nil {
		return nil, err
	}
	raw, reads, why := store.Find(key, stat)
	parts, bad := cache.DecodeParts(raw)
	if bad == nil && len(parts) == 2 {
		res := &Result{Reads: reads, Cache: []CacheUse{{Part: entryPart, Hit: true}}}
		var names []string
		if json.Unmarshal(parts[0], res) == nil && json.Unmarshal(parts[1], &names) == nil {
			return completeFromCache(ctx, c, store, stat, res, names)
		}
	}
	res, err := evaluateUncached(ctx, c)
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
		store.Store(key, res.EntryReads, cache.EncodeParts(mustMarshal(head), mustMarshal(names)))
	}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range res.Libraries {
		g.Go(func() error { res.Libraries[i].store(c, store); return nil })
		res.Cache = append(res.Cache, CacheUse{Part: res.Libraries[i].Name, Why: "the entry was evaluated again"})
	}
	g.Wait()
	store.Trim()
	return res, nil
}

// completeFromCache adds the libraries to an entry's value that came from the
// cache: cached ones from the cache, the others by evaluating them.
func completeFromCache(ctx context.Context, c Config, store *cache.Cache, stat func(string) ReadRecord, res *Result, names []string) (*Result, error) {
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
			raw, reads, why := store.Find(key, stat)
			l, ok := decodeLibrary(names[n], raw)
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
		var missingNames []string
		for _, n := range names {
			if _, is := missing[n]; is {
				missingNames = append(missingNames, n)
			}
		}
		ctx = WithBudget(ctx, c.Limits)
		i := newIsolation(ctx, c)
		err := i.evaluate(ctx, missingNames)
		if errors.As(err, &diag.List{}) {
			return evaluateUncached(ctx, c) // the entry changed meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, name := range missingNames {
			l, n := i.done[name], missing[name]
			for _, r := range l.Reads {
				if was := stat(r.Path); was.Digest != r.Digest || was.Absent != r.Absent {
					return evaluateUncached(ctx, c) // a file changed meanwhile: libraries from two states of the files must not be mixed
				}
			}
			l.store(c, store)
			found[n], res.Libraries[n] = l.Reads, l
			res.Libraries[n].Reads = nil
		}
		if i.exceeded {
			attachPositions(ctx, c, res.Libraries)
		}
		store.Trim()
	}
	res.Reads = unionReads(append(found, res.Reads)...)
	return res, nil
}

// unionReads returns the records of all lists, each path once, sorted by path.
func unionReads(lists ...[]ReadRecord) []ReadRecord {
	all := map[string]ReadRecord{}
	for _, l := range lists {
		for _, r := range l {
			all[r.Path] = r
		}
	}
	return sortedReads(all)
}

// cacheable reports whether the library evaluated without errors and its reads
// are known.
func (l *Library) cacheable() bool {
	return l.Err == nil && l.Reads != nil && !slices.ContainsFunc(l.Functionalities, func(f Functionality) bool { return f.Err != nil })
}

// store stores a library in the cache if it is cacheable.
func (l *Library) store(c Config, to *cache.Cache) {
	if !l.cacheable() {
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
	to.Store(key, l.Reads, cache.EncodeParts(parts...))
}

// decodeLibrary decodes what Library.store encoded.
func decodeLibrary(name string, raw []byte) (Library, bool) {
	parts, err := cache.DecodeParts(raw)
	if raw == nil || err != nil || len(parts)%3 != 0 {
		return Library{}, false
	}
	l := Library{Name: name}
	for p := range slices.Chunk(parts, 3) {
		l.Functionalities = append(l.Functionalities, Functionality{Name: string(p[0]), Value: nilIfEmpty(p[1]), Base: nilIfEmpty(p[2])})
	}
	return l, true
}

// verifyCache evaluates without the cache and compares the result with res.
func verifyCache(ctx context.Context, c Config, res *Result) error {
	now, err := evaluateUncached(ctx, c)
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
	if !bytes.Equal(mustMarshal(a), mustMarshal(b)) {
		d := diag.Errorf("", "%v", ErrCacheMismatch).WithHint("remove %s and report this as a bug", c.Cache)
		d.Cause = ErrCacheMismatch
		return d
	}
	return nil
}

// mustMarshal encodes a value that came from JSON.
func mustMarshal(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // a value that came from JSON always encodes
	}
	return raw
}
