package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	"github.com/defx-dev/defx/internal/failpoint"
	"github.com/defx-dev/defx/internal/nofollow"
	"github.com/defx-dev/defx/internal/sets"
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
	root          *nofollow.Root
	lock          *flock.Flock
	journal       *os.File
	m             *manifest
	owners        map[string]int      // path → number of entries that own it
	mounts        map[string]int      // path → number of entries that mount a file on it
	busy          map[string]bool     // scope and address → a request is in progress
	reloadPending bool                // unit files were deleted since systemd last reloaded
	started       map[string]*started // scope and address → version to check at the end of the apply
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

// Units returns the deployed units of a scope, without changing anything.
func (h *Host) Units(scope string) (map[string]*Entry, error) {
	s, err := h.Scope(scope)
	if err != nil {
		return nil, err
	}
	return s.Units, nil
}

// Scope returns what the machine knows of a scope, without changing anything.
func (h *Host) Scope(scope string) (*Scope, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.m
	if m == nil {
		root, err := nofollow.OpenRoot(h.path)
		if errors.Is(err, fs.ErrNotExist) {
			return &Scope{}, nil
		}
		if err != nil {
			return nil, err
		}
		defer root.Close()
		if m, err = readManifest(root); err != nil {
			return nil, err
		}
	}
	return m.known(scope), nil
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
	if err := prepareDirs(h.path); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(h.path, journalPath), flock.SetPermissions(ownFile))
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if ok, err := lock.TryLockContext(ctx, 10*time.Millisecond); !ok {
		return fmt.Errorf("another apply is using this machine: %w", err)
	}
	root, err := nofollow.OpenRoot(h.path)
	if err != nil {
		lock.Unlock()
		return err
	}
	fail := func(err error) error { root.Close(); lock.Unlock(); return err }
	m, err := readManifest(root)
	if err != nil {
		return fail(err)
	}
	// Cut off a torn last line: the next record would be appended to it.
	raw, err := root.ReadFile(journalPath)
	if err != nil {
		return fail(err)
	}
	journal, err := root.OpenFile(journalPath, os.O_WRONLY|os.O_CREATE, ownFile)
	if err != nil {
		return fail(err)
	}
	if err := journal.Chmod(ownFile); err != nil { // an older version made it readable
		return fail(err)
	}
	end := int64(bytes.LastIndexByte(raw, '\n') + 1)
	if err := journal.Truncate(end); err != nil {
		return fail(err)
	}
	if _, err := journal.Seek(end, 0); err != nil {
		return fail(err)
	}
	h.root, h.lock, h.journal, h.m, h.owners, h.mounts = root, lock, journal, m, map[string]int{}, map[string]int{}
	for _, units := range m.Scopes {
		for _, e := range units {
			for _, p := range e.Files {
				h.owners[p]++
			}
			for _, p := range e.Mounts {
				h.mounts[p]++
			}
		}
	}
	if _, err := root.Lstat(manifestPath); errors.Is(err, fs.ErrNotExist) { // the first file of all: without it, others count as damage
		if err := h.writeJSON(manifestPath, m.stored()); err != nil {
			h.m = nil
			journal.Close()
			return fail(err)
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

// ApplyUnit creates or updates one unit; a nil raw deletes it. It returns the entry that is
// deployed afterwards, nil if none. On an error the previous version is restored and runs
// again, or the entry has no digest, which means that its state is unknown. If ctx is
// cancelled everything is left as after a crash; after timeout (0 = 10 minutes) the previous
// version is restored.
func (h *Host) ApplyUnit(ctx context.Context, scope, address string, c Caller, raw json.RawMessage, values plan.Values, timeout time.Duration) (*Entry, error) {
	return h.applyUnit(ctx, scope, address, c, raw, values, "", false, timeout)
}

// applyUnit is ApplyUnit; a stopped unit is not started. If the unit was renamed, former is the
// address that it has on this machine: its directories move with it, and if that fails it is there
// again.
func (h *Host) applyUnit(ctx context.Context, scope, address string, c Caller, raw json.RawMessage, values plan.Values, former string, stopped bool, timeout time.Duration) (*Entry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(ctx); err != nil {
		return nil, err
	}
	if err := h.checkFence(scope, address, c); err != nil {
		return nil, err
	}
	if h.busy == nil {
		h.busy = map[string]bool{}
	}
	for _, a := range sets.Union([]string{address, cmp.Or(former, address)}) {
		if h.busy[scope+" "+a] {
			return nil, fmt.Errorf("%s: another request for it is in progress", a)
		}
		h.busy[scope+" "+a] = true
		defer delete(h.busy, scope+" "+a)
	}

	units := h.m.Scopes[scope]
	d := &transaction{h: h, timeout: timeout, caller: c, scope: scope, address: address}
	interrupted, err := d.revertRenames(ctx, former)
	if err != nil {
		return units[address], err
	}
	units = h.m.Scopes[scope]
	switch former = cmp.Or(former, interrupted); {
	case raw == nil && interrupted != "": // the unit is under its former address again
		d.address, former = interrupted, ""
	case former == "" || former == address || units[former] == nil:
		former = ""
	case units[address] != nil:
		return units[address], fmt.Errorf("%s cannot become %s, which is deployed already", former, address)
	}
	d.former, d.old = former, units[cmp.Or(former, d.address)]
	if d.old != nil {
		d.oldFiles, d.previous = d.old.Files, d.old
		if d.old.Digest == "" {
			d.previous = d.old.Previous
		}
	}
	stopOld, readyOld := h.patience(d.previous)
	d.extra = stopOld
	if raw == nil {
		if d.old != nil && d.old.Stopped {
			if err := h.removeStopFiles(d.old); err != nil {
				return d.old, err
			}
		}
		return d.remove(ctx)
	}
	if d.next, d.layout, err = h.realize(raw, values, h.timerEngine(ctx)); err != nil {
		return d.old, err
	}
	d.next.Apply, d.next.Token = c.Apply, c.Token
	stop, ready := patienceOf(d.layout)
	d.extra, d.extraBack = stopOld+ready, stop+readyOld
	if err := h.checkForeign(d.layout, d.oldFiles); err != nil {
		return d.old, err
	}
	if err := h.checkClaims(scope, d.next, d.old); err != nil {
		return d.old, err
	}
	if err := d.planMoves(); err != nil {
		return d.old, err
	}
	if d.next.Stopped = stopped; stopped {
		return d.applyStopped(ctx, raw)
	}
	if d.old != nil && d.old.Stopped {
		if err := h.removeStopFiles(d.old); err != nil {
			return d.old, err
		}
	}
	e, err := d.apply(ctx, raw)
	if err != nil && d.undo != nil && e != nil && e == d.previous {
		err = &RolledBack{err}
	}
	return e, err
}

// patience returns how long the unit of an entry may take to stop and to become ready, in addition
// to what every unit may.
func (h *Host) patience(e *Entry) (stop, ready time.Duration) {
	if e == nil || e.Digest == "" || h.supervisor == nil {
		return 0, 0
	}
	l, err := h.storedLayout(h.root, e)
	if err != nil {
		return 0, 0
	}
	return patienceOf(l)
}

func patienceOf(l backends.Layout) (stop, ready time.Duration) {
	const usual = 30 * time.Second // the default of ready.timeout, within the time of every action
	if l.Ready != nil {
		ready = max(0, l.Ready.Timeout-usual)
	}
	if l.Healthy != "" { // it may wait as long again
		ready *= 2
	}
	return l.StopTimeout, ready + l.Soak
}

// noteStarted records a version that was started or reloaded, for Settle.
func (h *Host) noteStarted(r *rollout) {
	if !r.began || !slices.Contains(r.layout.Start, r.layout.Unit) {
		return
	}
	if h.started == nil {
		h.started = map[string]*started{}
	}
	over := r.first.Sub == "exited" // it has done its work
	h.started[r.scope+" "+r.address] = &started{rollout: r, at: time.Now(), checked: r.layout.Ready != nil || over}
}

// commit journals the result of an action, after removing mount points that no unit needs and
// folders that became empty.
func (h *Host) commit(scope, address string, e *Entry) error {
	return h.commitAt(scope, address, "", e)
}

// commitAt is commit for a rename that was taken back: the entry is that of the former address again.
func (h *Host) commitAt(scope, address, former string, e *Entry) error {
	mounts, err := h.removeMounts(h.m.Scopes[scope][address], e)
	if err != nil {
		return err
	}
	gone := h.removeDirs(mounts)
	return h.append(journalRecord{Scope: scope, Address: address, Former: former, End: e, Gone: e == nil, Dirs: gone, Mounts: mounts})
}

// append writes one journal record durably, then merges it into the manifest and the owners.
func (h *Host) append(n journalRecord) error {
	line, err := json.Marshal(n)
	if err != nil {
		return err
	}
	failpoint.Hit("machine journal")
	end, err := h.journal.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err = h.journal.Write(append(line, '\n')); err == nil {
		err = h.journal.Sync()
	}
	if err != nil { // the next record must not follow half of this one
		if terr := h.journal.Truncate(end); terr != nil {
			return errors.Join(err, terr)
		}
		_, serr := h.journal.Seek(end, io.SeekStart)
		return errors.Join(err, serr)
	}
	failpoint.Hit("machine journal written")
	count := func(by int) {
		for _, address := range sets.Union([]string{n.Address, cmp.Or(n.Former, n.Address)}) {
			if e := h.m.Scopes[n.Scope][address]; e != nil {
				for _, p := range e.Files {
					h.owners[p] += by
				}
				for _, p := range e.Mounts {
					h.mounts[p] += by
				}
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
		Name: layout.Name, Unit: layout.Unit, Start: layout.Start, Leftovers: layout.Leftovers, Retire: layout.Retire, Graceful: layout.Graceful, Data: layout.Data, Claims: layout.Claims, Folders: layout.Dirs}
	for _, f := range layout.Files {
		e.Files = append(e.Files, f.Path)
	}
	slices.Sort(e.Files)
	if len(layout.MountPoints) > 0 {
		e.Mounts = sets.Union(layout.MountPoints)
	}
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
		if same, _ := h.matches(f, info); !same && !h.isMountPoint(f.Path, info) {
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
	if f := h.m.fence.Scopes[scope]; f != nil {
		f.Generation = generation
	}
	if err := h.writeFence(); err != nil { // before the journal, which has the same applies, is emptied
		return err
	}
	if err := h.writeJSON(manifestPath, h.m.stored()); err != nil {
		return err
	}
	if err := h.journal.Truncate(0); err != nil {
		return err
	}
	_, err := h.journal.Seek(0, 0)
	h.started = nil
	return errors.Join(err, h.journal.Sync())
}

func (h *Host) writeJSON(p string, v any) error {
	raw, err := digest.Canonical(v)
	if err != nil {
		return err
	}
	return h.replace(p, append(raw, '\n'), ownFile)
}
