package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
)

// transaction is one action on one unit: it applies or deletes the unit, and rolls back if
// that fails. The machine is locked while files change, and unlocked while units start and
// stop.
type transaction struct {
	h              *Host
	caller         Caller
	scope, address string
	timeout        time.Duration
	extra          time.Duration // added to the timeout: what the user allows for stop, readiness and soak
	extraBack      time.Duration // the same, for the way back to the previous version
	old            *Entry        // the manifest's entry; nil: none
	previous       *Entry        // what a rollback restores; nil: nothing, or unknown
	oldFiles       []string
	former         string // of a rename: the address of old
	moves          []move // of a rename: the directories that move
	next           *Entry
	layout         backends.Layout
	undo           *undo
}

func (t *transaction) current() *Entry { return t.h.m.Scopes[t.scope][t.address] }

// apply installs and starts the new version.
func (t *transaction) apply(ctx context.Context, raw json.RawMessage) (*Entry, error) {
	h := t.h
	if h.supervisor != nil {
		if err := h.supervisor.Check(ctx, append(slices.Clone(t.layout.Start), t.layout.Unit)...); err != nil {
			return t.old, err
		}
	} else if isContainer(t.layout.Unit) {
		return t.old, errors.New("a dir: folder runs no containers: use a machine with connect: 'local' or 'ssh://…'")
	}
	b := &intent{Files: t.next.Files, Dirs: h.missingDirs(t.layout), Mounts: h.missingMounts(t.layout), Leftovers: t.next.Leftovers, Claims: t.next.Claims, Data: t.next.Data, Moves: t.moves, Apply: t.caller.Apply, Token: t.caller.Token}
	if err := h.append(journalRecord{Scope: t.scope, Address: t.address, Former: t.former, Begin: b}); err != nil {
		return t.old, err
	}
	if h.supervisor != nil {
		t.restoreFiles()
	}
	t.undo = &undo{h: h}
	err := h.install(raw, t.next, t.layout, t.undo)
	var r *rollout
	if err == nil && h.supervisor != nil {
		h.reloadPending = h.reloadPending || len(systemdUnits(t.undo.changed())) > 0
		r = &rollout{h: h, scope: t.scope, address: t.address, next: t.next, previous: t.previous, layout: t.layout, obsolete: t.obsoleteUnits(), changed: t.undo.changed(), undo: t.undo, startedAt: time.Now(), moves: t.moves, renamed: t.former != ""}
		err = t.unlocked(ctx, r.start)
		if ctx.Err() != nil {
			return t.current(), fmt.Errorf("%s: interrupted: %w", t.address, ctx.Err())
		}
	}
	if err == nil && h.supervisor != nil { // from here on the new version stays: the next apply repeats what fails now
		units := t.obsoleteUnits()
		if err := t.forgetUnits(ctx, units); err != nil {
			return t.current(), err
		}
		if err := t.removeObsolete(ctx, units); err != nil {
			return t.current(), err
		}
		if err := t.finishRename(); err != nil {
			return t.current(), err
		}
		if err := h.commit(t.scope, t.address, t.next); err != nil {
			return t.next, err
		}
		h.noteStarted(r)
		return t.next, nil
	}
	if err == nil {
		err = h.moveAll(t.moves)
	}
	if err == nil {
		err = h.removeFiles(t.oldFiles, t.next, t.written(), t.undo)
	}
	if err != nil {
		return t.rollBack(ctx, r, err)
	}
	if err := t.finishRename(); err != nil {
		return t.current(), err
	}
	return t.next, h.commit(t.scope, t.address, t.next)
}

// restored commits what is deployed after the action was taken back: e, under its former address if
// it was to be renamed.
func (t *transaction) restored(e *Entry) error {
	if t.former == "" || e == nil {
		return t.h.commit(t.scope, t.address, e)
	}
	return t.h.commitAt(t.scope, t.address, t.former, e)
}

// removeObsolete deletes files that the unit no longer owns. If it was the last owner of a
// shared unit, that is stopped too.
func (t *transaction) removeObsolete(ctx context.Context, stopped []string) error {
	for {
		before := len(t.undo.steps)
		if err := t.h.removeFiles(t.oldFiles, t.next, t.written(), t.undo); err != nil || t.h.supervisor == nil {
			return err
		}
		removed := unitNames(t.undo.changed()[before:])
		t.h.reloadPending = t.h.reloadPending || len(systemdUnits(t.undo.changed()[before:])) > 0
		last := slices.DeleteFunc(removed, func(u string) bool { return slices.Contains(stopped, u) || t.keepRunning(u) })
		if len(last) == 0 {
			return nil
		}
		// Meanwhile other transactions may end and make this unit the last owner of
		// something else.
		if err := t.unlocked(ctx, func(ctx context.Context) error { return stopAll(ctx, t.h.supervisor, last) }); err != nil {
			return err
		}
	}
}

// written returns what the versions of the unit wrote.
func (t *transaction) written() written {
	w := written{t.h, []backends.Layout{t.layout}}
	for _, e := range []*Entry{t.old, t.previous} {
		if e != nil && e.Object != "" {
			if l, err := t.h.storedLayout(t.h.root, e); err == nil {
				w.layouts = append(w.layouts, l)
			}
		}
	}
	return w
}

// forgetUnits removes what is left of units that were stopped for good. It precedes the
// deletion of files: from then on the machine stays locked to the end, because otherwise two
// owners of one file would each leave it to the other.
func (t *transaction) forgetUnits(ctx context.Context, units []string) error {
	return t.unlocked(ctx, func(ctx context.Context) error {
		for _, u := range units {
			if err := t.h.supervisor.Forget(ctx, u); err != nil {
				return fmt.Errorf("%s cannot be removed: %w", u, err)
			}
		}
		return nil
	})
}

// unlocked runs f, which may take long, while others can use the machine.
func (t *transaction) unlocked(ctx context.Context, f func(context.Context) error) error {
	limit := t.timeout
	if limit == 0 {
		limit = 10 * time.Minute
	}
	limit += t.extra
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t.h.mu.Unlock()
	defer t.h.mu.Lock()
	err := f(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("it took more than %s: %w", limit, err)
	}
	return err
}

// restoreFiles restores the files from before an interrupted action, so that a rollback
// leads to that version and not to a mixture. It does not touch what runs.
func (t *transaction) restoreFiles() {
	if t.old == nil || t.old.Digest != "" || t.previous == nil {
		return
	}
	raw, err := t.h.root.ReadFile(path.Join(storePath, t.previous.Object.Hex()))
	if err == nil && digest.Bytes(raw) == t.previous.Object {
		if e, l, rerr := t.h.realize(raw, t.previous.Values, t.previous.Timer); rerr == nil {
			err = t.h.install(raw, e, l, &undo{h: t.h})
		} else {
			err = rerr
		}
	}
	if err != nil {
		t.previous = nil
	}
}

// obsoleteUnits returns the units whose files the new version no longer has.
func (t *transaction) obsoleteUnits() []string {
	var next []string
	if t.next != nil {
		next = t.next.Files
	}
	var out []string
	for _, f := range t.oldFiles {
		if _, kept := slices.BinarySearch(next, f); kept || t.h.owners[f] > 1 {
			continue
		}
		out = append(out, unitNames([]string{f})...)
	}
	return slices.DeleteFunc(out, t.keepRunning)
}

// keepRunning reports whether a unit of the old version is not stopped: a run of a job that
// is in progress finishes.
func (t *transaction) keepRunning(unit string) bool {
	return t.former == "" && t.next != nil && t.previous != nil && unit == t.previous.Unit && !slices.Contains(t.previous.Start, unit)
}

// rollBack restores the previous version; cause is the error that made it necessary.
func (t *transaction) rollBack(ctx context.Context, r *rollout, cause error) (*Entry, error) {
	h := t.h
	failed := func(err error) (*Entry, error) {
		return t.current(), fmt.Errorf("%w; restoring the previous version failed too: %w", cause, err)
	}
	limited, cancel := context.WithTimeout(ctx, 2*time.Minute+t.extraBack)
	defer cancel()
	known := t.previous != nil || t.old == nil
	if r != nil {
		var stop []string
		for _, f := range t.next.Files {
			if (t.previous == nil || !slices.Contains(t.previous.Files, f)) && h.owners[f] <= 1 {
				stop = append(stop, unitNames([]string{f})...)
			}
		}
		if err := t.unlocked(limited, func(ctx context.Context) error { return stopAll(ctx, h.supervisor, stop) }); err != nil {
			return failed(err)
		}
		if err := t.forgetUnits(limited, stop); err != nil {
			return failed(err)
		}
	}
	if err := h.moveAll(backwards(t.moves)); err != nil {
		return failed(err)
	}
	if err := t.undo.run(); err != nil {
		return failed(err)
	}
	if !known {
		return t.old, errors.Join(cause, t.restored(t.old))
	}
	if h.supervisor != nil {
		if err := h.removeFiles(sets.Union(t.oldFiles, orNothing(t.next).Files), orNothing(t.previous), t.written(), &undo{h: h}); err != nil {
			return failed(err)
		}
	}
	if r == nil {
		return t.previous, errors.Join(cause, t.restored(t.previous))
	}
	restored := ""
	err := t.unlocked(limited, func(ctx context.Context) error {
		if len(systemdUnits(sets.Union(t.next.Files, t.oldFiles))) > 0 {
			if err := h.supervisor.Reload(ctx); err != nil {
				return err
			}
		}
		if t.previous == nil {
			return nil
		}
		if _, skipped := errors.AsType[*Unhealthy](cause); !skipped {
			restored = "\nthe previous version runs again"
			if !r.stopped || r.notReloaded {
				restored = "\nthe previous version was left unchanged"
			}
		}
		return r.resume(ctx, t.previous)
	})
	if ctx.Err() != nil {
		return t.current(), cause
	}
	if err != nil {
		restored = fmt.Sprintf("\nthe previous version does not start either: %v", err)
	}
	return t.previous, errors.Join(fmt.Errorf("%w%s", cause, restored), t.restored(t.previous))
}

// orNothing returns e, or an entry that owns nothing if e is nil.
func orNothing(e *Entry) *Entry {
	if e == nil {
		return &Entry{}
	}
	return e
}

// resume starts the previous version again, after its files were restored.
func (r *rollout) resume(ctx context.Context, previous *Entry) error {
	sys := r.h.supervisor
	for _, u := range previous.Start {
		var err error
		switch filepath.Ext(u) {
		case ".timer":
			err = sys.Restart(ctx, u)
		case ".socket":
			if r.listenersChanged(u) {
				err = sys.Restart(ctx, u)
			} else {
				err = sys.Start(ctx, u)
			}
		default:
			if u == previous.Unit && u == r.next.Unit && !strings.Contains(u, previous.Instance) {
				err = sys.Restart(ctx, u)
			} else {
				err = sys.Start(ctx, u)
			}
		}
		if err != nil {
			return err
		}
	}
	if previous.Unit == r.next.Unit && r.reloadableChanged() && !r.notReloaded {
		return sys.ReloadUnit(ctx, previous.Unit)
	}
	return nil
}

// remove deletes the unit.
func (t *transaction) remove(ctx context.Context) (*Entry, error) {
	h := t.h
	if err := h.append(journalRecord{Scope: t.scope, Address: t.address, Begin: &intent{Apply: t.caller.Apply, Token: t.caller.Token}}); err != nil {
		return t.old, err
	}
	units := t.obsoleteUnits()
	if h.supervisor != nil && len(units) > 0 {
		err := t.unlocked(ctx, func(ctx context.Context) error { return stopAll(ctx, h.supervisor, units) })
		if ctx.Err() != nil {
			return t.current(), fmt.Errorf("%s: interrupted: %w", t.address, ctx.Err())
		}
		if err != nil {
			return t.old, errors.Join(err, h.commit(t.scope, t.address, t.old))
		}
	}
	t.undo = &undo{h: h}
	if h.supervisor != nil {
		if err := t.forgetUnits(ctx, units); err != nil {
			return t.current(), err
		}
	}
	if err := t.removeObsolete(ctx, units); err != nil {
		if ctx.Err() != nil {
			return t.current(), err
		}
		return t.rollBack(ctx, nil, err)
	}
	if t.old != nil {
		if err := h.removeLeftovers(t.old.Leftovers); err != nil {
			return t.current(), err
		}
	}
	return nil, h.commit(t.scope, t.address, nil)
}

// removeLeftovers deletes files that match patterns.
func (h *Host) removeLeftovers(patterns []string) error {
	for _, p := range patterns {
		dir, err := h.root.Open(rel(path.Dir(p)))
		if err != nil && isNotOurs(err) {
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
				if err := h.root.RemoveFile(rel(path.Join(path.Dir(p), n))); err != nil && !isNotOurs(err) {
					return err
				}
			}
		}
	}
	return nil
}
