package compile

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/lang/token"
)

// Entry is what the central file says, libraries and overrides apart.
type Entry struct {
	Name     string             `json:"name" required:"true"`
	Machines map[string]Machine `json:"machines"`
	Defaults Defaults           `json:"defaults"`
}

// Defaults fill what a functionality leaves open.
type Defaults struct {
	Backend string      `json:"backend" default:"systemd"`
	Place   graph.Place `json:"place"`
}

// Machine is a machine as the central file declares it.
type Machine struct {
	Connect  string            `json:"connect" required:"true"`
	Address  string            `json:"address"`
	HostKey  string            `json:"hostKey"`
	Via      string            `json:"via"`
	Pool     string            `json:"pool"`
	Roles    []string          `json:"roles"`
	Labels   map[string]string `json:"labels"`
	Capacity map[string]string `json:"capacity"`
	Location string            `json:"location"`
}

// Functionality is one field of a library. It holds exactly one of service and group.
type Functionality struct {
	Service  *graph.Spec       `json:"service"`
	Group    map[string]Member `json:"group"`
	Requires Aliases           `json:"requires"`
	Connects Aliases           `json:"connects"`
	After    []string          `json:"after"`
	Place    graph.Place       `json:"place"`
	Backend  string            `json:"backend"`
	FQDN     string            `json:"fqdn"`
	Systemd  map[string]any    `json:"systemd"`
	Docker   map[string]any    `json:"docker"`
	EC2      map[string]any    `json:"ec2"`
}

// Member is one service of a group: placed with the others, changed alone.
type Member struct {
	Service  *graph.Spec    `json:"service" required:"true"`
	Requires Aliases        `json:"requires"`
	Connects Aliases        `json:"connects"`
	After    []string       `json:"after"`
	Systemd  map[string]any `json:"systemd"`
	Docker   map[string]any `json:"docker"`
	EC2      map[string]any `json:"ec2"`
}

// Aliases names other functionalities: a list of names, or alias → name. In a
// list the last part of a name is its alias.
type Aliases map[string]string

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
			if before, twice := out[alias]; twice && before != s {
				d.errorf(p, "%q and %q have the same alias %q", before, s, alias).
					WithHint("write alias: name in an object")
				continue
			}
			out[alias] = s
		}
	case map[string]any:
		for alias, x := range v {
			if x == nil || strings.HasPrefix(alias, "#") {
				continue
			}
			if token.Reserved(alias) {
				d.errorf(path, "a token cannot be the name of a field")
				continue
			}
			if s, ok := d.str(x, append(slices.Clone(path), alias)); ok {
				out[alias] = s
			}
		}
	default:
		d.wrong(path, "a list of names or an object alias: name", v)
	}
	*a = out
}

// shorthand lets a scalar stand for an object with one field of it.
type shorthand struct {
	field string
	ok    func(any) bool
}

var shorthands = map[reflect.Type]shorthand{
	reflect.TypeFor[graph.File](): {"text", isString},
	reflect.TypeFor[graph.Port](): {"port", isNumber},
}

func isString(v any) bool { _, ok := v.(string); return ok }
func isNumber(v any) bool { _, ok := v.(float64); return ok }
