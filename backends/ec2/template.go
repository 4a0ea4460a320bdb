package ec2

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// This file is the encoder of Terraform's JSON syntax. There every string is a template, and so is
// every key of an object that is a value: escape makes both literal. The names of blocks, arguments,
// resource types and attributes are no templates, and become part of expressions: they are refused
// unless they are identifiers.

var (
	// identRE matches the names of arguments and attributes.
	identRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)
	// typeRE matches the names of resource types.
	typeRE = regexp.MustCompile(`^[a-z][a-z0-9]*_[a-z0-9_]+$`)
	// sourceRE matches the source addresses of providers: [HOST/]NAMESPACE/TYPE.
	sourceRE = regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?/)?[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?/[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	// versionRE matches version constraints.
	versionRE = regexp.MustCompile(`^\s*(=|!=|>|>=|<|<=|~>)?\s*v?[0-9][0-9A-Za-z.+-]*\s*(,\s*(=|!=|>|>=|<|<=|~>)?\s*v?[0-9][0-9A-Za-z.+-]*\s*)*$`)
	// ignoreRE matches the arguments that a resource without a schema can ignore.
	ignoreRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
)

// metaArguments are fields that Terraform itself reads in every resource: they run programs, change
// what happens to the resource, or use another provider.
var metaArguments = []string{"//", "connection", "count", "depends_on", "dynamic", "for_each", "lifecycle", "provider", "provisioner"}

// checkArgumentNames refuses fields of a resource or provider without a schema that are no arguments.
func (c *checker) checkArgumentNames(m *node, fields map[string]any, at []string) {
	for _, k := range sets.Keys(fields) {
		p := append(slices.Clone(at), k)
		switch {
		case slices.Contains(metaArguments, k):
			c.errorf(m, p, "%q is not an argument of the provider, but one of Terraform itself", k).WithHint("remove it; fields of every resource are %s", strings.Join(commonFieldNames, ", "))
		case !identRE.MatchString(k):
			c.errorf(m, p, "%q is not the name of an argument", k).WithHint("letters, digits, _ and -")
		}
	}
}

// checkIgnored refuses ignored arguments of a resource without a schema that are no names.
func (c *checker) checkIgnored(m *node) {
	for i, name := range m.ignore {
		if !ignoreRE.MatchString(name) {
			c.errorf(m, m.at("ignoreChanges", strconv.Itoa(i)), "%q is not the name of an argument", name).WithHint("letters, digits, _ and -")
		}
	}
}

// expression returns a template that reads an attribute of a resource. id and attr were checked.
func expression(id, attr string) string { return "${" + id + "." + attr + "}" }

// object encodes the keys of an object that is a value, and its values with f.
func object(o map[string]any, f func(key string, v any) any) map[string]any {
	out := make(map[string]any, len(o))
	for _, k := range sets.Keys(o) {
		out[escape(k, false)] = f(k, o[k])
	}
	return out
}

// mergeLiterals merges adjacent literals.
func mergeLiterals(t token.Text) token.Text {
	out, _ := t.Map(func(t token.Token) (token.Text, error) { return token.Text{{Token: &t}}, nil })
	return out
}

// escape returns s such that a Terraform template reads it literally. more reports whether more
// text follows in the same template.
func escape(s string, more bool) string {
	if !more && !strings.Contains(s, "${") && !strings.Contains(s, "%{") {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		ch := s[i]
		next, last := byte(0), i+1 == len(s)
		if !last {
			next = s[i+1]
		}
		// ${ opens an expression and $${ is its escape, so doubling is ambiguous next to other $ characters.
		// An expression that yields the character is not.
		if (ch == '$' || ch == '%') && (next == '{' || next == '$' || next == '%' || last && more) {
			b.WriteString(`${"` + string(ch) + `"}`)
			continue
		}
		b.WriteByte(ch)
	}
	return b.String()
}
