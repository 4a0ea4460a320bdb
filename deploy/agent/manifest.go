package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/nofollow"
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
	Mounts    []string      `json:"mounts,omitempty"`   // paths on which it mounts files, sorted
	Previous  *Entry        `json:"was,omitempty"`      // of an interrupted action: the record before it
	Timer     string        `json:"timer,omitempty"`    // socket of the engine whose job a systemd timer starts; empty: no such timer
	Outputs   plan.Values   `json:"outputs,omitempty"`  // of a module: values that others may read
	Apply     string        `json:"apply,omitempty"`    // ID of the apply that last changed it; on a machine it is kept in fence.json
	Token     int64         `json:"token,omitempty"`    // fencing token of that apply; kept in fence.json, too
	Data      []string      `json:"data,omitempty"`     // what holds its data (see backends.Layout), sorted
	Stopped   bool          `json:"stopped,omitempty"`  // it was stopped on purpose, and does not start at a boot either
	Claims    []plan.Claim  `json:"claims,omitempty"`   // what it takes on the machine
	Folders   []Folder      `json:"folders,omitempty"`  // directories that follow it when it is renamed
	Former    string        `json:"former,omitempty"`   // of an interrupted rename: the address before it
	Moves     []move        `json:"moves,omitempty"`    // of an interrupted rename: directories that may have moved
}

// formatVersion is the version of manifest.json and fence.json. Version 1 had no
// field for it, and knew no lineages and no applies.
const formatVersion = 2

// manifest is the content of manifest.json. It contains nothing that depends on when or how
// often something was done, so that equal machines have equal bytes.
type manifest struct {
	APIVersion string                       `json:"apiVersion"`
	Kind       string                       `json:"kind"` // "Manifest"
	Format     int                          `json:"format"`
	Scopes     map[string]map[string]*Entry `json:"scopes"`
	Dirs       []string                     `json:"dirs,omitempty"`   // folders created for owned files, sorted
	Mounts     []string                     `json:"mounts,omitempty"` // mount points that did not exist before a unit was started, sorted

	fence fence // the content of fence.json
	old   bool  // version 1 wrote it
}

// journalRecord is one line of the journal. An action begun but not ended leaves an entry
// without digest that owns the files of both versions.
type journalRecord struct {
	Scope   string   `json:"scope"`
	Address string   `json:"address"`
	Begin   *intent  `json:"begin,omitempty"`
	End     *Entry   `json:"end,omitempty"`    // the action ended: the deployed entry
	Gone    bool     `json:"gone,omitempty"`   // the action ended: the unit is deleted
	Former  string   `json:"former,omitempty"` // begin: the address whose entry becomes that of Address; end: the address that has the entry again
	Dirs    []string `json:"dirs,omitempty"`   // at the end: created folders that were removed again
	Mounts  []string `json:"mounts,omitempty"` // at the end: mount points that are no longer of interest
}

type intent struct {
	Files     []string     `json:"files,omitempty"`  // files it will own
	Dirs      []string     `json:"dirs,omitempty"`   // folders it will create
	Mounts    []string     `json:"mounts,omitempty"` // mount points that do not exist yet
	Leftovers []string     `json:"leaves,omitempty"` // patterns of files that its processes may create
	Claims    []plan.Claim `json:"claims,omitempty"` // what it will take on the machine
	Data      []string     `json:"data,omitempty"`   // what will hold data of the unit
	Moves     []move       `json:"moves,omitempty"`  // directories that it will move
	Apply     string       `json:"apply,omitempty"`  // ID of the apply that began it
	Token     int64        `json:"token,omitempty"`  // its fencing token
}

const (
	base         = "var/lib/defx"
	manifestPath = base + "/manifest.json"
	fencePath    = base + "/fence.json"
	journalPath  = base + "/journal"
	storePath    = base + "/store"
	programsPath = base + "/bin" // of the agent itself
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
		if old := units[n.Former]; n.Former != "" && old != nil {
			units[n.Address] = old
			delete(units, n.Former)
		}
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
		if len(n.Begin.Data) > 0 { // it may hold some when the action is interrupted
			e.Data = sets.Union(e.Data, n.Begin.Data)
		}
		e.Apply, e.Token = n.Begin.Apply, n.Begin.Token
		e.Former, e.Moves = n.Former, n.Begin.Moves
		for _, c := range n.Begin.Claims {
			if !slices.ContainsFunc(e.Claims, func(have plan.Claim) bool { return reflect.DeepEqual(have, c) }) {
				e.Claims = append(slices.Clone(e.Claims), c)
			}
		}
		if len(n.Begin.Mounts) > 0 {
			e.Mounts = sets.Union(e.Mounts, n.Begin.Mounts)
		}
		units[n.Address] = e
		m.Dirs = sets.Union(m.Dirs, n.Begin.Dirs)
		m.Mounts = sets.Union(m.Mounts, n.Begin.Mounts)
	case n.Gone:
		delete(units, n.Address)
	case n.End != nil && n.Former != "": // a rename was taken back
		delete(units, n.Address)
		units[n.Former] = n.End
	case n.End != nil:
		units[n.Address] = n.End
	}
	if n.Begin == nil {
		m.Dirs = slices.DeleteFunc(m.Dirs, func(d string) bool { return slices.Contains(n.Dirs, d) })
		m.Mounts = slices.DeleteFunc(m.Mounts, func(p string) bool { return slices.Contains(n.Mounts, p) })
	}
	if len(units) == 0 {
		delete(m.Scopes, n.Scope)
	}
}

// Damaged is the error of a file of the machine's records that is damaged or missing.
type Damaged struct {
	File    string // its path on the machine
	Problem error
}

func (d *Damaged) Error() string { return fmt.Sprintf("%s is damaged: %v", d.File, d.Problem) }
func (d *Damaged) Unwrap() error { return d.Problem }

// NewerFormat is the error of a machine on which a newer version of defx was.
type NewerFormat struct {
	File   string // its path on the machine
	Format int
}

func (n *NewerFormat) Error() string {
	return fmt.Sprintf("%s was written by a newer version of defx (format %d; this one reads format %d)", n.File, n.Format, formatVersion)
}

var errMissing = errors.New("the file is missing")

// readManifest reads manifest.json and fence.json and merges the journal into them.
// A file that must be there and is not counts as damaged: its absence must not be
// taken for the absence of what it records.
func readManifest(root *nofollow.Root) (*manifest, error) {
	m := &manifest{}
	manifestErr := readRecord(root, manifestPath, m, &m.Format)
	if manifestErr != nil && !errors.Is(manifestErr, fs.ErrNotExist) {
		return nil, manifestErr
	}
	fenceErr := readRecord(root, fencePath, &m.fence, &m.fence.Format)
	if fenceErr != nil && !errors.Is(fenceErr, fs.ErrNotExist) {
		return nil, fenceErr
	}
	// The manifest is the first file that is written. Version 1 wrote it when the first apply ended.
	if manifestErr != nil && (fenceErr == nil && m.fence.Format > 1 || fenceErr != nil && hasStore(root)) {
		return nil, &Damaged{"/" + manifestPath, errMissing}
	}
	if fenceErr != nil && len(m.Scopes) > 0 {
		return nil, &Damaged{"/" + fencePath, errMissing}
	}
	if m.old = m.Format == 1 || m.Format == 0 && m.fence.Format == 1; m.old { // its addresses had no replica
		for scope, units := range m.Scopes {
			m.Scopes[scope] = map[string]*Entry{}
			for address, e := range units {
				m.Scopes[scope][graph.WithReplica(address)] = e
			}
		}
	}
	m.APIVersion, m.Kind, m.Format, m.fence.Format = plan.APIVersion, "Manifest", formatVersion, formatVersion
	if m.Scopes == nil {
		m.Scopes = map[string]map[string]*Entry{}
	}
	if m.fence.Scopes == nil {
		m.fence.Scopes = map[string]*scopeFence{}
	}
	for scope, f := range m.fence.Scopes {
		if f == nil {
			return nil, &Damaged{"/" + fencePath, fmt.Errorf("no content for %s", scope)}
		}
	}
	for scope, units := range m.Scopes {
		for address, e := range units {
			if e == nil {
				return nil, &Damaged{"/" + manifestPath, fmt.Errorf("no entry for %s of %s", address, scope)}
			}
			if f := m.fence.Scopes[scope]; f != nil {
				e.Apply, e.Token = f.Entries[address].Apply, f.Entries[address].Token
			}
		}
	}
	raw, err := root.ReadFile(journalPath)
	if errors.Is(err, fs.ErrNotExist) && len(m.Scopes) > 0 {
		return nil, &Damaged{"/" + journalPath, errMissing}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range bytes.Lines(raw) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // torn by a crash, so it was never acknowledged
		}
		var n journalRecord
		if err := json.Unmarshal(line, &n); err != nil || n.Scope == "" || n.Address == "" {
			return nil, &Damaged{"/" + journalPath, fmt.Errorf("invalid line %.60q", line)}
		}
		if m.old {
			n.Address = graph.WithReplica(n.Address)
		}
		m.apply(n)
	}
	return m, nil
}

// hasStore reports whether the store of the machine has anything.
func hasStore(root *nofollow.Root) bool {
	d, err := root.Open(storePath)
	if err != nil {
		return false
	}
	defer d.Close()
	names, _ := d.Readdirnames(1)
	return len(names) > 0
}

// stored returns the manifest as it is written: without what depends on history,
// so that equal machines have equal bytes.
func (m *manifest) stored() *manifest {
	out := *m
	out.Scopes = map[string]map[string]*Entry{}
	for scope, units := range m.Scopes {
		out.Scopes[scope] = map[string]*Entry{}
		for address, e := range units {
			out.Scopes[scope][address] = e.withoutApply()
		}
	}
	return &out
}

// withoutApply returns a copy without the apply that changed it.
func (e *Entry) withoutApply() *Entry {
	if e == nil {
		return nil
	}
	out := *e
	out.Apply, out.Token, out.Previous = "", 0, e.Previous.withoutApply()
	return &out
}

// readRecord decodes a file of the machine's records into v, whose format becomes 1
// if the file does not name it.
func readRecord(root *nofollow.Root, path string, v any, format *int) error {
	raw, err := root.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		var probe struct {
			Format int `json:"format"`
		}
		if json.Unmarshal(raw, &probe) == nil && probe.Format > formatVersion {
			return &NewerFormat{"/" + path, probe.Format}
		}
		return &Damaged{"/" + path, err}
	}
	if bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
		return &Damaged{"/" + path, errors.New("it holds nothing")}
	}
	if *format == 0 {
		*format = 1
	}
	if *format > formatVersion {
		return &NewerFormat{"/" + path, *format}
	}
	return nil
}
