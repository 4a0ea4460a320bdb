package compile

import (
	"maps"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
)

// RenameFunc returns a function that maps an address to its current one, according to the
// entry's renames: old → new names of libraries, functionalities, replicas or resources. The
// longest matching name is renamed, and chains of renames are followed. A module with the name
// of its resource is renamed with it.
func RenameFunc(moved map[string]string) func(address string) string {
	modules := map[string]string{}
	module := func(name string) string {
		return graph.Address{Lib: graph.ModuleLib, Name: strings.ReplaceAll(name, "/", "-")}.String()
	}
	for old, renamed := range moved {
		if !strings.Contains(old, "#") {
			modules[module(old)] = module(renamed)
		}
	}
	once := func(address string) string {
		rest := ""
		for name := address; name != ""; {
			if renamed, ok := moved[name]; ok {
				return renamed + rest
			}
			if renamed, ok := modules[name]; ok && rest == "" {
				return renamed
			}
			i := strings.LastIndexAny(name, "/#")
			if i < 0 {
				break
			}
			name, rest = name[:i], name[i:]+rest
		}
		return address
	}
	return func(address string) string {
		for range len(moved) {
			renamed := once(address)
			if renamed == address {
				break
			}
			address = renamed
		}
		return address
	}
}

// checkMoved reports renames to names that do not exist, and from names that still exist.
func (c *compiler) checkMoved() {
	libs, names := map[string]bool{}, c.names()
	for _, l := range c.in.Result.Libraries {
		libs[l.Name] = true
	}
	for _, old := range slices.Sorted(maps.Keys(c.e.Moved)) {
		now := c.e.Moved[old]
		fail := func(format string, args ...any) *diag.Error {
			e := diag.Errorf("", format, args...).At("moved", old)
			c.errs = append(c.errs, e)
			return e
		}
		parts := strings.Count(old, "/")
		switch _, err := graph.ParseAddress(now); {
		case parts != strings.Count(now, "/") || strings.Contains(old, "#") != strings.Contains(now, "#"):
			fail("moved: %q and %q are names of different kinds", old, now).WithHint("'old-lib': 'new-lib', 'lib/old': 'lib/new' or 'lib/name#0': 'lib/name#a'")
		case err != nil:
			fail("moved: %q is not a name", now).WithHint(nameHint)
		case c.e.Moved[now] != "":
		case parts == 0 && c.funcs[now] != nil: // a resource of the entry file
			if c.funcs[old] != nil {
				fail("moved: resource %q still exists", old).WithHint("remove the old name, or remove this line")
			}
		case parts == 0 && !libs[now]:
			fail("moved: there is no library or resource %q", now).WithHint("%s", diag.Suggest(now, slices.Sorted(maps.Keys(libs))))
		case parts == 0 && libs[old]:
			fail("moved: library %q still exists", old).WithHint("remove the old name, or remove this line")
		case parts > 0:
			full, _, replica := strings.Cut(now, "#")
			from, _, _ := strings.Cut(old, "#")
			lib, _, _ := strings.Cut(full, "/")
			if a, err := graph.ParseAddress(full); err == nil && c.funcs[a.Functionality()] == nil && !c.libHeld[lib] {
				fail("moved: no library defines %q", full).WithHint("%s", diag.Suggest(full, names))
			} else if !replica && c.funcs[from] != nil && c.funcs[from].err == nil {
				fail("moved: %q still exists", old).WithHint("remove the old name, or remove this line")
			}
		}
	}
}
