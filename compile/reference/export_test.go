package reference

import (
	"fmt"
	"strings"
)

// DeploymentsOfExamples gives, for each field, an entry file that holds its example.
func DeploymentsOfExamples() (out map[string]string, lacking []string) {
	types := Types()
	all := steps(types)
	out = map[string]string{}
	known := map[string]bool{}
	for _, t := range types {
		for _, f := range t.Fields {
			name := t.Name + "." + f.Name
			known[name] = true
			eg, ok := examples[name]
			if !ok {
				lacking = append(lacking, name+" has no example")
				continue
			}
			body := holder(eg, f.Name, false, eg.value)
			way := paths(t.Name, all)[0]
			for i := len(way) - 1; i >= 0; i-- {
				s := way[i]
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
			out[name] = strings.Replace(base, "PATCH", body, 1)
		}
	}
	for name := range examples {
		if !known[name] {
			lacking = append(lacking, name+" is an example of no field")
		}
	}
	return out, lacking
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
  machines: { web1: { connect: 'dir:./web1' } },
  libs: {
    postgres: { main: { service: { command: ['/usr/bin/postgres'], ports: { sql: 5432 } } } },
    shop: {
      db: { service: { command: ['/usr/bin/db'], ports: { sql: 5433 } } },
      web: { requires: { db: 'postgres/main' }, service: { command: ['/usr/bin/web'], ports: { http: { port: 80 } } } },
    },
  },
} + PATCH
`
