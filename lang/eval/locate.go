package eval

import (
	"context"
	"strconv"

	"github.com/google/go-jsonnet/ast"
)

// Locate evaluates code like EvaluateSnippet, but prints nothing: it returns
// where the values at paths into the result are written, with all overrides
// applied. A path is a list of the names of fields and the indices of elements;
// what does not exist is placed at the value around it, at last at the beginning
// of the file. Fields on the way are evaluated; the values themselves are not.
func (vm *VM) Locate(ctx context.Context, filename, code string, paths [][]string) ([]ast.LocationRange, error) {
	out := make([]ast.LocationRange, len(paths))
	_, err := vm.run(ctx, filename, code, func(m *machine, p *program, _ *Result) {
		v := m.top(p)
		m.hold(v)
		for i, path := range paths {
			out[i] = m.locate(v, path, m.root(p).node.Loc())
		}
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// locate follows a path from v, which is written at loc.
func (m *machine) locate(v value, path []string, loc *ast.LocationRange) ast.LocationRange {
	for i, name := range path {
		last := i == len(path)-1
		switch v.kind() {
		case kindObject:
			o := v.object()
			l, d, j := m.find(o, 0, name)
			if l == nil {
				return *loc
			}
			if at := l.shape.fields[j].loc; at != nil {
				loc = at
			}
			if !last {
				v = m.field(o, l, d, j, printSite)
			}
		case kindArray:
			n, err := strconv.Atoi(name)
			if err != nil || n < 0 || n >= len(v.array().elems) {
				return *loc
			}
			if at := writtenAt(v.array().elems[n]); at != nil {
				loc = at
			}
			if !last {
				v = m.elem(v.array(), n, printSite)
			}
		default:
			return *loc
		}
	}
	return *loc
}

// writtenAt returns where an element is written, as far as it shows.
func writtenAt(v value) *ast.LocationRange {
	switch v.kind() {
	case kindThunk:
		if u := v.thunk().unit; u != nil && u.node != nil {
			return u.node.Loc()
		}
	case kindObject:
		if o := v.object(); o.comp == nil {
			return o.shape.loc
		}
	}
	return nil
}
