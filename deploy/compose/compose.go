// Package compose turns a compose file into a library of functionalities.
//
// It knows the compose specification and the contract's words for the same. It
// refuses to know what becomes of the library. Invariants: every field of a
// service is either carried over or listed with a reason; equal files give equal
// text.
//
// It is longer than most packages because the specification has a field for
// everything: service.go goes through them in its order.
package compose

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/defx-dev/defx/compile/graph"
)

// UnsupportedField is something that was not carried over.
type UnsupportedField struct {
	Service string `json:"service,omitempty"` // empty: of the whole file
	Field   string `json:"field"`
	Why     string `json:"why"`
}

// Import is what a compose file became.
type Import struct {
	Name        string             // of the project
	Library     string             // Jsonnet
	Unsupported []UnsupportedField // sorted
	Secrets     []string           // names that must be on the machine
	Images      []string           // references without a digest
}

// Read reads a compose file, and those that it includes and extends. env are
// the variables that it may use. out is the folder in which the library will
// lie: paths in it start there.
func Read(ctx context.Context, file, out string, env, profiles []string) (*Import, error) {
	o, err := cli.NewProjectOptions([]string{file}, cli.WithEnv(env), cli.WithDotEnv, cli.WithProfiles(profiles), cli.WithoutEnvironmentResolution)
	if err != nil {
		return nil, err
	}
	p, err := o.LoadProject(ctx)
	if err != nil {
		return nil, err
	}
	if p, err = p.WithServicesEnvironmentResolved(true); err != nil {
		return nil, err
	}
	if out, err = filepath.Abs(out); err != nil {
		return nil, err
	}
	m := &importer{project: p, out: out, names: map[string]string{}, images: map[string]bool{}, secrets: map[string]bool{}}
	return m.run()
}

type importer struct {
	project *types.Project
	out     string
	names   map[string]string // of compose → ours
	left    []UnsupportedField
	images  map[string]bool
	secrets map[string]bool
	service string // of which is spoken
}

func (m *importer) leave(field, format string, args ...any) {
	m.left = append(m.left, UnsupportedField{m.service, field, fmt.Sprintf(format, args...)})
}

var wrongRE = regexp.MustCompile(`[^a-z0-9-]+`)

// name makes a name of ours of one of compose.
func (m *importer) name(s string) string {
	n := strings.Trim(wrongRE.ReplaceAllString(strings.ToLower(s), "-"), "-")
	if len(n) > 40 {
		n = strings.Trim(n[:40], "-")
	}
	if !graph.ValidName(n) {
		n = "service"
	}
	taken := slices.Collect(maps.Values(m.names))
	for i, base := 2, n; slices.Contains(taken, n); i++ {
		n = fmt.Sprintf("%s-%d", base, i)
	}
	return n
}

func (m *importer) run() (*Import, error) {
	for _, s := range slices.Sorted(maps.Keys(m.project.Services)) {
		m.names[s] = m.name(s)
	}
	library := object{}
	for _, s := range slices.Sorted(maps.Keys(m.project.Services)) {
		m.service = s
		f, err := m.functionality(m.project.Services[s])
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", s, err)
		}
		library[m.names[s]] = f
	}
	m.service = ""
	m.rest()
	slices.SortFunc(m.left, func(a, b UnsupportedField) int {
		return strings.Compare(a.Service+"\x00"+a.Field+a.Why, b.Service+"\x00"+b.Field+b.Why)
	})
	m.left = slices.Compact(m.left)
	text := "// Made of " + filepath.Base(m.project.ComposeFiles[0]) + " by defx import compose.\n" +
		"local defx = import 'defx/v1.libsonnet';\n" + write(library, "") + "\n"
	return &Import{Name: m.name(m.project.Name), Library: text, Unsupported: m.left,
		Images: slices.Sorted(maps.Keys(m.images)), Secrets: slices.Sorted(maps.Keys(m.secrets))}, nil
}

// rest looks at what stands beside services.
func (m *importer) rest() {
	for _, name := range slices.Sorted(maps.Keys(m.project.Networks)) {
		n := m.project.Networks[name]
		if name != "default" {
			m.leave("networks."+name, "a deployment has one network, in which all of its services are")
			continue
		}
		if raw, _ := json.Marshal(types.NetworkConfig{Driver: n.Driver, DriverOpts: n.DriverOpts, Ipam: n.Ipam, External: n.External, Internal: n.Internal, EnableIPv6: n.EnableIPv6}); string(raw) != "{}" && string(raw) != `{"ipam":{}}` {
			m.leave("networks.default", "the network of a deployment is made by defx: a bridge without options")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.project.Volumes)) {
		v := m.project.Volumes[name]
		switch {
		case bool(v.External):
			m.leave("volumes."+name, "it is external, and defx makes one of its own")
		case v.Driver != "" && v.Driver != "local" || len(v.DriverOpts) > 0:
			m.leave("volumes."+name, "volumes have no driver and no options of their own")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.project.DisabledServices)) {
		m.leave("services."+name, "its profiles are not active: --profile takes them along")
	}
	for _, name := range slices.Sorted(maps.Keys(m.project.Models)) {
		m.leave("models."+name, "defx runs no models")
	}
	for _, name := range slices.Sorted(maps.Keys(m.project.Jobs)) {
		m.leave("jobs."+name, "write it as a functionality with schedule")
	}
}

// object, list and expression are what Jsonnet is written of, beside what JSON knows.
type object map[string]any
type list []any
type expression string

var plainRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

var keywords = []string{"assert", "else", "error", "false", "for", "function", "if", "import", "importstr", "importbin", "in", "local", "null", "tailstrict", "then", "self", "super", "true"}

func write(v any, indent string) string {
	switch v := v.(type) {
	case expression:
		return string(v)
	case object:
		if len(v) == 0 {
			return "{}"
		}
		var b strings.Builder
		b.WriteString("{\n")
		for _, k := range slices.Sorted(maps.Keys(v)) {
			key := k
			if !plainRE.MatchString(k) || slices.Contains(keywords, k) {
				key = quote(k)
			}
			fmt.Fprintf(&b, "%s  %s: %s,\n", indent, key, write(v[k], indent+"  "))
		}
		return b.String() + indent + "}"
	case list:
		out := make([]string, len(v))
		for i, x := range v {
			out[i] = write(x, indent+"  ")
		}
		if s := "[" + strings.Join(out, ", ") + "]"; len(s) < 100 && !strings.Contains(s, "\n") {
			return s
		}
		return "[\n" + indent + "  " + strings.Join(out, ",\n"+indent+"  ") + ",\n" + indent + "]"
	case string:
		return quote(v)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return "error " + quote(err.Error())
	}
	return string(raw)
}

func quote(s string) string {
	raw, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	inner := strings.ReplaceAll(string(raw[1:len(raw)-1]), `\"`, `"`)
	if strings.Contains(inner, "'") {
		return string(raw)
	}
	return "'" + inner + "'"
}

func strs[T ~string](in []T) list {
	out := list{}
	for _, s := range in {
		out = append(out, string(s))
	}
	return out
}
