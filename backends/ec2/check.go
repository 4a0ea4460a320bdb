package ec2

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// node is a resource while its module is built.
type node struct {
	resource  *graph.Resource
	typ       resourceType
	schema    *resourceSchema
	name      string // name in Terraform: lib_name
	module    string
	region    string
	source    string // source address of the provider: hashicorp/aws
	body      map[string]any
	positions map[string][]string // the provider's argument → its path in the user's value
	refs      []ref
	lifecycle
}

// lifecycle holds the fields that every resource has.
type lifecycle struct {
	protect, orphanOnDelete, createFirst bool
	ignore                               []string
}

// ref is a reference from one resource to an output of another.
type ref struct {
	target *node
	attr   string
	path   []string
}

func (m *node) address() string { return m.resource.Address.String() }

// id returns the address of the resource in Terraform.
func (m *node) id() string { return m.typ.tfType + "." + m.name }

func (m *node) at(more ...string) []string { return append(slices.Clone(m.resource.Path), more...) }

// checker builds the bodies of resources and collects the errors.
type checker struct {
	g     *graph.Graph
	nodes map[string]*node
	errs  diag.List
}

func (c *checker) errorf(m *node, path []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(m.address(), format, args...).At(path...)
	c.errs = append(c.errs, e)
	return e
}

// suggest returns a hint for an unknown word: the most similar known one, or a list.
func suggest(given string, known []string) string {
	if hint := diag.Suggest(given, known); hint != "" {
		return hint
	}
	known = slices.Clone(known)
	slices.Sort(known)
	if len(known) > 12 {
		return "one of " + strings.Join(known[:12], ", ") + fmt.Sprintf(" and %d more", len(known)-12)
	}
	return "one of " + strings.Join(known, ", ")
}

// commonFields reads the fields that every resource has and returns the others.
func (c *checker) commonFields(m *node) map[string]any {
	rest := map[string]any{}
	for _, k := range sets.Keys(m.resource.Fields) {
		v, p := m.resource.Fields[k], m.at(k)
		switch k {
		case "module", "region":
			s, ok := literal(v)
			if !ok || s == "" {
				c.errorf(m, p, "%s must be a string without references", k).WithHint("%s: 'name'", k)
				continue
			}
			if k == "region" {
				m.region = s
				if !regionRE.MatchString(s) {
					c.errorf(m, p, "%q is not a region", s).WithHint("for example 'eu-central-1'")
				}
				continue
			}
			m.module = s
			if !graph.ValidName(s) {
				c.errorf(m, p, "%q is not a valid module name", s).WithHint("a-z, 0-9 and -")
			}
		case "protect", "retain", "createBeforeDestroy":
			b, ok := v.(bool)
			if !ok {
				c.errorf(m, p, "%s must be true or false", k).WithHint("%s: true", k)
			}
			switch k {
			case "protect":
				m.protect = b
			case "retain":
				m.orphanOnDelete = b
			default:
				m.createFirst = b
			}
		case "ignoreChanges":
			list, ok := v.([]any)
			if !ok {
				c.errorf(m, p, "ignoreChanges must be a list of arguments").WithHint("ignoreChanges: ['desired']")
			}
			for _, x := range list {
				s, _ := literal(x)
				m.ignore = append(m.ignore, s)
			}
		default:
			rest[k] = v
		}
	}
	return rest
}

var commonFieldNames = []string{"type", "module", "region", "protect", "retain", "createBeforeDestroy", "ignoreChanges"}

// literal returns the text of a value that has no tokens.
func literal(v any) (string, bool) {
	t, ok := v.(token.Text)
	if !ok {
		return "", false
	}
	return t.Literal()
}

// fields builds the body of a resource.
func (c *checker) fields(m *node, fields map[string]any, at []string) {
	if m.schema == nil { // unknown schema: Terraform checks the arguments
		c.checkArgumentNames(m, fields, at)
		c.checkIgnored(m)
		m.body, _ = c.anyValue(m, fields, at).(map[string]any)
		return
	}
	m.body = c.block(m, m.schema.Block, fields, at, true)
	for i, name := range m.ignore {
		if n := m.typ.toProvider(name); m.schema.Block.Attributes[n] == nil && m.schema.Block.Blocks[n] == nil {
			c.errorf(m, m.at("ignoreChanges", strconv.Itoa(i)), "%s has no argument %q", m.resource.Type, name).WithHint("%s", suggest(name, c.argumentNames(m)))
		}
	}
	c.checkExclusions(m, at)
}

// checkExclusions checks arguments that exclude each other, and sets of which one is required.
func (c *checker) checkExclusions(m *node, at []string) {
	reported := map[string]bool{}
	set := func(list []string) (out []string) {
		for _, n := range list {
			if _, ok := m.body[n]; ok {
				out = append(out, m.typ.fromProvider(n))
			}
		}
		return out
	}
	all := func(list []string) (out []string) {
		for _, n := range list {
			out = append(out, m.typ.fromProvider(n))
		}
		return out
	}
	for _, n := range sets.Keys(m.schema.Conflicts) {
		for _, other := range m.schema.Conflicts[n] {
			pair := []string{n, other}
			slices.Sort(pair)
			if key := strings.Join(pair, " "); len(set(pair)) == 2 && !reported[key] {
				reported[key] = true
				c.errorf(m, m.position(other, at), "%s and %s cannot be set together", m.typ.fromProvider(n), m.typ.fromProvider(other)).WithHint("remove one of them")
			}
		}
	}
	for rules, exactly := range map[*map[string][]string]bool{&m.schema.ExactlyOne: true, &m.schema.AtLeastOne: false} {
		for _, n := range sets.Keys(*rules) {
			list := (*rules)[n]
			key, has := strings.Join(list, " "), set(list)
			if len(list) < 2 || reported[key] {
				continue
			}
			reported[key] = true
			if len(has) == 0 {
				c.errorf(m, at, "one of %s must be set", strings.Join(all(list), ", ")).WithHint("add %s", m.typ.fromProvider(list[0]))
			} else if exactly && len(has) > 1 {
				c.errorf(m, at, "only one of %s can be set", strings.Join(has, ", ")).WithHint("remove the others")
			}
		}
	}
}

// position returns the path where the user set an argument, or otherwise.
func (m *node) position(attr string, otherwise []string) []string {
	if p := m.positions[attr]; p != nil {
		return p
	}
	return otherwise
}

// argumentNames lists the arguments of a resource as users write them.
func (c *checker) argumentNames(m *node) []string {
	var out []string
	for _, n := range m.schema.Block.settable() {
		out = append(out, m.typ.fromProvider(n))
	}
	return append(out, commonFieldNames...)
}

// block builds a block. top is set for the resource itself, whose arguments have names of their
// own.
func (c *checker) block(m *node, b *schemaBlock, fields map[string]any, at []string, top bool) map[string]any {
	out := map[string]any{}
	for _, k := range sets.Keys(fields) {
		v, p := fields[k], append(slices.Clone(at), k)
		n := snake(k)
		if top {
			n = m.typ.toProvider(k)
		}
		a, inner := b.Attributes[n], b.Blocks[n]
		if a == nil && inner == nil || a != nil && !a.Required && !a.Optional {
			known := make([]string, 0, len(b.Attributes))
			for _, s := range b.settable() {
				if top {
					s = m.typ.fromProvider(s)
				} else {
					s = camel(s)
				}
				known = append(known, s)
			}
			if top {
				known = append(known, commonFieldNames...)
			}
			if a != nil {
				c.errorf(m, p, "%q is computed by AWS and cannot be set", k).WithHint("remove it; others can read it with .output('%s')", k)
				continue
			}
			c.errorf(m, p, "%s has no argument %q", m.resource.Type, k).WithHint("%s", suggest(k, known))
			continue
		}
		if top {
			if before := m.positions[n]; before != nil {
				c.errorf(m, p, "%q and %q are the same argument", before[len(before)-1], k).WithHint("remove one of them")
			}
			m.positions[n] = p
		}
		if a != nil {
			out[n] = c.value(m, v, a.Type, p)
		} else {
			out[n] = c.blocks(m, inner, v, p)
		}
	}
	for _, n := range sets.Keys(b.Attributes) {
		if _, has := out[n]; b.Attributes[n].Required && !has {
			name := camel(n)
			if top {
				name = m.typ.fromProvider(n)
			}
			c.errorf(m, at, "%q is missing", name).WithHint("%s: …", name)
		}
	}
	for _, n := range sets.Keys(b.Blocks) {
		if _, has := out[n]; b.Blocks[n].Min > 0 && !has {
			name := camel(n)
			if top {
				name = m.typ.fromProvider(n)
			}
			c.errorf(m, at, "%q is missing", name).WithHint("%s: { … }", name)
		}
	}
	return out
}

// blocks builds one nested block, or a list of them.
func (c *checker) blocks(m *node, n *nestedBlock, v any, at []string) any {
	switch v := v.(type) {
	case map[string]any:
		b := c.block(m, n.Block, v, at, false)
		if n.Nesting == "single" {
			return b
		}
		return []any{b}
	case []any:
		if n.Nesting == "single" || n.Max == 1 && len(v) > 1 {
			c.errorf(m, at, "must be one object, not a list of %d", len(v)).WithHint("{ … }")
			return nil
		}
		out := []any{}
		for i, x := range v {
			p := append(slices.Clone(at), strconv.Itoa(i))
			o, ok := x.(map[string]any)
			if !ok {
				c.errorf(m, p, "must be an object, not %s", describe(x)).WithHint("{ … }")
				continue
			}
			out = append(out, c.block(m, n.Block, o, p, false))
		}
		return out
	}
	c.errorf(m, at, "must be an object, not %s", describe(v)).WithHint("{ … }, or a list of objects")
	return nil
}

// describe returns a description of a value for error messages.
func describe(v any) string {
	switch v := v.(type) {
	case token.Text:
		if s, ok := v.Literal(); ok {
			return fmt.Sprintf("the string %q", s)
		}
		return "a string"
	case float64:
		return fmt.Sprintf("the number %v", v)
	case bool:
		return fmt.Sprintf("%v", v)
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return "null"
}

// value checks a value against a type of the provider's schema and returns it converted.
func (c *checker) value(m *node, v any, typ any, at []string) any {
	wrong := func(want, hint string) any {
		c.errorf(m, at, "must be %s, not %s", want, describe(v)).WithHint("%s", hint)
		return nil
	}
	if t, ok := v.(token.Text); ok && len(t.Tokens()) > 0 {
		return c.text(m, t, typ, at)
	}
	switch typ := typ.(type) {
	case string:
		switch typ {
		case "string":
			switch v := v.(type) {
			case token.Text:
				return c.text(m, v, typ, at)
			case float64:
				return strconv.FormatFloat(v, 'f', -1, 64)
			}
			return wrong("a string", "'…'")
		case "number":
			if f, ok := v.(float64); ok {
				return f
			}
			if s, ok := literal(v); ok {
				if f, err := strconv.ParseFloat(s, 64); err == nil {
					return f
				}
			}
			return wrong("a number", "write it without quotes")
		case "bool":
			if b, ok := v.(bool); ok {
				return b
			}
			return wrong("true or false", "write it without quotes")
		}
		return c.anyValue(m, v, at)
	case []any:
		inner := any("any")
		if len(typ) > 1 {
			inner = typ[1]
		}
		switch typ[0] {
		case "list", "set":
			list, ok := v.([]any)
			if !ok {
				if _, isObject := inner.([]any); isObject { // one object instead of a list
					if o, ok := v.(map[string]any); ok {
						return []any{c.value(m, o, inner, at)}
					}
				}
				return wrong("a list", "[ … ]")
			}
			out := []any{}
			for i, x := range list {
				out = append(out, c.value(m, x, inner, append(slices.Clone(at), strconv.Itoa(i))))
			}
			return out
		case "map":
			o, ok := v.(map[string]any)
			if !ok {
				return wrong("an object", "{ key: 'value' }")
			}
			return object(o, func(k string, v any) any { return c.value(m, v, inner, append(slices.Clone(at), k)) })
		case "object":
			o, ok := v.(map[string]any)
			if !ok {
				return wrong("an object", "{ … }")
			}
			attrs, _ := inner.(map[string]any)
			out := map[string]any{}
			for _, k := range sets.Keys(o) {
				p := append(slices.Clone(at), k)
				t, ok := attrs[snake(k)]
				if !ok {
					known := []string{}
					for n := range attrs {
						known = append(known, camel(n))
					}
					c.errorf(m, p, "unknown field %q", k).WithHint("%s", suggest(k, known))
					continue
				}
				out[snake(k)] = c.value(m, o[k], t, p)
			}
			for n := range attrs { // Terraform requires all attributes
				if _, has := out[n]; !has {
					out[n] = nil
				}
			}
			return out
		case "tuple":
			return c.anyValue(m, v, at)
		}
	}
	return c.anyValue(m, v, at)
}

// anyValue returns a value without checking its type, with the tokens in its texts converted.
func (c *checker) anyValue(m *node, v any, at []string) any {
	switch v := v.(type) {
	case token.Text:
		return c.text(m, v, "any", at)
	case []any:
		out := []any{}
		for i, x := range v {
			out = append(out, c.anyValue(m, x, append(slices.Clone(at), strconv.Itoa(i))))
		}
		return out
	case map[string]any:
		return object(v, func(k string, x any) any { return c.anyValue(m, x, append(slices.Clone(at), k)) })
	}
	return v
}

// text converts a text to a Terraform template: the user's text is escaped, a reference to a
// resource in the same module becomes an expression, and a reference to anything else stays a token
// until its value is known.
func (c *checker) text(m *node, t token.Text, typ any, at []string) token.Text {
	out := token.Text{}
	for i, s := range t {
		if s.Token == nil {
			out = append(out, token.Segment{Lit: escape(s.Lit, i+1 < len(t))})
			continue
		}
		tok := *s.Token
		switch tok.Kind {
		case token.Secret:
			c.errorf(m, at, "a secret would be stored in Terraform's state in clear text").WithHint("keep it in AWS: use a parameter that you set by hand, or a managed password")
			continue
		case token.Lookup:
			c.errorf(m, at, "a lookup has a value on machines only, so a resource cannot use it")
			continue
		case token.Artifact:
			c.errorf(m, at, "an artifact can be used by services only").WithHint("use importstr to read a text file")
			continue
		}
		target := c.nodes[tok.Name]
		if target == nil { // a service, or something external
			out = append(out, token.Segment{Token: &tok})
			continue
		}
		attr, ok := c.output(m, target, tok, at)
		if !ok {
			continue
		}
		m.refs = append(m.refs, ref{target, attr.name, at})
		if target.module == m.module {
			if len(t) > 1 && !attr.scalar() {
				c.errorf(m, at, "%s is a list or an object, so it cannot be part of a string", tok).WithHint("use it as the whole value")
			}
			out = append(out, token.Segment{Lit: expression(target.id(), attr.name)})
			continue
		}
		if !attr.scalar() {
			c.errorf(m, at, "%s is a list or an object, so it can be read only inside its module", tok).
				WithHint("put both resources into one module: module: '%s'", target.module)
			continue
		}
		tok.Field, tok.Arg = "output", attr.name
		out = append(out, token.Segment{Token: &tok})
	}
	if l, ok := typ.([]any); ok && len(t) == 1 && (l[0] == "list" || l[0] == "set") && t[0].Token != nil && c.nodes[t[0].Token.Name] != nil && len(m.refs) > 0 {
		if last := m.refs[len(m.refs)-1]; last.target.schema != nil {
			if a := last.target.schema.Block.Attributes[last.attr]; a != nil && a.scalar() {
				c.errorf(m, at, "must be a list, but %s is a single value", t[0].Token).WithHint("[ … ]")
			}
		}
	}
	return mergeLiterals(out)
}

// outputAttr is an output of a resource. attribute is nil if its schema is unknown.
type outputAttr struct {
	name string
	*attribute
}

func (o outputAttr) scalar() bool { return o.attribute == nil || o.attribute.scalar() }

// output finds the output that a ref reads. It returns false after an error.
func (c *checker) output(m, target *node, tok token.Token, at []string) (outputAttr, bool) {
	name, hint := target.attr(tok)
	if hint != "" {
		c.errorf(m, at, "%s of type %s has no output %q", target.address(), target.resource.Type, tok.Arg).WithHint("%s", hint)
		return outputAttr{}, false
	}
	if target.schema == nil {
		return outputAttr{name: name}, true
	}
	a := target.schema.Block.Attributes[name]
	if a != nil && a.Sensitive {
		c.errorf(m, at, "%s is a secret, which defx does not pass on", tok).WithHint("use it inside the module, or let the service read it from AWS")
		return outputAttr{}, false
	}
	return outputAttr{name, a}, true
}

// attr returns the attribute that a ref reads, or a hint if there is none.
func (m *node) attr(tok token.Token) (name, hint string) {
	if tok.Field == "name" {
		return "name", m.suggestAttr("name")
	}
	name = m.typ.toProvider(tok.Arg)
	return name, m.suggestAttr(name)
}

// suggestAttr returns a hint if the resource has no attribute of that name, otherwise "".
func (m *node) suggestAttr(name string) string {
	if m.schema == nil && !identRE.MatchString(name) {
		return "letters, digits, _ and - only"
	}
	if m.schema == nil || m.schema.Block.Attributes[name] != nil {
		return ""
	}
	known := []string{}
	for n := range m.schema.Block.Attributes {
		known = append(known, m.typ.fromProvider(n))
	}
	return suggest(m.typ.fromProvider(name), known)
}
