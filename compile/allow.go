package compile

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
)

// checkAllow refuses entries of allow that allow nothing: unknown kinds of needs, and names that no
// library has.
func (c *compiler) checkAllow() {
	libs := map[string]bool{}
	for _, l := range c.in.Result.Libraries {
		libs[l.Name] = true
	}
	var kinds []string
	for _, r := range graph.NeedRules {
		kinds = append(kinds, string(r.Kind))
	}
	for _, name := range slices.Sorted(maps.Keys(c.e.Allow)) {
		fail := func(at []string, format string, args ...any) *diag.Error {
			e := diag.Errorf("", format, args...).At(append([]string{"allow", name}, at...)...)
			c.errs = append(c.errs, e)
			return e
		}
		lib, functionality, _ := strings.Cut(name, "/")
		switch {
		case functionality == "*" && !libs[lib]:
			fail(nil, "allow: there is no library %q", lib).WithHint("%s", suggest(lib, slices.Sorted(maps.Keys(libs))))
		case functionality != "*" && c.funcs[name] == nil && !c.libHeld[lib] && !c.isNull(name):
			fail(nil, "allow: no library defines %q", name).WithHint("%s", diag.Suggest(name, c.names()))
		}
		for i, kind := range c.e.Allow[name] {
			if !slices.Contains(kinds, kind) {
				fail([]string{strconv.Itoa(i)}, "allow: unknown need %q", kind).WithHint("%s", suggest(kind, kinds))
			}
		}
	}
}
