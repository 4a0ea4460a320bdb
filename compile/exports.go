package compile

import (
	"maps"
	"slices"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// export is a text that others can read, resolved where it is defined.
type export struct {
	text      token.Text
	err       *diag.Error
	resolving bool // being resolved: reading it now is a cycle

	deps map[string]bool // dependencies recorded while it was resolved
}

// resolveExport resolves an export of a functionality, once. It returns nil if there is no such
// export.
func (c *compiler) resolveExport(f *function, name string) *export {
	t, ok := f.fn.Exports[name]
	if !ok {
		return nil
	}
	at := append(f.path(), "exports", name)
	if e := f.exports[name]; e != nil {
		if e.resolving {
			return &export{err: diag.Errorf(f.fullName(), "export %q reads itself", name).At(at...)}
		}
		c.mergeDeps(e.deps)
		return e
	}
	e := &export{resolving: true}
	f.exports[name] = e
	outer := c.deps
	c.deps = map[string]bool{}
	defer func() {
		e.deps, c.deps = c.deps, outer
		c.mergeDeps(e.deps)
	}()
	// defx.me in an export is the service of the functionality. A group has no single one.
	p := &memberConfig{path: f.path()}
	if len(f.members) == 1 {
		p = f.members[0]
	}
	if x := f.fn.External; x != nil {
		p.iface.Ports, p.iface.Labels = x.Ports, x.Labels
	}
	d := &decoder{subject: f.fullName()}
	r := c.resolver(f, f.fn, p, &decoder{})
	r.d = d
	e.text = r.resolveText(at, t, false, nil)
	if f.fn.External != nil || f.fn.Resource != nil || len(f.members) > 1 {
		for _, tok := range e.text.Tokens() {
			if tok.Of == "me" && f.fn.External == nil {
				d.errorf(at, "only the exports of a single service can read defx.me")
			}
		}
	}
	e.err, e.resolving = joinErrors(d.errs), false
	return e
}

// readExport returns the text that replaces a reference to an export.
func (r *resolver) readExport(path []string, f *function, set setRef, t token.Token) token.Text {
	if f.fn.Resource != nil {
		return tokenText(token.Token{Kind: token.Ref, Of: "set", Name: set.String(), Field: t.Field, Arg: t.Arg})
	}
	e := r.c.resolveExport(f, t.Arg)
	if e == nil {
		r.requireKnown(path, "export", false, t.Arg, slices.Sorted(maps.Keys(f.fn.Exports)), set.String()+" has")
		return tokenText(t)
	}
	if e.err != nil {
		r.d.errorf(path, "export %q of %s has an error: %s", t.Arg, set, e.err.Msg).WithHint("fix the export")
		return tokenText(t)
	}
	one, many := f.singleReplica()
	out, _ := e.text.Map(func(tok token.Token) (token.Text, error) {
		if tok.Of == "me" {
			if !one {
				r.d.errorf(path, "export %q of %s has a different value for each replica, and it has %s", t.Arg, set, many).
					WithHint("each(function(r) r.output('%s')) reads all of them", t.Arg)
			}
			tok.Of, tok.Name = "set", f.fullName()
			if tok.Field == "host" {
				tok.Field = "address" // as the service itself would read it
			}
		}
		return tokenText(tok), nil
	})
	return out
}

// resolvedExports returns all resolved exports by functionality, for set expressions that read
// exports of each replica.
func (c *compiler) resolvedExports() map[string]map[string]token.Text {
	out := map[string]map[string]token.Text{}
	for _, name := range c.names() {
		f := c.funcs[name]
		if f.fn == nil || len(f.fn.Exports) == 0 {
			continue
		}
		out[name] = map[string]token.Text{}
		for _, e := range slices.Sorted(maps.Keys(f.fn.Exports)) {
			if x := c.resolveExport(f, e); x.err == nil {
				out[name][e] = x.text
			}
		}
	}
	return out
}
