package modeltest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/defx-dev/defx/internal/sets"
)

// service is one functionality of a deployment.
type service struct {
	version  int
	port     int    // 0 = none
	data     bool   // it has a state directory
	path     string // literal directory; "" = none
	machine  string
	replicas int
}

// deployment is what the entry file of one environment asks for.
type deployment struct {
	services map[string]service
	moved    map[string]string // old name → new name
}

func (d *deployment) clone() *deployment {
	return &deployment{maps.Clone(d.services), maps.Clone(d.moved)}
}

// unit is one unit that a deployment asks for.
type unit struct {
	service
	address string
}

// units returns the units of a deployment by their addresses.
func (d *deployment) units() map[string]unit {
	out := map[string]unit{}
	for name, s := range d.services {
		for i := range s.replicas {
			a := addressOf(name, i)
			out[a] = unit{s, a}
		}
	}
	return out
}

func addressOf(name string, replica int) string { return fmt.Sprintf("app/%s#%d", name, replica) }

// value returns what the functionality evaluates to.
func (s service) value() json.RawMessage {
	env := map[string]string{"V": strconv.Itoa(s.version)}
	spec := map[string]any{
		"command": []string{"/bin/run"},
		"env":     env,
		"ready":   map[string]any{"notify": true},
	}
	if s.port > 0 {
		spec["ports"] = map[string]int{"p": s.port}
		env["PORT"] = strconv.Itoa(s.port)
	}
	dirs := map[string]any{}
	if s.data {
		dirs["state"] = "db"
	}
	if s.path != "" {
		spec["user"] = "u1"
		env["DIR"] = s.path
		dirs["cache"] = map[string]string{"path": s.path}
	}
	if len(dirs) > 0 {
		spec["dirs"] = dirs
	}
	place := map[string]any{"machine": s.machine}
	if s.replicas > 1 {
		place["replicas"] = s.replicas
	}
	return encode(map[string]any{"place": place, "service": spec})
}

func encode(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

// scope is one environment of a deployment.
type scope struct {
	deployment, environment string

	want *deployment
	// known are the applies that the state knows, as far as the tests can tell.
	known   map[int]bool
	had     map[string]held // address → its data, while it is deployed
	past    map[int]*deployment
	settled int // World.changes when two applies showed that nothing is left to do
	// recorded are the units as they were seen last after an apply.
	recorded map[string]seen
	// begun are the units that applies which died may have begun.
	begun map[string]unit
	// stopped are the units that were stopped on purpose.
	stopped map[string]bool
}

// held is where a unit has its data.
type held struct {
	machine string
	lost    bool // somebody removed it
	waived  bool // an apply that died was allowed to start without it
}

func (s *scope) name() string { return s.environment + "/" + s.deployment }

// head returns the entry's own value.
func (s *scope) head() map[string]any {
	connections := map[string]any{}
	for i, m := range machineNames {
		connections[m] = map[string]string{"connect": "dir:" + m, "address": fmt.Sprintf("10.0.0.%d", i+1)}
	}
	moved := map[string]string{}
	for _, old := range sets.Keys(s.want.moved) {
		moved["app/"+old] = "app/" + s.want.moved[old]
	}
	return map[string]any{"name": s.deployment, "environments": map[string]any{"dev": map[string]any{}, "prod": map[string]any{}}, "machines": connections, "moved": moved}
}

// text returns the entry file.
func (s *scope) text() string {
	all := s.head()
	lib := map[string]json.RawMessage{}
	for name, svc := range s.want.services {
		lib[name] = svc.value()
	}
	all["libs"] = map[string]any{"app": lib}
	return "function(env='dev') " + string(encode(all))
}

var machineNames = []string{"m1", "m2", "m3"}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
