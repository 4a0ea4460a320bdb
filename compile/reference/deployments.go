package reference

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Difference is a pair of entry files that differ in one field.
type Difference struct {
	Field   Field
	In      string // the object that holds it
	Without string // the entry file without the field
	With    string // and with its example
}

// Differences gives entry files that show each field by its example, for tests
// of what a field does. The error names fields without an example, and examples of no field.
func Differences() ([]Difference, error) {
	types := Types()
	all := steps(types)
	var out []Difference
	var lacking []error
	known := map[string]bool{}
	for _, t := range types {
		for _, f := range t.Fields {
			name := t.Name + "." + f.Name
			known[name] = true
			eg, ok := examples[name]
			if !ok {
				lacking = append(lacking, fmt.Errorf("%s has no example", name))
				continue
			}
			way := paths(t.Name, all)[0]
			out = append(out, Difference{Field: f, In: t.Name, Without: entry(way, "{ "+eg.with+" }"), With: entry(way, holder(eg, f.Name, false, eg.value))})
		}
	}
	for name := range examples {
		if !known[name] {
			lacking = append(lacking, fmt.Errorf("%s is an example of no field", name))
		}
	}
	return out, errors.Join(lacking...)
}

// entry is an entry file with an object at the end of a way.
func entry(way []step, body string) string {
	for _, s := range slices.Backward(way) {
		on := examples[s.in+"."+s.field]
		for n := range s.maps {
			key := on.key
			if s.maps == 2 && n == 0 {
				key = "web" // of libs: library, then functionality
			}
			body = fmt.Sprintf("{ '%s'+: %s }", key, body)
		}
		if s.list {
			body = "[" + body + "]"
		}
		body = holder(on, s.field, !s.list, body)
	}
	if strings.Contains(body, "defx.ref('vm')") { // an example that reads a resource needs one
		body += " + { resources: { vm: { type: 'external.resource', provider: './providers/vm' } } }"
	}
	return strings.Replace(base, "PATCH", body, 1)
}

func holder(eg example, field string, add bool, value string) string {
	plus, with := "", ""
	if add {
		plus = "+"
	}
	if eg.with != "" {
		with = eg.with + ", "
	}
	return fmt.Sprintf("{ %s%s%s: %s }", with, field, plus, value)
}

// base is a deployment to which the examples are added.
const base = `local defx = import 'defx/v1.libsonnet';
{
  name: 'base',
  machines: {
    ['web%d' % i]: { connect: 'dir:./web%d' % i, address: '10.0.0.%d' % i, pool: 'prod', roles: ['web'], labels: { disk: 'nvme' }, location: 'eu-west' }
    for i in [1, 2, 3]
  },
  defaults: { place: { machine: 'web1' } },
  libs: {
    postgres: { main: { service: { command: ['/usr/bin/postgres'], ports: { sql: 5432 } } } },
    shop: {
      db: { service: { command: ['/usr/bin/db'], ports: { sql: 5433 } } },
      web: { requires: { db: 'postgres/main' }, service: { command: ['/usr/bin/web'], ports: { http: { port: 3000 } } } },
    },
  },
} + PATCH
`
