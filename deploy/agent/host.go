package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
	"github.com/gofrs/flock"
)

// Host is the machine as the agent sees it: a root folder and the backends
// that lay units out in it.
type Host struct {
	path     string
	backends backends.Set
	system   Supervisor // nil: a folder, in which nothing runs

	mu      sync.Mutex
	root    *os.Root
	lock    *flock.Flock
	journal *os.File
	m       *manifest
	f       fence
	owners  map[string]int  // path → how many entries own it
	busy    map[string]bool // scope and address → a request is under way
	stale   bool            // systemd has not read yet that files are gone
}

// OpenHost is the machine whose root is a folder. Nothing is read or made
// before it is needed.
func OpenHost(root string, b backends.Set) *Host { return &Host{path: root, backends: b} }

// OpenMachine is the machine that we are on: its units run.
func OpenMachine(b backends.Set) *Host { return OpenHost("/", b).Running(&multiSupervisor{}) }

// Running gives the machine a system that runs its units.
func (h *Host) Running(s Supervisor) *Host { h.system = s; return h }

// UseEngine says where the machine's docker engine listens, if not where engines usually do.
func (h *Host) UseEngine(socket string) {
	if b, ok := h.system.(*multiSupervisor); ok {
		b.engine.Socket = socket
	}
}

// making tells what runs units here for which generation they are made.
func (h *Host) making(scope string, generation int) {
	if b, ok := h.system.(*multiSupervisor); ok {
		b.engine.Creating(scope, generation)
	}
}

// ErrStaleToken means that somebody with a higher token has been here.
type ErrStaleToken struct {
	Address string
	Token   int64 // that the machine remembers
}

func (f *ErrStaleToken) Error() string {
	return fmt.Sprintf("%s: an apply with a newer lease (token %d) was on this machine: either it took over, or the state is not the one that the machine knows", f.Address, f.Token)
}

// Units reads what stands of a scope, without changing anything.
func (h *Host) Units(scope string) (map[string]*Entry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m != nil {
		return maps.Clone(h.m.Scopes[scope]), nil
	}
	root, err := os.OpenRoot(h.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	m, err := readManifest(root)
	if err != nil {
		return nil, err
	}
	return m.Scopes[scope], nil
}

// open takes the machine for writing: one process at a time.
func (h *Host) open() error {
	if h.m != nil {
		return nil
	}
	if h.system != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := h.system.Check(ctx); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(h.path, storePath), 0o755); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(h.path, journalPath), flock.SetPermissions(0o644))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if ok, err := lock.TryLockContext(ctx, 10*time.Millisecond); !ok {
		return fmt.Errorf("another apply is at work on this machine: %w", err)
	}
	root, err := os.OpenRoot(h.path)
	if err != nil {
		lock.Unlock()
		return err
	}
	fail := func(err error) error { root.Close(); lock.Unlock(); return err }
	m, err := readManifest(root)
	if err != nil {
		return fail(err)
	}
	f := fence{Scopes: map[string]*scopeFence{}}
	if err := readRootJSON(root, fencePath, &f); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	// A torn last line would swallow the next one.
	raw, err := readRoot(root, journalPath)
	if err != nil {
		return fail(err)
	}
	journal, err := root.OpenFile(journalPath, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fail(err)
	}
	whole := int64(bytes.LastIndexByte(raw, '\n') + 1)
	if err := journal.Truncate(whole); err != nil {
		return fail(err)
	}
	if _, err := journal.Seek(whole, 0); err != nil {
		return fail(err)
	}
	h.root, h.lock, h.journal, h.m, h.f, h.owners = root, lock, journal, m, f, map[string]int{}
	for _, units := range m.Scopes {
		for _, e := range units {
			for _, p := range e.Files {
				h.owners[p]++
			}
		}
	}
	return nil
}

// Close gives the machine free. What was not settled stays in the journal.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.system != nil {
		h.system.Close()
	}
	if h.m == nil {
		return nil
	}
	h.m = nil
	err := h.journal.Close()
	return errors.Join(err, h.root.Close(), h.lock.Unlock())
}

// Fence remembers a lease's token for its addresses (none = all) and refuses a
// token lower than one remembered.
func (h *Host) Fence(scope string, tok int64, addresses []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(); err != nil {
		return err
	}
	f := h.f.Scopes[scope]
	if f == nil {
		f = &scopeFence{}
		h.f.Scopes[scope] = f
	}
	if f.All > tok {
		return &ErrStaleToken{Address: scope, Token: f.All}
	}
	if len(addresses) == 0 {
		for _, a := range slices.Sorted(maps.Keys(f.Units)) {
			if f.Units[a] > tok {
				return &ErrStaleToken{Address: a, Token: f.Units[a]}
			}
		}
		f.All, f.Units = tok, nil
		return h.writeJSON(fencePath, h.f)
	}
	for _, a := range addresses {
		if f.Units[a] > tok {
			return &ErrStaleToken{Address: a, Token: f.Units[a]}
		}
	}
	if f.Units == nil {
		f.Units = map[string]int64{}
	}
	for _, a := range addresses {
		f.Units[a] = tok
	}
	return h.writeJSON(fencePath, h.f)
}

func (h *Host) checkFence(scope, address string, tok int64) error {
	f := h.f.Scopes[scope]
	if f == nil {
		return fmt.Errorf("%s: no lease was announced on this machine", address)
	}
	if have := max(f.All, f.Units[address]); have > tok {
		return &ErrStaleToken{Address: address, Token: have}
	}
	return nil
}

// ApplyUnit makes one unit what it should be; nil raw deletes it. It returns what
// stands afterwards (nil = nothing). On an error what stood before stands, and
// runs, again, or the entry says that nobody knows. When ctx is cancelled all
// is left as after a crash; after timeout (0 = 10 minutes) what stood before
// comes back.
func (h *Host) ApplyUnit(ctx context.Context, scope, address string, tok int64, raw json.RawMessage, values plan.Values, timeout time.Duration) (*Entry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(); err != nil {
		return nil, err
	}
	if err := h.checkFence(scope, address, tok); err != nil {
		return nil, err
	}
	if h.busy[scope+" "+address] {
		return nil, fmt.Errorf("%s: another request for it is under way", address)
	}
	if h.busy == nil {
		h.busy = map[string]bool{}
	}
	h.busy[scope+" "+address] = true
	defer delete(h.busy, scope+" "+address)

	d := &deed{h: h, timeout: timeout, scope: scope, address: address, old: h.m.Scopes[scope][address]}
	if d.old != nil {
		d.had, d.standing = d.old.Files, d.old
		if d.old.Digest == "" {
			d.standing = d.old.Previous
		}
	}
	if raw == nil {
		return d.remove(ctx)
	}
	var err error
	if d.next, d.layout, err = h.realize(raw, values, h.timers(ctx)); err != nil {
		return d.old, err
	}
	if err := h.checkForeign(d.layout, d.had); err != nil {
		return d.old, err
	}
	return d.make(ctx, raw)
}

// end notes what stands, after folders that became empty are gone.
func (h *Host) end(scope, address string, e *Entry) error {
	gone := h.removeDirs()
	return h.note(note{Scope: scope, Address: address, End: e, Gone: e == nil, Dirs: gone})
}

// note writes one line durably, and takes it into the manifest and the owners.
func (h *Host) note(n note) error {
	line, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if _, err := h.journal.Write(append(line, '\n')); err != nil {
		return err
	}
	if err := h.journal.Sync(); err != nil {
		return err
	}
	count := func(by int) {
		if e := h.m.Scopes[n.Scope][n.Address]; e != nil {
			for _, p := range e.Files {
				h.owners[p] += by
			}
		}
	}
	count(-1)
	h.m.apply(n)
	count(1)
	return nil
}

// timers is the socket of the engine whose jobs systemd may start; empty if it may not.
func (h *Host) timers(ctx context.Context) string {
	if b, ok := h.system.(*multiSupervisor); ok {
		return b.timers(ctx)
	}
	return ""
}

// realize tells what stands once a unit is made: timers is the engine of its
// job if systemd is to keep the time.
func (h *Host) realize(raw json.RawMessage, values plan.Values, timers string) (*Entry, backends.Layout, error) {
	var u plan.Unit
	if err := u.Decode(raw); err != nil {
		return nil, backends.Layout{}, fmt.Errorf("not a unit: %w", err)
	}
	b := h.backends[u.Backend]
	if b == nil {
		return nil, backends.Layout{}, fmt.Errorf("this machine's agent has no backend %q", u.Backend)
	}
	if b.Encoding() != u.Encoding {
		return nil, backends.Layout{}, fmt.Errorf("the unit is in encoding %d of backend %s, this agent writes %d", u.Encoding, u.Backend, b.Encoding())
	}
	d, err := u.Digest()
	if err != nil {
		return nil, backends.Layout{}, err
	}
	instance, err := u.Instance(values)
	if err != nil {
		return nil, backends.Layout{}, err
	}
	layout, err := b.Realize(u.Payload, instance, func(t token.Token) (string, bool) {
		v, ok := values[plan.Key(t)]
		return v, ok
	})
	if err != nil {
		return nil, layout, err
	}
	if timed, ok := docker.WithTimer(layout, timers); ok {
		layout = timed
	} else {
		timers = ""
	}
	e := &Entry{Timer: timers, Backend: u.Backend, Digest: d, Object: digest.Bytes(raw), Instance: instance, Values: values, Files: []string{},
		Name: layout.Name, Unit: layout.Unit, Start: layout.Start, Leftovers: layout.Leftovers, Retire: layout.Retire, Graceful: layout.Graceful}
	for _, f := range layout.Files {
		e.Files = append(e.Files, f.Path)
	}
	slices.Sort(e.Files)
	for _, o := range layout.Objects {
		e.Objects = append(e.Objects, o.Name)
	}
	for _, a := range u.Artifacts {
		if _, err := h.root.Stat(path.Join(storePath, a.Digest.Hex())); err != nil {
			return nil, layout, fmt.Errorf("artifact %s (%s) is not on the machine", a.Path, a.Digest.Short())
		}
		e.Objects = append(e.Objects, a.Digest.Hex())
	}
	slices.Sort(e.Objects)
	e.Objects = slices.Compact(e.Objects)
	return e, layout, nil
}

// checkForeign refuses to write over a file that another unit owns alone or that nobody of ours wrote.
func (h *Host) checkForeign(l backends.Layout, had []string) error {
	for _, f := range l.Files {
		if _, mine := slices.BinarySearch(had, f.Path); mine {
			continue
		}
		if h.owners[f.Path] > 0 {
			if f.Shared {
				continue
			}
			return fmt.Errorf("%s belongs to another unit", f.Path)
		}
		info, err := h.root.Lstat(rel(f.Path))
		if err != nil {
			continue
		}
		if same, _ := h.same(f, info); !same {
			return fmt.Errorf("%s exists and is not defx's: move it away, or name the service otherwise", f.Path)
		}
	}
	return nil
}

// layout is what an entry's unit is on the machine.
func (h *Host) layout(raw []byte, e *Entry) (backends.Layout, error) {
	var u plan.Unit
	if err := u.Decode(raw); err != nil {
		return backends.Layout{}, fmt.Errorf("not a unit: %w", err)
	}
	b := h.backends[u.Backend]
	if b == nil {
		return backends.Layout{}, fmt.Errorf("this machine's agent has no backend %q", u.Backend)
	}
	l, err := b.Realize(u.Payload, e.Instance, func(t token.Token) (string, bool) {
		v, ok := e.Values[plan.Key(t)]
		return v, ok
	})
	if err == nil && e.Timer != "" {
		l, _ = docker.WithTimer(l, e.Timer)
	}
	return l, err
}

func rel(p string) string { return strings.TrimPrefix(path.Clean(p), "/") }

// FlushManifest makes the manifest whole: what the journal says moves into
// manifest.json, and the journal is emptied.
func (h *Host) FlushManifest(ctx context.Context, scope string, generation int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(); err != nil {
		return err
	}
	if h.stale && h.system != nil {
		if err := h.system.Reload(ctx); err != nil {
			return err
		}
		h.stale = false
	}
	if f := h.f.Scopes[scope]; f != nil && f.Generation != generation {
		f.Generation = generation
		if err := h.writeJSON(fencePath, h.f); err != nil {
			return err
		}
	}
	if err := h.writeJSON(manifestPath, h.m); err != nil {
		return err
	}
	if err := h.journal.Truncate(0); err != nil {
		return err
	}
	_, err := h.journal.Seek(0, 0)
	return errors.Join(err, h.journal.Sync())
}

func (h *Host) writeJSON(p string, v any) error {
	raw, err := digest.Canonical(v)
	if err != nil {
		return err
	}
	return h.replace(p, append(raw, '\n'), 0o644)
}
