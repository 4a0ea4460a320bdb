package compile

import (
	"maps"
	"slices"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// export is a text that others read, resolved where it is written.
type export struct {
	text token.Text
	err  *diag.Error
	busy bool // it is being resolved: meeting it again is a circle

	looked map[string]bool // what was looked at for it
}

// export resolves an export of a functionality once. It is nil if there is none of the name.
func (c *compiler) export(f *function, name string) *export {
	t, ok := f.fn.Exports[name]
	if !ok {
		return nil
	}
	at := append(f.path(), "exports", name)
	if e := f.exports[name]; e != nil {
		if e.busy {
			return &export{err: diag.Errorf(f.full(), "export %q is made of itself", name).At(at...)}
		}
		c.merge(e.looked)
		return e
	}
	e := &export{busy: true}
	f.exports[name] = e
	outer := c.looked
	c.looked = map[string]bool{}
	defer func() {
		e.looked, c.looked = c.looked, outer
		c.merge(e.looked)
	}()
	// Its me is the functionality; of a group, that is no one service.
	p := &part{path: f.path()}
	if len(f.parts) == 1 {
		p = f.parts[0]
	}
	if x := f.fn.External; x != nil {
		p.face.Ports, p.face.Labels = x.Ports, x.Labels
	}
	d := &decoder{subject: f.full()}
	r := c.resolver(f, f.fn, p, &decoder{})
	r.d = d
	e.text = r.resolveText(at, t, false, nil)
	if f.fn.External != nil || f.fn.Resource != nil || len(f.parts) > 1 {
		for _, tok := range e.text.Tokens() {
			if tok.Of == "me" && f.fn.External == nil {
				d.errorf(at, "an export of what is no single service cannot read defx.me")
			}
		}
	}
	e.err, e.busy = together(d.errs), false
	return e
}

// output puts the export of another functionality in the place of a ref to it.
func (r *resolver) output(path []string, f *function, set string, t token.Token) token.Text {
	if f.fn.Resource != nil {
		return just(token.Token{Kind: token.Ref, Of: "set", Name: set, Field: t.Field, Arg: t.Arg})
	}
	e := r.c.export(f, t.Arg)
	if e == nil {
		r.choose(path, "export", false, t.Arg, slices.Sorted(maps.Keys(f.fn.Exports)), set+" has")
		return just(t)
	}
	if e.err != nil {
		r.d.errorf(path, "export %q of %s is broken: %s", t.Arg, set, e.err.Msg).WithHint("mend it there")
		return just(t)
	}
	one, many := f.single()
	out, _ := e.text.Map(func(tok token.Token) (token.Text, error) {
		if tok.Of == "me" {
			if !one {
				r.d.errorf(path, "export %q of %s says something of each of its replicas, and there is %s", t.Arg, set, many).
					WithHint("each(function(r) r.output('%s')) reads all of them", t.Arg)
			}
			tok.Of, tok.Name = "set", f.full()
			if tok.Field == "host" {
				tok.Field = "address" // as it would say of itself
			}
		}
		return just(tok), nil
	})
	return out
}

// outputs puts exports in the place of what bodies read of each replica; it runs when the replicas are known.
func (c *compiler) outputs() map[string]map[string]token.Text {
	out := map[string]map[string]token.Text{}
	for _, name := range c.names() {
		f := c.funcs[name]
		if f.fn == nil || len(f.fn.Exports) == 0 {
			continue
		}
		out[name] = map[string]token.Text{}
		for _, e := range slices.Sorted(maps.Keys(f.fn.Exports)) {
			if x := c.export(f, e); x.err == nil {
				out[name][e] = x.text
			}
		}
	}
	return out
}
