package modeltest

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/defx-dev/defx/internal/digest"
)

// seen is a unit that is installed on a machine.
type seen struct {
	unitFile
	machine string
	text    string
	active  bool
	data    []string // IDs of what its state directories hold
}

// sight is what can be seen on all machines: scope → address → the units there.
type sight struct {
	units map[string]map[string][]seen
	data  map[string]map[string]string // machine → ID of data → its directory
	loose []string                     // active units without a file
}

func (d *disks) observe() *sight {
	out := &sight{units: map[string]map[string][]seen{}, data: map[string]map[string]string{}}
	for _, name := range machineNames {
		m := d.machines[name]
		files := map[string]bool{}
		entries, _ := os.ReadDir(m.path(unitDir))
		for _, e := range entries {
			if !e.Type().IsRegular() || !strings.HasSuffix(e.Name(), ".service") {
				continue
			}
			raw, err := os.ReadFile(m.path(unitDir, e.Name()))
			if err != nil {
				continue
			}
			u, ok := parseUnit(e.Name(), string(raw))
			if !ok {
				continue
			}
			files[e.Name()] = true
			x := seen{unitFile: u, machine: name, text: string(raw), active: m.active[e.Name()] != nil}
			for _, dir := range u.state {
				if raw, err := os.ReadFile(m.path("var/lib", dir, "data")); err == nil {
					x.data = append(x.data, string(raw))
				}
			}
			if out.units[u.scope] == nil {
				out.units[u.scope] = map[string][]seen{}
			}
			out.units[u.scope][u.address] = append(out.units[u.scope][u.address], x)
		}
		for unit := range m.active {
			if !files[unit] {
				out.loose = append(out.loose, unit+" on "+name)
			}
		}
		out.data[name] = m.data()
	}
	slices.Sort(out.loose)
	return out
}

// data returns the data on a machine: ID → its directory.
func (m *machine) data() map[string]string {
	out := map[string]string{}
	root := m.path("var/lib")
	filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() == "data" {
			if raw, err := os.ReadFile(p); err == nil {
				out[string(raw)], _ = filepath.Rel(root, filepath.Dir(p))
			}
		}
		return nil
	})
	return out
}

// changed returns the addresses whose units on a machine are not the same.
func changed(before, after *sight, scope, machine string) map[string]bool {
	out := map[string]bool{}
	at := func(s *sight, address string) string {
		text := ""
		for _, u := range s.units[scope][address] {
			if u.machine == machine {
				text += u.name + u.text
				if u.active {
					text += "active"
				}
			}
		}
		return text
	}
	for _, s := range []*sight{before, after} {
		for address := range s.units[scope] {
			if at(before, address) != at(after, address) {
				out[address] = true
			}
		}
	}
	return out
}

// on returns the addresses of the units of a scope on a machine.
func (s *sight) on(scope, machine string) map[string]bool {
	out := map[string]bool{}
	for address, list := range s.units[scope] {
		for _, u := range list {
			if u.machine == machine {
				out[address] = true
			}
		}
	}
	return out
}

// marks are the applies that changed a machine, by scope.
type marks map[string]*mark

// mark is what the tests know of the applies that changed the units of a scope.
type mark struct {
	units map[string]int // address → the last apply that visibly changed it
	last  int            // the last one that visibly changed anything
	maybe map[int]bool   // all that may have been here
}

func (m marks) clone() marks {
	out := marks{}
	for scope, k := range m {
		out[scope] = &mark{maps.Clone(k.units), k.last, maps.Clone(k.maybe)}
	}
	return out
}

func (m marks) of(scope string) *mark {
	if m[scope] == nil {
		m[scope] = &mark{units: map[string]int{}, maybe: map[int]bool{}}
	}
	return m[scope]
}

// fingerprint identifies everything that a refusal must not change.
func (d *disks) fingerprint() map[string]digest.Digest {
	out := map[string]digest.Digest{}
	roots := []string{d.state}
	for _, name := range machineNames {
		roots = append(roots, d.machines[name].dir)
	}
	for _, root := range roots {
		filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || slices.Contains([]string{"statcache.json", "data.json", "lock"}, e.Name()) {
				return nil
			}
			if raw, err := os.ReadFile(p); err == nil {
				out[p] = digest.Bytes(raw)
			}
			return nil
		})
	}
	return out
}
