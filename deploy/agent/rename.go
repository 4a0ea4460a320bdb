package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/internal/sets"
)

// A rename is one action. The entry gets the new address when the action begins, the directories
// move while nothing of the unit runs, and whatever fails leads back to the former address. An
// interrupted rename is first taken back: which directories have moved is then known.

// Folder is a directory that follows a unit when it is renamed.
type Folder = backends.Dir

// move is a directory, or the file that records the success of an initializer, that a rename moves.
type move struct {
	From string `json:"from"`
	To   string `json:"to"`
}

func backwards(list []move) []move {
	out := make([]move, 0, len(list))
	for _, m := range slices.Backward(list) {
		out = append(out, move{m.To, m.From})
	}
	return out
}

// has reports whether a unit is deployed, or being changed, at an address.
func (h *Host) has(scope, address string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.m != nil && h.m.Scopes[scope][address] != nil
}

// planMoves finds what moves with a unit that is renamed, and refuses to overwrite what is there.
func (t *transaction) planMoves() error {
	if t.former == "" || t.previous == nil {
		return nil
	}
	for _, from := range t.previous.Folders {
		for _, to := range t.next.Folders {
			if from.Kind == to.Kind && from.Name == to.Name && from.Path != to.Path {
				t.moves = append(t.moves, move{from.Path, to.Path})
			}
		}
	}
	for i, from := range t.previous.Leftovers {
		if !strings.ContainsAny(from, "*?") && i < len(t.next.Leftovers) && !strings.ContainsAny(t.next.Leftovers[i], "*?") {
			t.moves = append(t.moves, move{from, t.next.Leftovers[i]})
		}
	}
	for _, m := range t.moves {
		for _, p := range places(m.To) {
			content, err := t.h.hasContent(p)
			if err == nil && content {
				err = fmt.Errorf("/%s exists: it is left from an earlier unit of that name; move it away", p)
			}
			if err != nil {
				return fmt.Errorf("%s cannot be renamed to %s, because %s cannot move: %w", t.former, t.address, m.From, err)
			}
		}
	}
	return nil
}

// places returns where a directory can be, relative to the root: systemd keeps that of a dynamic
// user in the directory private of the standard directory, with a symbolic link at its path.
func places(p string) []string {
	for _, root := range []string{"/var/lib", "/var/cache", "/var/log"} {
		if below, ok := strings.CutPrefix(p, root+"/defx/"); ok {
			return []string{rel(p), rel(root + "/private/defx/" + below)}
		}
	}
	return []string{rel(p)}
}

// hasContent reports whether a path is a file, or a directory that is not empty. A symbolic link has
// none of its own.
func (h *Host) hasContent(p string) (bool, error) {
	info, err := h.root.Lstat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case info.Mode()&fs.ModeSymlink != 0:
		return false, nil
	case !info.IsDir():
		return true, nil
	}
	d, err := h.root.Open(p)
	if err != nil {
		return false, err
	}
	defer d.Close()
	names, _ := d.Readdirnames(1)
	return len(names) > 0, nil
}

// moveAll moves directories. What was moved already, and what never existed, is left as it is, so
// that it can be repeated.
func (h *Host) moveAll(list []move) error {
	for _, m := range list {
		to := places(m.To)
		for i, from := range places(m.From) {
			if err := h.moveOne(from, to[i]); err != nil {
				return fmt.Errorf("%s cannot move to %s: %w", m.From, m.To, err)
			}
		}
	}
	return nil
}

func (h *Host) moveOne(from, to string) error {
	info, err := h.root.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 { // systemd makes the one at the new path
		return h.root.Remove(from)
	}
	content, err := h.hasContent(to)
	if err == nil && content {
		err = fmt.Errorf("/%s exists", to)
	}
	if err != nil {
		return err
	}
	if err := h.root.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) { // a link, or an empty directory
		return err
	}
	if err := makeDirs(h.root, path.Dir(to), publicDir); err != nil {
		return err
	}
	if err := h.root.Rename(from, to); err != nil {
		return err
	}
	err = errors.Join(h.syncDir(path.Dir(to)), h.syncDir(path.Dir(from)))
	for d := path.Dir(from); strings.Contains(d, "/defx/"); d = path.Dir(d) { // what is left of the former address
		if h.root.Remove(d) != nil {
			break
		}
	}
	return err
}

// finishRename removes what only the former address had.
func (t *transaction) finishRename() error {
	if t.former == "" || t.old == nil {
		return nil
	}
	if err := t.h.removeLeftovers(sets.Minus(t.old.Leftovers, t.next.Leftovers)); err != nil {
		return err
	}
	m := readDataMemory(t.h.root)
	for _, p := range m.held[m.key(t.scope, t.former)] {
		for _, moved := range t.moves {
			if p == moved.From {
				p = moved.To
			}
		}
		m.remember(t.scope, t.address, p)
	}
	m.forget(t.scope, t.former)
	m.save(t.h.root)
	return nil
}

// revertRenames takes back an interrupted rename of the unit, or one by which another unit has its
// address or the address former. It returns the former address of the unit itself; "" if it was not
// being renamed.
func (t *transaction) revertRenames(ctx context.Context, former string) (string, error) {
	interrupted := map[string]*Entry{}
	for address, e := range t.h.m.Scopes[t.scope] {
		if e.Former != "" && e.Digest == "" && (address == t.address || e.Former == t.address || e.Former == former) {
			interrupted[address] = e
		}
	}
	was := ""
	for _, address := range sets.Keys(interrupted) {
		e := interrupted[address]
		if address == t.address {
			was = e.Former
		}
		if err := t.revertRename(ctx, address, e); err != nil {
			return was, fmt.Errorf("the interrupted rename of %s to %s cannot be taken back: %w", e.Former, address, err)
		}
	}
	return was, nil
}

// revertRename puts the unit of an interrupted rename back under its former address, stopped and
// still of unknown version.
func (t *transaction) revertRename(ctx context.Context, address string, e *Entry) error {
	h := t.h
	var units []string
	for _, f := range e.Files {
		if h.owners[f] <= 1 {
			units = append(units, unitNames([]string{f})...)
		}
	}
	if h.supervisor != nil {
		err := t.unlocked(ctx, func(ctx context.Context) error {
			if err := h.supervisor.Reload(ctx); err != nil {
				return err
			}
			return stopAll(ctx, h.supervisor, units)
		})
		if err != nil {
			return err
		}
	}
	if err := h.moveAll(backwards(e.Moves)); err != nil {
		return err
	}
	back := *e
	back.Former, back.Moves = "", nil
	return h.append(journalRecord{Scope: t.scope, Address: address, Former: e.Former, End: &back})
}
