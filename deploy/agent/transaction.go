package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/internal/digest"
)

// deed is one action on one unit. The machine is locked while files change,
// and free while units start and stop.
type deed struct {
	h              *Host
	scope, address string
	timeout        time.Duration
	old            *Entry // as the manifest has it; nil = nothing
	standing       *Entry // what comes back if this fails; nil = nothing that is known
	had            []string
	next           *Entry
	layout         backends.Layout
	undo           *undo
}

func (d *deed) now() *Entry { return d.h.m.Scopes[d.scope][d.address] }

// make brings the new version to life.
func (d *deed) make(ctx context.Context, raw json.RawMessage) (*Entry, error) {
	h := d.h
	if h.system != nil {
		if err := h.system.Check(ctx, append(slices.Clone(d.layout.Start), d.layout.Unit)...); err != nil {
			return d.old, err
		}
	} else if contained(d.layout.Unit) {
		return d.old, errors.New("a folder runs no containers: its machine must be connect: 'local' or 'ssh://…'")
	}
	b := &begun{Files: d.next.Files, Dirs: h.missingDirs(d.layout), Leaves: d.next.Leftovers}
	if err := h.note(note{Scope: d.scope, Address: d.address, Begin: b}); err != nil {
		return d.old, err
	}
	if h.system != nil {
		d.recall()
	}
	d.undo = &undo{h: h}
	err := h.install(raw, d.next, d.layout, d.undo)
	var r *running
	if err == nil && h.system != nil {
		h.stale = h.stale || len(systemdUnits(d.undo.changed())) > 0
		r = &running{h: h, next: d.next, standing: d.standing, layout: d.layout, stop: d.replaced(), changed: d.undo.changed(), before: d.undo, begun: time.Now()}
		err = d.unlocked(ctx, r.start)
		if ctx.Err() != nil {
			return d.now(), fmt.Errorf("%s: broken off: %w", d.address, ctx.Err())
		}
	}
	if err == nil && h.system != nil { // from here on the new version stays: what goes wrong now is for the next time
		units := d.replaced()
		if err := d.forget(ctx, units); err != nil {
			return d.now(), err
		}
		if err := d.clear(ctx, units); err != nil {
			return d.now(), err
		}
		return d.next, h.end(d.scope, d.address, d.next)
	}
	if err == nil {
		err = h.removeFiles(d.had, d.next, d.undo)
	}
	if err != nil {
		return d.back(ctx, r, err)
	}
	return d.next, h.end(d.scope, d.address, d.next)
}

// clear removes what is not owned any more. What was shared up to now, and
// goes with its last owner, is stopped too.
func (d *deed) clear(ctx context.Context, stopped []string) error {
	for {
		before := len(d.undo.steps)
		if err := d.h.removeFiles(d.had, d.next, d.undo); err != nil || d.h.system == nil {
			return err
		}
		removed := unitsOf(d.undo.changed()[before:])
		d.h.stale = d.h.stale || len(systemdUnits(d.undo.changed()[before:])) > 0
		last := slices.DeleteFunc(removed, func(u string) bool { return slices.Contains(stopped, u) || d.spared(u) })
		if len(last) == 0 {
			return nil
		}
		// While these stop, others may go, and leave what they shared with this one.
		if err := d.unlocked(ctx, func(ctx context.Context) error { return stopAll(ctx, d.h.system, last) }); err != nil {
			return err
		}
	}
}

// forget drops what is left of units that were stopped for good. It comes before
// files go: from then on to the end the machine stays locked, or two that own
// one file together would both leave it to the other.
func (d *deed) forget(ctx context.Context, units []string) error {
	return d.unlocked(ctx, func(ctx context.Context) error {
		for _, u := range units {
			if err := d.h.system.Forget(ctx, u); err != nil {
				return fmt.Errorf("%s does not go: %w", u, err)
			}
		}
		return nil
	})
}

// unlocked does what takes long while others may use the machine.
func (d *deed) unlocked(ctx context.Context, f func(context.Context) error) error {
	limit := d.timeout
	if limit == 0 {
		limit = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	d.h.mu.Unlock()
	defer d.h.mu.Lock()
	err := f(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("it took more than %s: %w", limit, err)
	}
	return err
}

// recall puts back the files of what stood before an interrupted action, so
// that a failure leads there and not into the middle. What runs is not touched.
func (d *deed) recall() {
	if d.old == nil || d.old.Digest != "" || d.standing == nil {
		return
	}
	raw, err := readRoot(d.h.root, path.Join(storePath, d.standing.Object.Hex()))
	if err == nil && digest.Bytes(raw) == d.standing.Object {
		if e, l, rerr := d.h.realize(raw, d.standing.Values, d.standing.Timer); rerr == nil {
			err = d.h.install(raw, e, l, &undo{h: d.h})
		} else {
			err = rerr
		}
	}
	if err != nil {
		d.standing = nil
	}
}

// replaced lists the units whose files the new version does not have any more.
func (d *deed) replaced() []string {
	var next []string
	if d.next != nil {
		next = d.next.Files
	}
	var out []string
	for _, f := range d.had {
		if _, kept := slices.BinarySearch(next, f); kept || d.h.owners[f] > 1 {
			continue
		}
		out = append(out, unitsOf([]string{f})...)
	}
	return slices.DeleteFunc(out, d.spared)
}

// spared tells which unit of the old version is not stopped: a job that runs
// right now comes to its end.
func (d *deed) spared(unit string) bool {
	return d.next != nil && d.standing != nil && unit == d.standing.Unit && !slices.Contains(d.standing.Start, unit)
}

// back brings back what stood before; because is why.
func (d *deed) back(ctx context.Context, r *running, because error) (*Entry, error) {
	h := d.h
	lost := func(err error) (*Entry, error) {
		return d.now(), fmt.Errorf("%w; putting back what stood before failed too: %w", because, err)
	}
	limited, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	known := d.standing != nil || d.old == nil
	if r != nil {
		var stop []string
		for _, f := range d.next.Files {
			if (d.standing == nil || !slices.Contains(d.standing.Files, f)) && h.owners[f] <= 1 {
				stop = append(stop, unitsOf([]string{f})...)
			}
		}
		if err := d.unlocked(limited, func(ctx context.Context) error { return stopAll(ctx, h.system, stop) }); err != nil {
			return lost(err)
		}
		if err := d.forget(limited, stop); err != nil {
			return lost(err)
		}
	}
	if err := d.undo.run(); err != nil {
		return lost(err)
	}
	if !known {
		return d.old, errors.Join(because, h.end(d.scope, d.address, d.old))
	}
	if h.system != nil {
		if err := h.removeFiles(merged(d.had, orNothing(d.next).Files), orNothing(d.standing), &undo{h: h}); err != nil {
			return lost(err)
		}
	}
	if r == nil {
		return d.standing, errors.Join(because, h.end(d.scope, d.address, d.standing))
	}
	again := ""
	err := d.unlocked(limited, func(ctx context.Context) error {
		if len(systemdUnits(merged(d.next.Files, d.had))) > 0 {
			if err := h.system.Reload(ctx); err != nil {
				return err
			}
		}
		if d.standing == nil {
			return nil
		}
		if _, left := errors.AsType[*Unhealthy](because); !left {
			again = "\nthe version before it runs again"
			if !r.stopped {
				again = "\nthe version before it was left as it is"
			}
		}
		return r.resume(ctx, d.standing)
	})
	if ctx.Err() != nil {
		return d.now(), because
	}
	if err != nil {
		again = fmt.Sprintf("\nthe version before it does not start either: %v", err)
	}
	return d.standing, errors.Join(fmt.Errorf("%w%s", because, again), h.end(d.scope, d.address, d.standing))
}

// orNothing is an entry that owns nothing if there is none.
func orNothing(e *Entry) *Entry {
	if e == nil {
		return &Entry{}
	}
	return e
}

// resume starts what stood before; its files are there again.
func (r *running) resume(ctx context.Context, standing *Entry) error {
	sys := r.h.system
	for _, u := range standing.Start {
		var err error
		switch filepath.Ext(u) {
		case ".timer":
			err = sys.Restart(ctx, u)
		case ".socket":
			if r.listensElsewhere(u) {
				err = sys.Restart(ctx, u)
			} else {
				err = sys.Start(ctx, u)
			}
		default:
			if u == standing.Unit && u == r.next.Unit && !strings.Contains(u, standing.Instance) {
				err = sys.Restart(ctx, u)
			} else {
				err = sys.Start(ctx, u)
			}
		}
		if err != nil {
			return err
		}
	}
	if standing.Unit == r.next.Unit && r.touchedCopies() {
		return sys.ReloadUnit(ctx, standing.Unit)
	}
	return nil
}

// remove takes a unit away for good.
func (d *deed) remove(ctx context.Context) (*Entry, error) {
	h := d.h
	if err := h.note(note{Scope: d.scope, Address: d.address, Begin: &begun{}}); err != nil {
		return d.old, err
	}
	units := d.replaced()
	if h.system != nil && len(units) > 0 {
		err := d.unlocked(ctx, func(ctx context.Context) error { return stopAll(ctx, h.system, units) })
		if ctx.Err() != nil {
			return d.now(), fmt.Errorf("%s: broken off: %w", d.address, ctx.Err())
		}
		if err != nil {
			return d.old, errors.Join(err, h.end(d.scope, d.address, d.old))
		}
	}
	d.undo = &undo{h: h}
	if h.system != nil {
		if err := d.forget(ctx, units); err != nil {
			return d.now(), err
		}
	}
	if err := d.clear(ctx, units); err != nil {
		if ctx.Err() != nil {
			return d.now(), err
		}
		return d.back(ctx, nil, err)
	}
	if d.old != nil {
		if err := h.sweep(d.old.Leftovers); err != nil {
			return d.now(), err
		}
	}
	return nil, h.end(d.scope, d.address, nil)
}

// sweep removes files by their patterns.
func (h *Host) sweep(patterns []string) error {
	for _, p := range patterns {
		dir, err := h.root.Open(rel(path.Dir(p)))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		names, err := dir.Readdirnames(-1)
		dir.Close()
		if err != nil {
			return err
		}
		for _, n := range names {
			if ok, _ := path.Match(path.Base(p), n); ok {
				if err := h.root.Remove(rel(path.Join(path.Dir(p), n))); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
