package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
)

// Entry is the record of one deployed unit on this machine.
type Entry struct {
	Backend   string        `json:"backend"`
	Digest    digest.Digest `json:"digest"` // of the unit; empty: an action was interrupted
	Object    digest.Digest `json:"object"` // of the unit's canonical bytes, in the store
	Instance  string        `json:"instance"`
	Values    plan.Values   `json:"values,omitempty"`
	Files     []string      `json:"files"`              // owned paths, sorted
	Objects   []string      `json:"objects,omitempty"`  // names in the store that the unit needs, sorted
	Name      string        `json:"name,omitempty"`     // stable name of the service
	Unit      string        `json:"unit,omitempty"`     // name of this version of the service
	Start     []string      `json:"start,omitempty"`    // supervisor units to start, in order
	Retire    string        `json:"retire,omitempty"`   // supervisor unit that runs before deletion
	Graceful  string        `json:"graceful,omitempty"` // how this version can run in parallel with another one
	Leftovers []string      `json:"leaves,omitempty"`   // patterns of files to delete with the unit
	Previous  *Entry        `json:"was,omitempty"`      // of an interrupted action: the record before it
	Timer     string        `json:"timer,omitempty"`    // socket of the engine whose job a systemd timer starts; empty: no such timer
	Outputs   plan.Values   `json:"outputs,omitempty"`  // of a module: values that others may read
}

// manifest is the content of manifest.json. It contains nothing that depends on when or how
// often something was done, so that equal machines have equal bytes.
type manifest struct {
	APIVersion string                       `json:"apiVersion"`
	Kind       string                       `json:"kind"` // "Manifest"
	Scopes     map[string]map[string]*Entry `json:"scopes"`
	Dirs       []string                     `json:"dirs,omitempty"` // folders created for owned files, sorted
}

// fence is the content of fence.json: for each scope the generation and the highest token
// seen, for all units and for single ones.
type fence struct {
	Scopes map[string]*scopeFence `json:"scopes"`
}

type scopeFence struct {
	Generation int              `json:"generation"`
	All        int64            `json:"all"`
	Units      map[string]int64 `json:"units,omitempty"`
}

// journalRecord is one line of the journal. An action begun but not ended leaves an entry
// without digest that owns the files of both versions.
type journalRecord struct {
	Scope   string   `json:"scope"`
	Address string   `json:"address"`
	Begin   *intent  `json:"begin,omitempty"`
	End     *Entry   `json:"end,omitempty"`  // the action ended: the deployed entry
	Gone    bool     `json:"gone,omitempty"` // the action ended: the unit is deleted
	Dirs    []string `json:"dirs,omitempty"` // at the end: created folders that were removed again
}

type intent struct {
	Files     []string `json:"files,omitempty"`  // files it will own
	Dirs      []string `json:"dirs,omitempty"`   // folders it will create
	Leftovers []string `json:"leaves,omitempty"` // patterns of files that its processes may create
}

const (
	base         = "var/lib/defx"
	manifestPath = base + "/manifest.json"
	fencePath    = base + "/fence.json"
	journalPath  = base + "/journal"
	storePath    = base + "/store"
)

func (m *manifest) scope(name string) map[string]*Entry {
	if m.Scopes[name] == nil {
		m.Scopes[name] = map[string]*Entry{}
	}
	return m.Scopes[name]
}

// apply merges one journal record into the manifest.
func (m *manifest) apply(n journalRecord) {
	units := m.scope(n.Scope)
	switch {
	case n.Begin != nil:
		e := &Entry{}
		if old := units[n.Address]; old != nil {
			*e = *old
			e.Files = slices.Clone(old.Files)
			if old.Digest != "" {
				e.Previous = old
			}
		}
		e.Leftovers = sets.Union(e.Leftovers, n.Begin.Leftovers)
		e.Digest, e.Object, e.Values, e.Instance = "", "", nil, ""
		e.Files = sets.Union(e.Files, n.Begin.Files)
		units[n.Address] = e
		m.Dirs = sets.Union(m.Dirs, n.Begin.Dirs)
	case n.Gone:
		delete(units, n.Address)
	case n.End != nil:
		units[n.Address] = n.End
	}
	if n.Begin == nil {
		m.Dirs = slices.DeleteFunc(m.Dirs, func(d string) bool { return slices.Contains(n.Dirs, d) })
	}
	if len(units) == 0 {
		delete(m.Scopes, n.Scope)
	}
}

// readManifest reads manifest.json and merges the journal into it.
func readManifest(root *os.Root) (*manifest, error) {
	m := &manifest{APIVersion: plan.APIVersion, Kind: "Manifest", Scopes: map[string]map[string]*Entry{}}
	if err := readRootJSON(root, manifestPath, m); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if m.Scopes == nil {
		m.Scopes = map[string]map[string]*Entry{}
	}
	for scope, units := range m.Scopes {
		for address, e := range units {
			if e == nil {
				return nil, fmt.Errorf("/%s is damaged: no entry for %s of %s", manifestPath, address, scope)
			}
		}
	}
	raw, err := readRoot(root, journalPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range bytes.Lines(raw) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // torn by a crash, so it was never acknowledged
		}
		var n journalRecord
		if err := json.Unmarshal(line, &n); err != nil {
			return nil, fmt.Errorf("/%s is damaged: %w", journalPath, err)
		}
		m.apply(n)
	}
	return m, nil
}

func readRoot(root *os.Root, path string) ([]byte, error) {
	f, err := root.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

func readRootJSON(root *os.Root, path string, v any) error {
	raw, err := readRoot(root, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("/%s is damaged: %w", path, err)
	}
	return nil
}
