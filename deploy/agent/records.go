package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/nofollow"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/gofrs/flock"
)

// DamagedSuffix follows the name of a damaged file that was kept aside, before the time.
const DamagedSuffix = ".damaged-"

// Repair makes the machine's records readable again. Damaged files are kept aside.
// It returns the paths of these copies, and of files that were missing. Nothing that runs is touched: Adopt records again
// what is there.
func (h *Host) Repair(ctx context.Context) (repaired []string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m != nil {
		return nil, nil // they could be read
	}
	if _, err := os.Lstat(filepath.Join(h.path, base)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	lock := flock.New(filepath.Join(h.path, journalPath), flock.SetPermissions(ownFile))
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if ok, err := lock.TryLockContext(limited, 10*time.Millisecond); !ok {
		return nil, fmt.Errorf("another apply is using this machine: %w", err)
	}
	defer lock.Unlock()
	root, err := nofollow.OpenRoot(h.path)
	if err != nil {
		return nil, err
	}
	h.root = root
	defer func() { root.Close(); h.root = nil }()
	suffix := DamagedSuffix + time.Now().UTC().Format("20060102T150405Z")
	for range 10 { // one file after the other
		_, err := readManifest(root)
		var d *Damaged
		if !errors.As(err, &d) {
			return repaired, err
		}
		kept, err := h.replaceDamaged(rel(d.File), suffix)
		if err != nil {
			return repaired, err
		}
		repaired = append(repaired, cmp.Or(kept, d.File))
	}
	return repaired, errors.New("the records cannot be repaired")
}

// replaceDamaged keeps a damaged file aside and writes an empty or shortened one.
func (h *Host) replaceDamaged(name, suffix string) (aside string, err error) {
	raw, err := h.root.ReadFile(name)
	if err == nil {
		aside = "/" + name + suffix
		err = h.replace(name+suffix, raw, ownFile)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return "", err
	}
	switch name {
	case manifestPath:
		return aside, h.writeJSON(manifestPath, &manifest{APIVersion: plan.APIVersion, Kind: "Manifest", Format: formatVersion, Scopes: map[string]map[string]*Entry{}})
	case fencePath:
		return aside, h.writeJSON(fencePath, fence{Format: formatVersion, Scopes: map[string]*scopeFence{}})
	case journalPath:
		return aside, h.replaceJournal(raw)
	}
	return aside, fmt.Errorf("/%s cannot be repaired", name)
}

// replaceJournal merges the valid records of a damaged journal into the manifest
// and empties it. A record that cannot be read may be of any unit, so all of them
// become uncertain.
func (h *Host) replaceJournal(raw []byte) error {
	m := &manifest{}
	if err := readRecord(h.root, manifestPath, m, &m.Format); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if m.Scopes == nil {
		m.Scopes = map[string]map[string]*Entry{}
	}
	m.APIVersion, m.Kind, m.Format = plan.APIVersion, "Manifest", formatVersion
	for line := range bytes.Lines(raw) {
		var n journalRecord
		if json.Unmarshal(line, &n) == nil && n.Scope != "" && n.Address != "" {
			m.apply(n)
		}
	}
	for scope, units := range m.Scopes {
		for _, address := range sets.Keys(units) {
			m.apply(journalRecord{Scope: scope, Address: address, Begin: &intent{}})
		}
	}
	if err := h.writeJSON(manifestPath, m.stored()); err != nil {
		return err
	}
	f, err := h.root.OpenFile(journalPath, os.O_WRONLY|os.O_CREATE, ownFile) // the lock is on this file
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(0), f.Sync(), f.Close())
}

// Adopt records a unit that the state knows and that the machine's records lack.
// It starts, stops and changes nothing. If the files on the machine are not those
// of the unit, it is recorded as uncertain, and the next apply makes it what it
// should be. It returns the entry, which is the existing one if there is one.
func (h *Host) Adopt(ctx context.Context, scope, address string, c Caller, raw json.RawMessage, values plan.Values) (*Entry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(ctx); err != nil {
		return nil, err
	}
	if err := h.checkFence(scope, address, c); err != nil {
		return nil, err
	}
	if e := h.m.Scopes[scope][address]; e != nil {
		return e, nil
	}
	e, layout, err := h.realize(raw, values, h.timerEngine(ctx))
	if err != nil {
		return nil, err
	}
	e.Apply, e.Token = c.Apply, c.Token
	for _, o := range append(layout.Objects, backends.Object{Name: e.Object.Hex(), Digest: e.Object, Content: raw, Mode: ownFile}) {
		if _, err := h.putObject(o); err != nil {
			return nil, err
		}
	}
	for _, f := range layout.Files {
		info, err := h.root.Lstat(rel(f.Path))
		same := false
		if err == nil {
			same, err = h.matches(f, info)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if !same { // of another version, or edited
			e.Digest, e.Object, e.Values, e.Instance = "", "", nil, ""
		}
	}
	return e, h.append(journalRecord{Scope: scope, Address: address, End: e})
}
