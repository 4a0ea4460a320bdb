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

// Entry is what the central file says, libraries, overrides and transforms apart.
type Entry struct {
	Name      string              `json:"name" required:"true"` // none: the deployment's name; it is in the names of units on machines and of the state
	Machines  map[string]Machine  `json:"machines"`             // none: name → machine that units may be placed on
	Resources map[string]Resource `json:"resources"`            // none: name → infrastructure that is of no library
	Defaults  Defaults            `json:"defaults"`             // none: what functionalities get that leave it open
	Moved     map[string]string   `json:"moved"`                // none: old name → new one, of functionalities, libraries, replicas and resources: renamed, not deleted and created
}

// Defaults fill what a functionality leaves open.
type Defaults struct {
	Backend string          `json:"backend" default:"systemd"` // none: backend of functionalities that name none
	EC2     graph.Instances `json:"ec2"`                       // none: how services of the backend ec2 come to machines
	Place   graph.Place     `json:"place"`                     // none: each field of it counts for functionalities that leave that field open; `machine` only for those that say nothing of where
}

// Machine is a machine as the central file declares it.
type Machine struct {
	Connect  string            `json:"connect" required:"true"` // none: how it is reached: `local`, `dir:FOLDER` (a folder that stands for a machine) or `ssh://user@host:port`
	Address  string            `json:"address"`                 // none: what `.host` gives to readers on other machines; needed once there is one
	Made     token.Text        `json:"made"`                    // none: the output of a resource that gives its address: `defx.ref('vm').output('address')`; `connect` then says the user alone, `ssh://root@`
	HostKey  string            `json:"hostKey"`                 // none: pinned public key of its ssh server, in the form of authorized_keys
	Via      string            `json:"via"`                     // none: ssh address of a machine through which it is reached
	Docker   string            `json:"docker"`                  // none: where its docker engine listens, `unix:///PATH`; as the user's own docker if absent
	Pool     string            `json:"pool"`                    // none: the set of machines it belongs to; `place.pool` asks for it
	Roles    []string          `json:"roles"`                   // none: what it is for; `place.roles` asks for them
	Labels   map[string]string `json:"labels"`                  // none: free words about it; `place.labels` asks for them
	Capacity map[string]string `json:"capacity"`                // none: resource → amount that it has
	Location string            `json:"location"`                // none: a region, a rack: free text; `place.location` asks for it
}

// Functionality is one field of a library. It holds exactly one of `service`, `group`, `external`, `resource` and `loadBalancer`.
type Functionality struct {
	Service      *graph.Spec           `json:"service"`      // run: the one service that it is; one of `service`, `group`, `external`, `resource` and `loadBalancer`
	Group        map[string]Member     `json:"group"`        // run: name → member: services that are placed together and change alone
	External     *graph.External       `json:"external"`     // none by themselves: a name for what stands already, without defx; what reads it through a token changes with it
	Resource     *Resource             `json:"resource"`     // run: infrastructure that is not a process
	LoadBalancer *graph.Balance        `json:"loadBalancer"` // run: a balancer of the cloud, in front of services that EC2 runs
	Requires     Aliases               `json:"requires"`     // meta, if it stands on the same machine: what must be ready before it starts and whose values it may read; only a change of a value that it reads restarts it
	Connects     Aliases               `json:"connects"`     // none: what it may talk to and whose values it may read; adds no order, so cycles are allowed; `{ all: { port | label } }` selects services of the whole deployment
	After        []string              `json:"after"`        // meta, if it stands on the same machine: what starts before it if both start; order only
	Exports      map[string]token.Text `json:"exports"`      // none by themselves: name → text that others read by `.output(name)` and change with; its tokens mean what they mean here
	Host         *graph.Host           `json:"host"`         // meta: what its machines must have before it starts there; equal claims of several are one, unequal ones are refused
	Place        graph.Place           `json:"place"`        // none: where it may run, and how many of it
	Backend      string                `json:"backend"`      // run: what runs it; `defaults.backend` if absent
	FQDN         string                `json:"fqdn"`         // none: its name in DNS; where a zone for it is among the resources, a record leads to its balancer, or to all instances that it runs on
	Systemd      map[string]any        `json:"systemd"`      // run: what only the backend systemd reads: `hardening`, and directives by `unit` and `service`
	Docker       map[string]any        `json:"docker"`       // run: what only the backend docker reads: `base`, `at`, `network`, `aliases`, `ports`, `publish`, `push`, `capabilities`, `readOnly`, `init`, `volumes`, `config` and `host`
	EC2          map[string]any        `json:"ec2"`          // run: what only the backend ec2 reads
}

// Resource is infrastructure that is not a process: its type, and the fields of that type.
type Resource struct {
	Type   string         // "aws.s3"
	Fields map[string]any // without the type
}

func (r *Resource) decodeValue(d *decoder, v any, path []string) {
	m, ok := v.(map[string]any)
	if !ok {
		d.wrong(path, "an object", v)
		return
	}
	r.Fields = map[string]any{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		switch p := append(slices.Clone(path), k); {
		case m[k] == nil || strings.HasPrefix(k, "#"):
		case k == "type":
			r.Type, _ = d.str(m[k], p)
		default:
			d.numbers(m[k], p)
			r.Fields[k] = token.NewDoc(m[k], p, func(at []string, err error) { d.errorf(at, "%v", err) }).V
		}
	}
	if m["type"] == nil {
		d.errorf(path, "%q is missing", "type").WithHint("type: 'aws.s3'")
	}
}

// Member is one service of a group: placed with the others, changed alone.
type Member struct {
	Service  *graph.Spec    `json:"service" required:"true"` // run: the service that it is
	Requires Aliases        `json:"requires"`                // meta, if it stands on the same machine: as of a functionality; members of the same group are found by their name alone
	Connects Aliases        `json:"connects"`                // none: as of a functionality
	After    []string       `json:"after"`                   // meta, if it stands on the same machine: as of a functionality
	Systemd  map[string]any `json:"systemd"`                 // run: instead of the group's
	Docker   map[string]any `json:"docker"`                  // run: instead of the group's
	EC2      map[string]any `json:"ec2"`                     // run: instead of the group's
}

// Aliases names other functionalities: a list of names, or alias → name. In a
// list the last part of a name is its alias. A selection has no name.
type Aliases map[string]Target

// Target is what an alias stands for: a name, or, in connects, a selection.
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
			s, ok := d.str(x, p)
			if !ok {
				continue
			}
			alias := s[strings.LastIndexByte(s, '/')+1:]
			if before, twice := out[alias]; twice && before.Name != s {
				d.errorf(p, "%q and %q have the same alias %q", before.Name, s, alias).
					WithHint("write alias: name in an object")
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
					d.errorf(p, "a selection orders nothing").WithHint("name it in connects, or require a name")
					continue
				}
				var sel struct {
					All *graph.Selection `json:"all" required:"true"`
				}
				before := len(d.errs)
				d.decode(m, reflect.ValueOf(&sel).Elem(), p, "")
				if len(d.errs) == before && !sel.All.Valid() {
					d.errorf(p, "exactly one of port and label selects").WithHint("defx.all({ port: 'metrics' })")
				}
				out[alias] = Target{All: sel.All}
				continue
			}
			if s, ok := d.str(x, p); ok {
				out[alias] = Target{Name: s}
			}
		}
	default:
		d.wrong(path, "a list of names or an object alias: name", v)
	}
	*a = out
}

// foreign decodes types of other packages that have a shape of their own.
var foreign = map[reflect.Type]func(d *decoder, v any, path []string) any{
	reflect.TypeFor[token.Doc]():      decodeDoc,
	reflect.TypeFor[graph.Replicas](): decodeReplicas,
	reflect.TypeFor[graph.Setting]():  decodeSetting,
}

func decodeDoc(d *decoder, v any, path []string) any {
	d.numbers(v, path)
	return token.NewDoc(v, path, func(at []string, err error) {
		d.errorf(at, "%v", err).WithHint("a token may be joined with + and %%, but not cut, measured or changed")
	})
}

// numbers refuses integers that lost digits.
func (d *decoder) numbers(v any, path []string) {
	switch v := v.(type) {
	case float64:
		if v == math.Trunc(v) {
			d.integer(v, path)
		}
	case []any:
		for i, x := range v {
			d.numbers(x, append(slices.Clone(path), strconv.Itoa(i)))
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			d.numbers(v[k], append(slices.Clone(path), k))
		}
	}
}

// maxReplicas bounds a slip of the finger.
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
			d.errorf(append(slices.Clone(path), k), "%q is not a name", shown(k)).WithHint(nameHint)
			continue
		}
		out.Names = append(out.Names, k)
	}
	return out
}

// decodeSetting reads the value of a kernel setting, which many write as a number.
func decodeSetting(d *decoder, v any, path []string) any {
	if _, isNumber := v.(float64); isNumber {
		n, _ := d.integer(v, path)
		return graph.Setting(strconv.FormatInt(n, 10))
	}
	s, ok := d.str(v, path)
	if ok && (s == "" || strings.ContainsAny(s, "\n\r\x00")) {
		d.errorf(path, "%q is not the value of a kernel setting", s).WithHint("one line")
	}
	return graph.Setting(s)
}

// shorthand lets a scalar stand for an object with one field of it.
type shorthand struct {
	field string
	want  string // in words, with the object
	ok    func(any) bool
}

var shorthands = map[reflect.Type]shorthand{
	reflect.TypeFor[graph.File](): {"text", "a string or an object", isString},
	reflect.TypeFor[graph.Port](): {"port", "a number or an object { port, protocol }", isNumber},
}

func isString(v any) bool { _, ok := v.(string); return ok }
func isNumber(v any) bool { _, ok := v.(float64); return ok }

// pools lists the pools that machines are in.
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
