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
	"unicode"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
)

// UnsupportedField is a field that was not converted, or not exactly.
type UnsupportedField struct {
	Service string `json:"service,omitempty"` // empty: the field is not in a service
	Field   string `json:"field"`
	Why     string `json:"why"`
}

// Need is a right that a service asks for, beyond running as a container.
type Need struct {
	Service string `json:"service"` // functionality
	Kind    string `json:"kind"`    // as the entry file's allow names it
	Need    string `json:"need"`
	Denied  bool   `json:"denied"` // it is an error until the entry file allows it
}

// Import is a converted compose file.
type Import struct {
	Name        string             // of the compose project, as a valid name
	Library     string             // Jsonnet
	Unsupported []UnsupportedField // sorted
	Secrets     []string           // names of secrets that must be on the machine
	Images      []string           // image references without a digest
	Needs       []Need             // rights that the entry file must allow, or that lint warns about
}

// Options says what an import may read.
type Options struct {
	Out      string   // folder of the library, to which paths in it are relative
	Vars     []string // values of variables, as NAME=VALUE
	FromHere bool     // also the variables of this process and of the file .env of the project
	Profiles []string // services of these are converted too
}

// Read converts a compose file, with the files that it includes and extends. It
// reads no file outside of the folder of the compose file, and no variable that
// the options do not allow.
func Read(ctx context.Context, file string, in Options) (*Import, error) {
	inherited, err := checkFiles(ctx, file)
	if err != nil {
		return nil, err
	}
	vars := &variables{given: map[string]bool{}, missing: map[string]bool{}, copied: map[string]bool{}}
	for _, v := range in.Vars {
		name, _, is := strings.Cut(v, "=")
		if !is || !keyRE.MatchString(name) {
			return nil, diag.Errorf("", "%q is not a variable with a value", v).WithHint("--var NAME=VALUE")
		}
		vars.given[name] = true
	}
	options := []cli.ProjectOptionsFn{cli.WithEnv(in.Vars)}
	if in.FromHere {
		options = append(options, cli.WithOsEnv, cli.WithEnvFiles(), cli.WithDotEnv)
	}
	options = append(options, cli.WithProfiles(in.Profiles), cli.WithoutEnvironmentResolution,
		cli.WithLoadOptions(func(o *loader.Options) {
			if o.Interpolate != nil {
				o.Interpolate.Substitute = vars.substitute
			}
		}))
	o, err := cli.NewProjectOptions([]string{file}, options...)
	if err != nil {
		return nil, err
	}
	p, err := o.LoadProject(ctx)
	if missing := vars.err(); missing != nil { // which may also be why the file is not valid
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	for _, name := range inherited {
		if _, known := p.Environment[name]; known && !vars.given[name] {
			vars.copied[name] = true
		}
	}
	if p, err = p.WithServicesEnvironmentResolved(true); err != nil {
		return nil, err
	}
	out, err := filepath.Abs(in.Out)
	if err != nil {
		return nil, err
	}
	m := &importer{project: p, out: out, vars: vars, names: map[string]string{}, images: map[string]bool{}, secrets: map[string]bool{}}
	return m.run()
}

// importer is the state of one conversion.
type importer struct {
	project     *types.Project
	out         string
	vars        *variables
	names       map[string]string // compose service → functionality
	unsupported []UnsupportedField
	images      map[string]bool
	secrets     map[string]bool
	needs       []Need
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
		if err := m.listNeeds(m.names[s], f); err != nil {
			return nil, fmt.Errorf("service %s: %w", s, err)
		}
	}
	m.service = ""
	m.topLevel()
	for _, name := range sets.Keys(m.vars.copied) {
		m.report("${"+name+"}", "its present value was copied into the library")
	}
	slices.SortFunc(m.unsupported, func(a, b UnsupportedField) int {
		return strings.Compare(a.Service+"\x00"+a.Field+a.Why, b.Service+"\x00"+b.Field+b.Why)
	})
	m.unsupported = slices.Compact(m.unsupported)
	from := strings.Map(func(r rune) rune { // the name of a file may contain a line end, which would end the comment
		if unicode.IsControl(r) {
			return '_'
		}
		return r
	}, filepath.Base(m.project.ComposeFiles[0]))
	text := "// Generated from " + from + " by defx import compose.\n" +
		"local defx = import 'defx/v1.libsonnet';\n" + write(library, "") + "\n"
	return &Import{Name: m.name(m.project.Name), Library: text, Unsupported: m.unsupported,
		Images: sets.Keys(m.images), Secrets: sets.Keys(m.secrets), Needs: m.needs}, nil
}

// listNeeds adds the rights that a functionality asks for, as the backend that runs it sees them.
func (m *importer) listNeeds(name string, f object) error {
	raw, err := json.Marshal(f["docker"])
	if err != nil {
		return err
	}
	service, _ := f["service"].(object)
	user, _ := service["user"].(string)
	a := graph.Address{Lib: "x", Name: name, Replica: graph.FirstReplica}
	_, effects, _ := docker.New().Render(backends.Input{Deployment: "x", Environment: "x", Service: &graph.Service{Address: a, Options: raw,
		Spec: graph.Spec{Image: "x@sha256:" + strings.Repeat("0", 64), User: user}}}) // the plan of the library reports errors
	for _, n := range effects.Needs {
		if denied := n.Kind.Rule().Denied; denied || n.Warned() {
			m.needs = append(m.needs, Need{name, string(n.Kind), n.String(), denied})
		}
	}
	return nil
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
