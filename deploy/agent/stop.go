package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"
)

// A unit that was stopped on purpose stays so: across applies, which exchange its files without
// starting it, and across boots. For systemd each of its units gets a drop-in with a condition that
// never holds, because a dependency or a timer may ask for its start; a container has no restart
// policy while it is stopped.

// stopFileName is the name of that drop-in. It sorts behind others.
const stopFileName = "zz-defx-stopped.conf"

const stopFileText = "# Written by defx stop. defx start removes it.\n[Unit]\nConditionPathExists=!/\n"

// isStopFile reports whether a drop-in is one of defx stop.
func isStopFile(p string) bool { return path.Base(p) == stopFileName }

// stopFiles returns the paths of the drop-ins that keep an entry's units from starting.
func stopFiles(e *Entry) []string {
	var out []string
	for _, u := range append(slices.Clone(e.Start), e.Unit) {
		if f := path.Join(unitDir, u+".d", stopFileName); !isContainer(u) && !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// writeStopFiles keeps the units of an entry from starting.
func (h *Host) writeStopFiles(e *Entry) error {
	for _, f := range stopFiles(e) {
		p := rel(f)
		if err := h.root.MkdirAll(path.Dir(p), 0o755); err != nil {
			return err
		}
		if err := h.replace(p, []byte(stopFileText), 0o644); err != nil {
			return err
		}
		if err := h.syncDir(path.Dir(p)); err != nil {
			return err
		}
		h.reloadPending = true
	}
	return nil
}

// removeStopFiles lets the units of an entry start again.
func (h *Host) removeStopFiles(e *Entry) error {
	for _, f := range stopFiles(e) {
		if err := h.root.RemoveFile(rel(f)); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		h.root.RemoveDir(rel(path.Dir(f))) // fails if others have drop-ins there
		h.reloadPending = true
	}
	return nil
}

// SetStopped stops a unit, so that it does not start at a boot either, or starts it again and waits
// until it is ready. It returns the entry afterwards.
func (h *Host) SetStopped(ctx context.Context, scope, address string, c Caller, stopped bool, timeout time.Duration) (*Entry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(ctx); err != nil {
		return nil, err
	}
	if err := h.checkFence(scope, address, c); err != nil {
		return nil, err
	}
	e := h.m.Scopes[scope][address]
	switch {
	case e == nil:
		return nil, fmt.Errorf("%s is not deployed on this machine", address)
	case e.Digest == "":
		return e, fmt.Errorf("an action on %s was interrupted: apply finishes it", address)
	}
	l, err := h.storedLayout(h.root, e)
	if err != nil {
		return e, err
	}
	next := *e
	next.Stopped, next.Apply, next.Token = stopped, c.Apply, c.Token
	t := &transaction{h: h, timeout: timeout}
	stop, ready := patienceOf(l)
	if t.extra = ready; stopped {
		t.extra = stop
		if err := h.writeStopFiles(e); err != nil {
			return e, err
		}
		if err := h.append(journalRecord{Scope: scope, Address: address, End: &next}); err != nil {
			return e, err
		}
		if h.supervisor == nil {
			return &next, nil
		}
		return &next, t.unlocked(ctx, func(ctx context.Context) error {
			if err := h.supervisor.Reload(ctx); err != nil {
				return err
			}
			return stopAll(ctx, h.supervisor, append(slices.Clone(e.Start), e.Unit))
		})
	}
	if err := h.removeStopFiles(e); err != nil {
		return e, err
	}
	if err := h.append(journalRecord{Scope: scope, Address: address, End: &next}); err != nil {
		return e, err
	}
	if h.supervisor == nil {
		return &next, nil
	}
	r := &rollout{h: h, scope: scope, address: address, next: &next, layout: l, startedAt: time.Now()}
	return &next, t.unlocked(ctx, func(ctx context.Context) error {
		if err := h.supervisor.Reload(ctx); err != nil {
			return err
		}
		for _, u := range l.Start {
			if err := r.startUnit(ctx, u); err != nil {
				return r.withLogs(ctx, u, err)
			}
		}
		if !slices.Contains(l.Start, l.Unit) {
			return nil
		}
		if r.first, err = h.supervisor.State(ctx, l.Unit); err != nil {
			return err
		}
		return r.waitReady(ctx)
	})
}

// applyStopped installs a version of a unit that was stopped on purpose, without starting it.
func (t *transaction) applyStopped(ctx context.Context, raw json.RawMessage) (*Entry, error) {
	h := t.h
	if h.supervisor != nil {
		if err := h.supervisor.Check(ctx, append(slices.Clone(t.layout.Start), t.layout.Unit)...); err != nil {
			return t.old, err
		}
	}
	b := &intent{Files: t.next.Files, Dirs: h.missingDirs(t.layout), Leftovers: t.next.Leftovers, Claims: t.next.Claims, Data: t.next.Data, Moves: t.moves, Apply: t.caller.Apply, Token: t.caller.Token}
	if err := h.append(journalRecord{Scope: t.scope, Address: t.address, Former: t.former, Begin: b}); err != nil {
		return t.old, err
	}
	t.restoreFiles()
	t.undo = &undo{h: h}
	err := h.writeStopFiles(t.next)
	if err == nil {
		err = h.install(raw, t.next, t.layout, t.undo)
	}
	if err != nil {
		return t.rollBack(ctx, nil, err)
	}
	h.reloadPending = true
	units := t.obsoleteUnits()
	if h.supervisor != nil {
		err = t.stopForGood(ctx, units)
	}
	if ctx.Err() != nil {
		return t.current(), fmt.Errorf("%s: interrupted: %w", t.address, ctx.Err())
	}
	if err == nil {
		err = h.moveAll(t.moves)
	}
	if err == nil {
		err = t.removeObsolete(ctx, units)
	}
	if err == nil {
		err = t.finishRename()
	}
	if err != nil {
		return t.current(), err
	}
	if t.previous != nil {
		for _, f := range stopFiles(t.previous) {
			if !slices.Contains(stopFiles(t.next), f) {
				h.root.RemoveFile(rel(f))
				h.root.RemoveDir(rel(path.Dir(f)))
			}
		}
	}
	return t.next, h.commit(t.scope, t.address, t.next)
}

// stopForGood stops a unit that must not run, and forgets units of other versions.
func (t *transaction) stopForGood(ctx context.Context, units []string) error {
	err := t.unlocked(ctx, func(ctx context.Context) error {
		if err := t.h.supervisor.Reload(ctx); err != nil {
			return err
		}
		return stopAll(ctx, t.h.supervisor, append(slices.Clone(units), t.next.Start...)) // it may run: the machine may not know that it was stopped
	})
	if err != nil {
		return err
	}
	return t.forgetUnits(ctx, units)
}
