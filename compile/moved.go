package compile

import (
	"maps"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
)

// RenameFunc returns a function that maps an address to its current one, according to the
// entry's renames: old → new names of libraries, functionalities, members, replicas or
// resources. The longest matching name is renamed, and chains of renames are followed. A module
// with the name of its resource is renamed with it.
func RenameFunc(moved map[string]string) func(address string) string {
	once := renameOnce(moved)
	return func(address string) string {
		for range len(moved) { // more only in a circle, which is an error
			renamed := once(address)
			if renamed == address {
				break
			}
			address = renamed
		}
		return address
	}
}

// renameOnce is RenameFunc for the first of a chain of renames.
func renameOnce(moved map[string]string) func(address string) string {
	renames, modules := map[string]string{}, map[string]string{}
	module := func(name string) string {
		return graph.Address{Lib: graph.ModuleLib, Name: strings.ReplaceAll(name, "/", "-")}.String()
	}
	for old, now := range moved {
		old, now = withReplicas(old, now)
		renames[old] = now
		if !strings.Contains(old, "#") && nameParts(old) == nameParts(now) {
			modules[module(old)] = module(now)
		}
	}
	return func(address string) string {
		rest := ""
		for name := address; name != ""; {
			// A service that becomes the member of a group, or the other way round, has no
			// members of its own: only its replica follows its name.
			if now, ok := renames[name]; ok && (nameParts(name) == nameParts(now) || rest == "" || rest[0] == '#') {
				return now + rest
			}
			if now, ok := modules[name]; ok && rest == "" {
				return now
			}
			i := strings.LastIndexAny(name, "/#")
			if i < 0 {
				break
			}
			name, rest = name[:i], name[i:]+rest
		}
		return address
	}
}

// nameParts returns the number of parts of a name before its replica.
func nameParts(name string) int {
	name, _, _ = strings.Cut(name, "#")
	return strings.Count(name, "/") + 1
}

// withReplicas adds the first replica to one of two names if the other one names a replica.
func withReplicas(old, now string) (string, string) {
	const first = "#" + graph.FirstReplica
	switch o, n := strings.Contains(old, "#"), strings.Contains(now, "#"); {
	case o && !n:
		now += first
	case n && !o:
		old += first
	}
	return old, now
}

// checkMoved reports renames to names that do not exist, and from names that still exist.
func (c *compiler) checkMoved() {
	libs, names := map[string]bool{}, c.names()
	for _, l := range c.in.Result.Libraries {
		libs[l.Name] = true
	}
	once := renameOnce(c.e.Moved)
	for _, old := range slices.Sorted(maps.Keys(c.e.Moved)) {
		now := c.e.Moved[old]
		fail := func(format string, args ...any) *diag.Error {
			e := diag.Errorf("", format, args...).At("moved", old)
			c.errs = append(c.errs, e)
			return e
		}
		full, fullNow := withReplicas(old, now)
		from, fromErr := graph.ParseAddress(full)
		to, toErr := graph.ParseAddress(fullNow)
		parts, partsNow := nameParts(old), nameParts(now)
		const remove = "remove the old name, or remove this line"
		switch {
		case parts != partsNow && (parts == 1 || partsNow == 1) || parts == 1 && strings.ContainsRune(old+now, '#'):
			fail("moved: %q and %q are names of different kinds", old, now).
				WithHint("'old-lib': 'new-lib', 'lib/old': 'lib/new', 'lib/name': 'lib/name/member', or 'lib/name#0': 'lib/name#a'")
		case fromErr != nil:
			fail("moved: %q is not a name", old).WithHint(nameHint)
		case toErr != nil:
			fail("moved: %q is not a name", now).WithHint(nameHint)
		case isCircle(once, full):
			fail("moved: %q and %q are renamed in a circle", old, now).
				WithHint("remove the lines that were applied already; to exchange two names, first rename one of them to a third name, and apply")
		case c.e.Moved[now] != "":
			if parts > 1 && c.stillDefined(from, parts != partsNow) || parts == 1 && (libs[old] || c.funcs[old] != nil) {
				fail("moved: %q still exists", old).WithHint(remove)
			}
		case parts == 1 && c.funcs[now] != nil: // a resource of the entry file
			if c.funcs[old] != nil {
				fail("moved: resource %q still exists", old).WithHint(remove)
			}
		case parts == 1 && !libs[now]:
			fail("moved: there is no library or resource %q", now).WithHint("%s", diag.Suggest(now, slices.Sorted(maps.Keys(libs))))
		case parts == 1 && libs[old]:
			fail("moved: library %q still exists", old).WithHint(remove)
		case parts > 1:
			f := c.funcs[to.Functionality()]
			switch {
			case f == nil && !c.libHeld[to.Lib]:
				fail("moved: no library defines %q", to.Functionality()).WithHint("%s", diag.Suggest(to.Functionality(), names))
			case f == nil || f.fn == nil || f.err != nil: // held: it is not known what it has
			case to.Member != "" && !f.has(to.Member):
				fail("moved: %s has no member %q", to.Functionality(), to.Member).WithHint("%s", suggest(to.Member, slices.Sorted(maps.Keys(f.fn.Group))))
			case to.Replica != "" && !f.hasReplica(to.Replica):
				fail("moved: %s has no replica %q", to.Set(), to.Replica).WithHint("%s", suggest(to.Replica, f.fn.Place.Replicas.List()))
			case c.stillDefined(from, parts != partsNow):
				fail("moved: %q still exists", old).WithHint(remove)
			}
		}
	}
}

// isCircle reports whether renames lead from a name back to it.
func isCircle(once func(string) string, name string) bool {
	seen := map[string]bool{}
	for now := once(name); !seen[now]; now = once(now) {
		if now == name {
			return true
		}
		seen[now] = true
	}
	return false
}

// hasReplica reports whether a functionality has a replica of this name, as far as that is known
// before placement.
func (f *function) hasReplica(name string) bool {
	return f.fn.Place.Every != "" || slices.Contains(f.fn.Place.Replicas.List(), name)
}

// stillDefined reports whether an address that was renamed is still defined. With service, the
// name of a functionality means its service: a group of the same name is something else.
func (c *compiler) stillDefined(a graph.Address, service bool) bool {
	f := c.funcs[a.Functionality()]
	switch {
	case f == nil || f.err != nil || f.fn == nil:
		return false
	case a.Replica != "" && (f.fn.Place.Every != "" || !f.hasReplica(a.Replica)):
		return false
	case a.Member != "":
		return f.has(a.Member)
	case service || a.Replica != "":
		return f.fn.Service != nil
	}
	return true
}
