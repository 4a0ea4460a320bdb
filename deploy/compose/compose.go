// Package compose turns a compose file into a library of functionalities.
//
// It knows the compose specification and the fields of the contract that mean the
// same. It refuses to know what the library is used for. Invariants: every field
// of a service is either converted or listed with a reason; equal files give
// equal text.
//
// It is longer than most packages because the specification has many fields:
// service.go converts the general ones, process.go those about running and
// resources, storage.go files and volumes, and network.go ports and networks.
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
	"github.com/defx-dev/defx/internal/sets"
)

// UnsupportedField is a field that was not converted, or not exactly.
type UnsupportedField struct {
	Service string `json:"service,omitempty"` // empty: the field is not in a service
	Field   string `json:"field"`
	Why     string `json:"why"`
}

// Import is a converted compose file.
type Import struct {
	Name        string             // of the compose project, as a valid name
	Library     string             // Jsonnet
	Unsupported []UnsupportedField // sorted
	Secrets     []string           // names of secrets that must be on the machine
	Images      []string           // image references without a digest
}

// Read converts a compose file, with the files that it includes and extends. env
// has the variables that it may use, as KEY=VALUE. out is the folder of the
// library, to which paths in it are relative.
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

// importer is the state of one conversion.
type importer struct {
	project     *types.Project
	out         string
	names       map[string]string // compose service → functionality
	unsupported []UnsupportedField
	images      map[string]bool
	secrets     map[string]bool
	service     string // being converted; "" outside of services
}

// report records that a field of the present service was not converted, and why.
func (m *importer) report(field, format string, args ...any) {
	m.unsupported = append(m.unsupported, UnsupportedField{m.service, field, fmt.Sprintf(format, args...)})
}

var invalidRE = regexp.MustCompile(`[^a-z0-9-]+`)

// name returns a valid and unused functionality name for a compose name.
func (m *importer) name(s string) string {
	n := strings.Trim(invalidRE.ReplaceAllString(strings.ToLower(s), "-"), "-")
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
	for _, s := range sets.Keys(m.project.Services) {
		m.names[s] = m.name(s)
	}
	library := object{}
	for _, s := range sets.Keys(m.project.Services) {
		m.service = s
		f, err := m.functionality(m.project.Services[s])
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", s, err)
		}
		library[m.names[s]] = f
	}
	m.service = ""
	m.topLevel()
	slices.SortFunc(m.unsupported, func(a, b UnsupportedField) int {
		return strings.Compare(a.Service+"\x00"+a.Field+a.Why, b.Service+"\x00"+b.Field+b.Why)
	})
	m.unsupported = slices.Compact(m.unsupported)
	text := "// Generated from " + filepath.Base(m.project.ComposeFiles[0]) + " by defx import compose.\n" +
		"local defx = import 'defx/v1.libsonnet';\n" + write(library, "") + "\n"
	return &Import{Name: m.name(m.project.Name), Library: text, Unsupported: m.unsupported,
		Images: sets.Keys(m.images), Secrets: sets.Keys(m.secrets)}, nil
}

// topLevel reports what is not supported outside of services.
func (m *importer) topLevel() {
	for _, name := range sets.Keys(m.project.Networks) {
		n := m.project.Networks[name]
		if name != "default" {
			m.report("networks."+name, "a deployment has one network with all of its services")
			continue
		}
		if raw, _ := json.Marshal(types.NetworkConfig{Driver: n.Driver, DriverOpts: n.DriverOpts, Ipam: n.Ipam, External: n.External, Internal: n.Internal, EnableIPv6: n.EnableIPv6}); string(raw) != "{}" && string(raw) != `{"ipam":{}}` {
			m.report("networks.default", "defx creates the network of a deployment, as a bridge without options")
		}
	}
	for _, name := range sets.Keys(m.project.Volumes) {
		v := m.project.Volumes[name]
		switch {
		case bool(v.External):
			m.report("volumes."+name, "external volumes are not supported: defx creates a new one")
		case v.Driver != "" && v.Driver != "local" || len(v.DriverOpts) > 0:
			m.report("volumes."+name, "drivers and options of volumes are not supported")
		}
	}
	for _, name := range sets.Keys(m.project.DisabledServices) {
		m.report("services."+name, "its profiles are not active: --profile includes them")
	}
	for _, name := range sets.Keys(m.project.Models) {
		m.report("models."+name, "defx does not run models")
	}
	for _, name := range sets.Keys(m.project.Jobs) {
		m.report("jobs."+name, "write it as a functionality with schedule")
	}
}

// object, list and expression are Jsonnet values for write, in addition to strings
// and values of JSON.
type object map[string]any
type list []any
type expression string

// plainRE matches field names that need no quotes, unless they are keywords.
var plainRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

var keywords = []string{"assert", "else", "error", "false", "for", "function", "if", "import", "importstr", "importbin", "in", "local", "null", "tailstrict", "then", "self", "super", "true"}

// write returns v as Jsonnet.
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
		for _, k := range sets.Keys(v) {
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

// quote returns s as a Jsonnet string, in single quotes if it contains none.
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

// stringList returns a list of strings.
func stringList[T ~string](in []T) list {
	out := list{}
	for _, s := range in {
		out = append(out, string(s))
	}
	return out
}
