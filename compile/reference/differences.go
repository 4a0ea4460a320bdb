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
	In      string // the object with the field
	Without string // entry file without the field
	With    string // entry file with the example of the field
}

// Differences returns a pair of entry files for the example of each field, for tests of what a
// field does. The error names fields without an example, and examples without a field.
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
			out = append(out, Difference{Field: f, In: t.Name, Without: entryFile(way, "{ "+eg.with+" }"), With: entryFile(way, holder(eg, f.Name, false, eg.value))})
		}
	}
	for name := range examples {
		if !known[name] {
			lacking = append(lacking, fmt.Errorf("%s is an example of no field", name))
		}
	}
	return out, errors.Join(lacking...)
}

// entryFile returns an entry file in which body is at the end of path.
func entryFile(way []step, body string) string {
	for _, s := range slices.Backward(way) {
		on := examples[s.in+"."+s.field]
		for n := range s.maps {
			key := on.key
			if s.maps == 2 && n == 0 {
				key = "web" // of libs: the functionality in the library
			}
			body = fmt.Sprintf("{ '%s'+: %s }", key, body)
		}
		if s.list {
			body = "[" + body + "]"
		}
		body = holder(on, s.field, !s.list, body)
	}
	if strings.Contains(body, "defx.ref('vm')") { // the example reads a resource
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

// base is the deployment to which the examples are added.
const base = `local defx = import 'defx/v1.libsonnet';
function(env='prod') {
  name: 'base',
  environments: { dev: {}, prod: {} },
  machines: {
    ['web%d' % i]: { connect: 'dir:./web%d' % i, address: '10.0.0.%d' % i, pool: 'prod', roles: ['web'], labels: { disk: 'nvme' }, location: 'eu-west' }
    for i in [1, 2, 3]
  },
  defaults: { place: { machine: 'web1' } },
  libs: {
    postgres: { main: { service: { command: ['/usr/bin/postgres'], ports: { sql: 5432 }, user: 'postgres', dirs: { state: 'data' } } } },
    shop: {
      db: { service: { command: ['/usr/bin/db'], ports: { sql: 5433 } } },
      web: { requires: { db: 'postgres/main' }, service: { command: ['/usr/bin/web'], ports: { http: { port: 3000 } } } },
    },
  },
} + PATCH
`
