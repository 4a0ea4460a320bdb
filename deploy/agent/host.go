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

// Host is the machine as the agent sees it: a root folder, and the backends that lay out
// units in it.
type Host struct {
	path       string
	backends   backends.Set
	supervisor Supervisor // nil: a dir: folder, in which nothing runs

	mu            sync.Mutex
	root          *os.Root
	lock          *flock.Flock
	journal       *os.File
	m             *manifest
	f             fence
	owners        map[string]int  // path → number of entries that own it
	busy          map[string]bool // scope and address → a request is in progress
	reloadPending bool            // unit files were deleted since systemd last reloaded
}

// OpenHost returns the machine whose root is a folder. It reads and creates nothing until
// needed.
func OpenHost(root string, b backends.Set) *Host { return &Host{path: root, backends: b} }

// OpenMachine returns the machine that this process runs on, with its supervisors.
func OpenMachine(b backends.Set) *Host { return OpenHost("/", b).WithSupervisor(&multiSupervisor{}) }

// WithSupervisor sets what runs the machine's units.
func (h *Host) WithSupervisor(s Supervisor) *Host { h.supervisor = s; return h }

// UseEngine sets the socket of the machine's docker engine; without it, the default is used.
func (h *Host) UseEngine(socket string) {
	if b, ok := h.supervisor.(*multiSupervisor); ok {
		b.engine.Socket = socket
	}
}

// setGeneration records the generation that labels of new containers name.
func (h *Host) setGeneration(scope string, generation int) {
	if b, ok := h.supervisor.(*multiSupervisor); ok {
		b.engine.Creating(scope, generation)
	}
}

// ErrStaleToken is the error of a request whose fencing token is lower than one that the
// machine has already seen.
type ErrStaleToken struct {
	Address string
	Token   int64 // the highest one seen
}

func (f *ErrStaleToken) Error() string {
	return fmt.Sprintf("%s: an apply with a newer lease (token %d) was on this machine: either it took over, or the state is not the one that the machine knows", f.Address, f.Token)
}

// Units returns the deployed units of a scope, without changing anything.
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

// open prepares the machine for writing and locks it: one process at a time.
func (h *Host) open(ctx context.Context) error {
	if h.m != nil {
		return nil
	}
	if h.supervisor != nil {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if err := h.supervisor.Check(ctx); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(h.path, storePath), 0o755); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(h.path, journalPath), flock.SetPermissions(0o644))
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if ok, err := lock.TryLockContext(ctx, 10*time.Millisecond); !ok {
		return fmt.Errorf("another apply is using this machine: %w", err)
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
	// Cut off a torn last line: the next record would be appended to it.
	raw, err := readRoot(root, journalPath)
	if err != nil {
		return fail(err)
	}
	journal, err := root.OpenFile(journalPath, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fail(err)
	}
	end := int64(bytes.LastIndexByte(raw, '\n') + 1)
	if err := journal.Truncate(end); err != nil {
		return fail(err)
	}
	if _, err := journal.Seek(end, 0); err != nil {
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

// Close releases the machine. What was not flushed stays in the journal.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.supervisor != nil {
		h.supervisor.Close()
	}
	if h.m == nil {
		return nil
	}
	h.m = nil
	err := h.journal.Close()
	return errors.Join(err, h.root.Close(), h.lock.Unlock())
}

// Fence records a lease's token for its addresses (none: all) and refuses one lower than a
// token already seen.
func (h *Host) Fence(ctx context.Context, scope string, tok int64, addresses []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(ctx); err != nil {
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
		return fmt.Errorf("%s: the machine knows of no lease for it", address)
	}
	if have := max(f.All, f.Units[address]); have > tok {
		return &ErrStaleToken{Address: address, Token: have}
	}
	return nil
}

// ApplyUnit creates or updates one unit; a nil raw deletes it. It returns the entry that is
// deployed afterwards, nil if none. On an error the previous version is restored and runs
// again, or the entry has no digest, which means that its state is unknown. If ctx is
// cancelled everything is left as after a crash; after timeout (0 = 10 minutes) the previous
// version is restored.
func (h *Host) ApplyUnit(ctx context.Context, scope, address string, tok int64, raw json.RawMessage, values plan.Values, timeout time.Duration) (*Entry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(ctx); err != nil {
		return nil, err
	}
	if err := h.checkFence(scope, address, tok); err != nil {
		return nil, err
	}
	if h.busy[scope+" "+address] {
		return nil, fmt.Errorf("%s: another request for it is in progress", address)
	}
	if h.busy == nil {
		h.busy = map[string]bool{}
	}
	h.busy[scope+" "+address] = true
	defer delete(h.busy, scope+" "+address)

	d := &transaction{h: h, timeout: timeout, scope: scope, address: address, old: h.m.Scopes[scope][address]}
	if d.old != nil {
		d.oldFiles, d.previous = d.old.Files, d.old
		if d.old.Digest == "" {
			d.previous = d.old.Previous
		}
	}
	if raw == nil {
		return d.remove(ctx)
	}
	var err error
	if d.next, d.layout, err = h.realize(raw, values, h.timerEngine(ctx)); err != nil {
		return d.old, err
	}
	if err := h.checkForeign(d.layout, d.oldFiles); err != nil {
		return d.old, err
	}
	return d.apply(ctx, raw)
}

// commit journals the result of an action, after removing folders that became empty.
func (h *Host) commit(scope, address string, e *Entry) error {
	gone := h.removeDirs()
	return h.append(journalRecord{Scope: scope, Address: address, End: e, Gone: e == nil, Dirs: gone})
}

// append writes one journal record durably, then merges it into the manifest and the owners.
func (h *Host) append(n journalRecord) error {
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

// timerEngine returns the engine socket for jobs that systemd can start; empty if it cannot.
func (h *Host) timerEngine(ctx context.Context) string {
	if b, ok := h.supervisor.(*multiSupervisor); ok {
		return b.timerEngine(ctx)
	}
	return ""
}

// realize computes the entry and the layout of a unit. timers is the engine of its job if
// systemd starts it.
func (h *Host) realize(raw json.RawMessage, values plan.Values, timers string) (*Entry, backends.Layout, error) {
	var u plan.Unit
	if err := u.Decode(raw); err != nil {
		return nil, backends.Layout{}, fmt.Errorf("invalid unit: %w", err)
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
			return nil, layout, fmt.Errorf("artifact %s (%s) is missing on the machine", a.Path, a.Digest.Short())
		}
		e.Objects = append(e.Objects, a.Digest.Hex())
	}
	slices.Sort(e.Objects)
	e.Objects = slices.Compact(e.Objects)
	return e, layout, nil
}

// checkForeign refuses to overwrite a file that another unit owns alone or that defx did not
// write.
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
		if same, _ := h.matches(f, info); !same {
			return fmt.Errorf("%s exists and is not managed by defx: move it away, or choose another path", f.Path)
		}
	}
	return nil
}

// layout returns the layout of an entry's unit.
func (h *Host) layout(raw []byte, e *Entry) (backends.Layout, error) {
	var u plan.Unit
	if err := u.Decode(raw); err != nil {
		return backends.Layout{}, fmt.Errorf("invalid unit: %w", err)
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

// FlushManifest merges the journal into manifest.json and empties it.
func (h *Host) FlushManifest(ctx context.Context, scope string, generation int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(ctx); err != nil {
		return err
	}
	if h.reloadPending && h.supervisor != nil {
		if err := h.supervisor.Reload(ctx); err != nil {
			return err
		}
		h.reloadPending = false
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
