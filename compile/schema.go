package compile

import (
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/token"
)

// Entry is the entry file without libraries, overrides and transforms.
type Entry struct {
	Name         string                 `json:"name" required:"true"` // none: name of the deployment; part of the unit names on machines and of the state
	Environments map[string]Environment `json:"environments"`         // none: name → environment: the names that `-e` accepts. They are evaluated before everything else, so nothing in them may read the parameter `env`. Without this field there is one environment: the literal default of `env`, or else `default`
	Machines     map[string]Machine     `json:"machines"`             // none: name → machine on which services can be placed
	Resources    map[string]Resource    `json:"resources"`            // none: name → infrastructure that belongs to no library
	Defaults     Defaults               `json:"defaults"`             // none: defaults for functionalities
	Allow        map[string][]string    `json:"allow"`                // none: `lib/name` or `lib/*` → kinds of needs that are refused without it, such as `privileged` or `host-pid`; libraries and transforms cannot set it
	Moved        map[string]string      `json:"moved"`                // none: old name → new name, for functionalities, libraries, replicas and resources that were renamed, so that they are not deleted and created
}

// Environment is a named instance of the deployment with its own state and its own section in
// the lock file.
type Environment struct {
	From string `json:"from"` // none: the environment that tries changes first, and from which `defx lock --copy` takes pins
}

// Defaults are the values for functionalities that do not set the field.
type Defaults struct {
	Backend string          `json:"backend" default:"systemd"` // none: default of `backend`
	EC2     graph.Instances `json:"ec2"`                       // none: settings of the instances for the backend ec2
	Place   graph.Place     `json:"place"`                     // none: default of each field of `place`; `machine` applies only to functionalities that do not restrict their machines
}

// Machine is a machine of the deployment.
type Machine struct {
	Connect  string            `json:"connect" required:"true"` // none: how defx connects to it: `local`, `dir:FOLDER` (a folder in place of a machine) or `ssh://user@host:port`
	Address  string            `json:"address"`                 // none: what `.host` returns to services on other machines; required if one reads it
	Made     token.Text        `json:"made"`                    // none: resource output with its address: `defx.ref('vm').output('address')`; `connect` then has only the user, `ssh://root@`
	HostKey  string            `json:"hostKey"`                 // none: pinned public host key of its ssh server, in authorized_keys format
	Via      string            `json:"via"`                     // none: ssh address of a jump host
	Docker   string            `json:"docker"`                  // none: socket of its docker engine, `unix:///PATH`; that of the docker command if absent
	Pool     string            `json:"pool"`                    // none: the pool that it belongs to, for `place.pool`
	Roles    []string          `json:"roles"`                   // none: its roles, for `place.roles`
	Labels   map[string]string `json:"labels"`                  // none: its labels, for `place.labels`
	Capacity graph.Capacity    `json:"capacity"`                // none: cpu and memory for services; the sum of their `limits` does not exceed it
	Location string            `json:"location"`                // none: a region or rack, any text, for `place.location`
}

// Functionality is one field of a library. It has exactly one of `service`, `group`,
// `external`, `resource` and `loadBalancer`.
type Functionality struct {
	Service      *graph.Spec           `json:"service"`      // run: a single service
	Group        map[string]Member     `json:"group"`        // run: name → member: services that run on the same machine and change separately
	External     *graph.External       `json:"external"`     // none by itself: an endpoint that defx does not manage; services that read it through a token change with it
	Resource     *Resource             `json:"resource"`     // run: infrastructure that is not a process
	LoadBalancer *graph.Balance        `json:"loadBalancer"` // run: a cloud load balancer in front of services on EC2
	Requires     Aliases               `json:"requires"`     // meta, if on the same machine: what must be ready before it starts, and whose values it may read; it restarts only if a value that it reads changes
	Connects     Aliases               `json:"connects"`     // none: what it talks to, and whose values it may read; implies no order, so cycles are allowed; `{ all: { port | label } }` selects services of the whole deployment
	After        []string              `json:"after"`        // meta, if on the same machine: what starts before it if both start; implies nothing else
	Exports      map[string]token.Text `json:"exports"`      // none by itself: name → text that others read with `.output(name)`, and change with; values in it are resolved here, not where it is used
	Host         *graph.Host           `json:"host"`         // meta: settings that its machines must have before it starts; equal settings of several services are one, different values are an error
	Place        graph.Place           `json:"place"`        // none: where it runs, and how many replicas
	Backend      string                `json:"backend"`      // run: what runs it; `defaults.backend` if absent
	FQDN         string                `json:"fqdn"`         // none: its DNS name; if a zone for it is among the resources, a record points to its load balancer, or to all its instances
	Systemd      map[string]any        `json:"systemd"`      // run: options of the backend systemd: `hardening`, and directives in `unit` and `service`
	Docker       map[string]any        `json:"docker"`       // run: options of the backend docker: `base`, `at`, `network`, `aliases`, `ports`, `publish`, `push`, `capabilities`, `readOnly`, `init`, `volumes`, `config` and `host`
	EC2          map[string]any        `json:"ec2"`          // run: options of the backend ec2
}

// Resource is infrastructure that is not a process: a type, and the fields of that type.
type Resource struct {
	Type   string         // "aws.s3"
	Fields map[string]any // without the type
}

func (r *Resource) decodeValue(d *decoder, v any, path []string) {
	m, ok := v.(map[string]any)
	if !ok {
		d.wrongType(path, "an object", v)
		return
	}
	r.Fields = map[string]any{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		switch p := append(slices.Clone(path), k); {
		case m[k] == nil || strings.HasPrefix(k, "#"):
		case k == "type":
			r.Type, _ = d.decodeString(m[k], p)
		default:
			d.checkNumbers(m[k], p)
			r.Fields[k] = token.NewDoc(m[k], p, func(at []string, err error) { d.errorf(at, "%v", err) }).V
		}
	}
	if m["type"] == nil {
		d.errorf(path, "%q is missing", "type").WithHint("type: 'aws.s3'")
	}
}

// Member is one service of a group. Members run on the same machine and change separately.
type Member struct {
	Service  *graph.Spec    `json:"service" required:"true"` // run: the service
	Requires Aliases        `json:"requires"`                // meta, if on the same machine: as for a functionality; members of the same group have short names
	Connects Aliases        `json:"connects"`                // none: as for a functionality
	After    []string       `json:"after"`                   // meta, if on the same machine: as for a functionality
	Systemd  map[string]any `json:"systemd"`                 // run: replaces that of the group
	Docker   map[string]any `json:"docker"`                  // run: replaces that of the group
	EC2      map[string]any `json:"ec2"`                     // run: replaces that of the group
}

// Aliases are references to other functionalities: a list of names, or alias → name. In a
// list, the alias is the last part of the name. A selection has no name.
type Aliases map[string]Target

// Target is the target of an alias: a name or, in connects, a selection.
type Target struct {
	Name string
	All  *graph.Selection
}

func (a *Aliases) decodeValue(d *decoder, v any, path []string) {
	out := Aliases{}
	switch v := v.(type) {
	case []any:
		for i, x := range v {
			p := append(slices.Clone(path), strconv.Itoa(i))
			s, ok := d.decodeString(x, p)
			if !ok {
				continue
			}
			alias := s[strings.LastIndexByte(s, '/')+1:]
			if before, twice := out[alias]; twice && before.Name != s {
				d.errorf(p, "%q and %q have the same alias %q", before.Name, s, alias).
					WithHint("use an object instead: { alias: name }")
				continue
			}
			out[alias] = Target{Name: s}
		}
	case map[string]any:
		for _, alias := range slices.Sorted(maps.Keys(v)) {
			x, p := v[alias], append(slices.Clone(path), alias)
			if x == nil || strings.HasPrefix(alias, "#") {
				continue
			}
			if token.Reserved(alias) {
				d.errorf(path, "a token cannot be the name of a field").WithHint("use the token in a value")
				continue
			}
			if m, isObject := x.(map[string]any); isObject {
				if path[len(path)-1] != "connects" {
					d.errorf(p, "a selection implies no order").WithHint("use it in connects, or require a functionality by name")
					continue
				}
				var sel struct {
					All *graph.Selection `json:"all" required:"true"`
				}
				before := len(d.errs)
				d.decode(m, reflect.ValueOf(&sel).Elem(), p, "")
				if len(d.errs) == before && !sel.All.Valid() {
					d.errorf(p, "exactly one of port and label is required").WithHint("defx.all({ port: 'metrics' })")
				}
				out[alias] = Target{All: sel.All}
				continue
			}
			if s, ok := d.decodeString(x, p); ok {
				out[alias] = Target{Name: s}
			}
		}
	default:
		d.wrongType(path, "a list of names or an object alias: name", v)
	}
	*a = out
}

// customDecoders decode types of other packages that have their own decoding.
var customDecoders = map[reflect.Type]func(d *decoder, v any, path []string) any{
	reflect.TypeFor[token.Doc]():      decodeDoc,
	reflect.TypeFor[graph.Replicas](): decodeReplicas,
	reflect.TypeFor[graph.Setting]():  decodeSetting,
}

func decodeDoc(d *decoder, v any, path []string) any {
	d.checkNumbers(v, path)
	return token.NewDoc(v, path, func(at []string, err error) {
		d.errorf(at, "%v", err).WithHint("tokens can only be concatenated or formatted (+ and %%); std.length, substrings and == do not work on them")
	})
}

// checkNumbers reports integers that have lost digits.
func (d *decoder) checkNumbers(v any, path []string) {
	switch v := v.(type) {
	case float64:
		if v == math.Trunc(v) {
			d.integer(v, path)
		}
	case []any:
		for i, x := range v {
			d.checkNumbers(x, append(slices.Clone(path), strconv.Itoa(i)))
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			d.checkNumbers(v[k], append(slices.Clone(path), k))
		}
	}
}

// maxReplicas protects against typing errors.
const maxReplicas = 10000

func decodeReplicas(d *decoder, v any, path []string) any {
	var out graph.Replicas
	m, ok := v.(map[string]any)
	if !ok {
		n, ok := d.integer(v, path)
		if ok && (n < 0 || n > maxReplicas) {
			d.errorf(path, "%d is not between 0 and %d", n, maxReplicas).WithHint("a number from 0 to %d", maxReplicas)
		}
		out.Count = int(n)
		return out
	}
	out.Names = []string{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] == nil || strings.HasPrefix(k, "#") {
			continue
		}
		if !graph.ValidName(k) {
			d.errorf(append(slices.Clone(path), k), "%q is not a name", display(k)).WithHint(nameHint)
			continue
		}
		out.Names = append(out.Names, k)
	}
	return out
}

// decodeSetting decodes the value of a kernel setting, which may be written as a number.
func decodeSetting(d *decoder, v any, path []string) any {
	if _, isNumber := v.(float64); isNumber {
		n, _ := d.integer(v, path)
		return graph.Setting(strconv.FormatInt(n, 10))
	}
	s, ok := d.decodeString(v, path)
	if ok && (s == "" || strings.ContainsAny(s, "\n\r\x00")) {
		d.errorf(path, "%q is not the value of a kernel setting", s).WithHint("it must be one line")
	}
	return graph.Setting(s)
}

// shorthand is a scalar that may be written instead of an object with one field.
type shorthand struct {
	field string
	want  string // accepted types, for messages
	ok    func(any) bool
}

var shorthands = map[reflect.Type]shorthand{
	reflect.TypeFor[graph.File](): {"text", "a string or an object", isString},
	reflect.TypeFor[graph.Port](): {"port", "a number or an object { port, protocol }", isNumber},
	reflect.TypeFor[graph.Dir]():  {"name", "a string or an object", isString},
}

func isString(v any) bool { _, ok := v.(string); return ok }
func isNumber(v any) bool { _, ok := v.(float64); return ok }

// pools returns the pools of all machines.
func (e *Entry) pools() []string {
	var out []string
	for _, m := range e.Machines {
		if m.Pool != "" {
			out = append(out, m.Pool)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
