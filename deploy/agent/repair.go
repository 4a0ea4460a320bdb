package agent

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
)

// keptPath is the folder with copies of files that somebody edited, taken before they were
// overwritten. Only root can read them: nobody knows what is in them.
const keptPath = base + "/edited"

// thawer is a supervisor that can let frozen units run again.
type thawer interface {
	Thaw(ctx context.Context, unit string) error
}

// PrepareRepair prepares a unit that differs from what was deployed for being applied again: it keeps
// copies of edited files, removes drop-ins and damaged content, and stops what runs with changed
// settings. What is missing, or was overwritten, the apply that follows restores. It returns the
// paths of the copies. With keepOnly it does nothing but keep copies.
func (h *Host) PrepareRepair(ctx context.Context, scope, address string, by Caller, empty, keepOnly bool) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(ctx); err != nil {
		return nil, err
	}
	if err := h.checkFence(scope, address, by); err != nil {
		return nil, err
	}
	memory := readDataMemory(h.root)
	if empty {
		memory.forget(scope, address)
		memory.save(h.root)
	}
	e := h.m.Scopes[scope][address]
	if e == nil {
		return nil, h.adopt(ctx, scope, address, by)
	}
	if e.Digest == "" { // what it should be is unknown: the apply installs it anew
		return nil, nil
	}
	u := &UnitRefresh{Entry: e}
	c := &comparison{h: h, root: h.root, cache: openStatCache(h.root), memory: memory, scope: scope}
	if err := c.compare(ctx, map[string]*UnitRefresh{address: u}); err != nil {
		return nil, err
	}
	kept, err := h.keepEdited(u.Differences)
	if err != nil || keepOnly {
		return kept, err
	}
	if err := h.discard(u.Differences); err != nil {
		return kept, err
	}
	t, reload := &transaction{h: h}, h.reloadPending
	return kept, t.unlocked(ctx, func(ctx context.Context) error { return h.stopChanged(ctx, e, u.Differences, reload) })
}

// adopt makes the files of a unit whose record was lost the unit's own again, as after an interrupted
// action, so that the apply that follows replaces or keeps them. Its containers, whose files are lost
// too, are removed.
func (h *Host) adopt(ctx context.Context, scope, address string, by Caller) error {
	c := &comparison{h: h, root: h.root, scope: scope}
	strays, err := c.strays(ctx, h.m)
	if err != nil {
		return err
	}
	var files, containers []string
	for _, s := range strays {
		switch {
		case s.Address != address:
		case isContainer(s.Name):
			containers = append(containers, s.Name)
		default:
			files = append(files, h.filesOfStray(s.Name)...)
		}
	}
	if len(files) > 0 {
		files = sets.Union(files)
		if err := h.append(journalRecord{Scope: scope, Address: address, Begin: &intent{Files: files, Apply: by.Apply, Token: by.Token}}); err != nil {
			return err
		}
	}
	t := &transaction{h: h}
	return t.unlocked(ctx, func(ctx context.Context) error {
		for _, u := range containers {
			if err := h.supervisor.Stop(ctx, u); err != nil {
				return err
			}
			if err := h.supervisor.Forget(ctx, u); err != nil {
				return err
			}
		}
		return nil
	})
}

// filesOfStray returns the files that belong to a version of a service: its unit file, the name that
// leads to it, and all that have that name.
func (h *Host) filesOfStray(unit string) []string {
	dir := rel(unitDir)
	out := []string{path.Join(unitDir, unit)}
	names := listDir(h.root, dir)
	for _, alias := range names {
		if to, err := h.root.Readlink(path.Join(dir, alias)); err != nil || path.Base(to) != unit {
			continue
		}
		prefix := strings.TrimSuffix(alias, ".service") + "."
		for _, n := range names {
			switch info, err := h.root.Lstat(path.Join(dir, n)); {
			case err != nil:
			case strings.HasPrefix(n, prefix) && !info.IsDir():
				out = append(out, path.Join(unitDir, n))
			case strings.HasSuffix(n, ".wants") && info.IsDir():
				for _, w := range listDir(h.root, path.Join(dir, n)) {
					if strings.HasPrefix(w, prefix) {
						out = append(out, path.Join(unitDir, n, w))
					}
				}
			}
		}
	}
	return out
}

// keepEdited copies files that somebody edited or added.
func (h *Host) keepEdited(list []plan.Difference) ([]string, error) {
	var kept []string
	for _, d := range list {
		switch d.Cause {
		case plan.CauseUnitEdited, plan.CauseHostEdited, plan.CauseFileEdited, plan.CauseDropIn:
		default:
			continue
		}
		p := rel(d.Field)
		info, err := h.root.Lstat(p)
		if err != nil && isNotOurs(err) || err == nil && !info.Mode().IsRegular() {
			continue // a link has no content
		}
		if err != nil {
			return kept, err
		}
		raw, err := h.root.ReadFile(p)
		if err != nil {
			return kept, err
		}
		to := path.Join(keptPath, p+"."+digest.Bytes(raw).Brief())
		if err := h.root.MkdirAll(path.Dir(to), 0o700); err != nil {
			return kept, err
		}
		if err := h.replace(to, raw, 0o600); err != nil {
			return kept, err
		}
		kept = append(kept, "/"+to)
	}
	return kept, nil
}

// discard removes what the apply would not overwrite: drop-ins, masks at other places, and damaged
// content, which counts as present.
func (h *Host) discard(list []plan.Difference) error {
	for _, d := range list {
		p := rel(d.Field)
		switch {
		case d.Cause == plan.CauseDropIn, d.Cause == plan.CauseMasked && strings.HasPrefix(d.Field, "/"):
			if err := h.root.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if strings.HasSuffix(path.Dir(p), ".d") {
				h.root.RemoveDir(path.Dir(p)) // if it is empty now
			}
			h.reloadPending = true
		case d.Cause == plan.CauseStoreDamaged && strings.HasPrefix(p, storePath+"/"):
			if err := h.root.RemoveAll(p); err != nil {
				return err
			}
		case d.Cause == plan.CauseUnitUnread, d.Cause == plan.CauseNotLoaded:
			h.reloadPending = true
		case editedCause(d.Field) == d.Cause && strings.HasPrefix(d.Field, "/"): // a folder in its place cannot be overwritten
			if info, err := h.root.Lstat(p); err == nil && info.IsDir() {
				if err := h.root.RemoveDir(p); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// stopChanged stops what runs with settings that are not those deployed, so that it starts anew.
// reload makes systemd read its unit files first.
func (h *Host) stopChanged(ctx context.Context, e *Entry, list []plan.Difference, reload bool) error {
	if h.supervisor == nil {
		return nil
	}
	if reload {
		if err := h.supervisor.Reload(ctx); err != nil {
			return err
		}
	}
	container := isContainer(e.Unit)
	l, _ := h.storedLayout(h.root, e)
	edited := slices.ContainsFunc(list, func(d plan.Difference) bool {
		switch {
		case container && kindOf(d.Field) == unitFile && d.Cause == plan.CauseUnitEdited: // nothing reads it while the container exists
			return false
		case slices.ContainsFunc(l.Files, func(f backends.File) bool { return f.Path == d.Field && f.InPlace }): // it is reloaded
			return false
		}
		return d.Cause.IsEdit()
	})
	for _, d := range list {
		if t, ok := h.supervisor.(thawer); ok && d.Cause == plan.CauseFrozen {
			if err := t.Thaw(ctx, d.Field); err != nil {
				return err
			}
		}
	}
	if !edited {
		return nil
	}
	units := append(slices.Clone(e.Start), e.Unit)
	sortForStop(units)
	if err := stopAll(ctx, h.supervisor, slices.Compact(units)); err != nil {
		return err
	}
	if !container {
		return nil
	}
	for _, d := range list {
		if d.Cause == plan.CauseContainer {
			return h.supervisor.Forget(ctx, e.Unit)
		}
	}
	return nil
}
