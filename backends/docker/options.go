package docker

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
	"github.com/moby/moby/api/types/container"
)

// options are the namespace "docker" of a functionality.
type options struct {
	Base         string          `json:"base,omitempty"`         // image below the package, with its digest; nothing if absent
	At           string          `json:"at,omitempty"`           // where the package lies in its image; /app if absent
	Push         string          `json:"push,omitempty"`         // repository of a registry that its image goes through
	Network      string          `json:"network,omitempty"`      // host, or the deployment's own
	Aliases      []string        `json:"aliases,omitempty"`      // further names in the network
	Ports        map[string]int  `json:"ports,omitempty"`        // port's name → what the process listens on, if another than in ports
	Publish      *publish        `json:"publish,omitempty"`      // whether, and on which address, the machine passes ports on
	Capabilities []string        `json:"capabilities,omitempty"` // that it keeps; 'default' among them = what the engine gives, less those that begin with "-"
	ReadOnly     *bool           `json:"readOnly,omitempty"`     // its root
	Init         *bool           `json:"init,omitempty"`         // a process 1 that reaps
	Volumes      []volume        `json:"volumes,omitempty"`      // of the deployment or of the machine
	Config       json.RawMessage `json:"config,omitempty"`       // further fields of the engine's Config
	Host         json.RawMessage `json:"host,omitempty"`         // and of its HostConfig
}

// IsZero tells whether nothing is set.
func (o options) IsZero() bool { return reflect.ValueOf(o).IsZero() }

// publish is false, or an address of the machine.
type publish struct {
	Off     bool   `json:"off,omitempty"`
	Address string `json:"address,omitempty"`
}

// volume is one that services of a deployment share by its name, or a path of
// the machine, shown at target.
type volume struct {
	Name     string `json:"name,omitempty"`
	Path     string `json:"path,omitempty"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

var optionNames = []string{"aliases", "at", "base", "capabilities", "config", "host", "init", "network", "ports", "publish", "push", "readOnly", "volumes"}

// managedFields are the fields of the engine's that fields of the service write, with the field.
var managedFields = map[string]string{
	"config.Image": "image", "config.Cmd": "args", "config.Entrypoint": "command", "config.Env": "env", "config.User": "user",
	"config.ExposedPorts": "ports", "config.StopSignal": "stop.signal", "config.StopTimeout": "stop.timeout", "config.Volumes": "dirs",
	"host.Binds": "docker.volumes", "host.Mounts": "docker.volumes", "host.PortBindings": "ports", "host.PublishAllPorts": "ports",
	"host.NetworkMode": "docker.network", "host.RestartPolicy": "restart", "host.AutoRemove": "restart", "host.NanoCpus": "limits.cpu",
	"host.Memory": "limits.memory", "host.PidsLimit": "limits.tasks", "host.CapAdd": "docker.capabilities", "host.CapDrop": "docker.capabilities",
	"host.ReadonlyRootfs": "docker.readOnly", "host.Init": "docker.init", "host.ContainerIDFile": "",
}

var (
	volumeRE     = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,100}$`)
	aliasRE      = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9_])?$`)
	repositoryRE = regexp.MustCompile(`^(localhost|[a-z0-9-]+(\.[a-z0-9-]+)+|[a-z0-9-]+:[0-9]+)(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$`)
	capRE        = regexp.MustCompile(`^-?[A-Z][A-Z_]+$`)
)

// options decodes the namespace strictly.
func (r *renderer) options() options {
	return readOptions(r.In.Service, func(where []string, format string, args ...any) *diag.Error { return r.Fail(where, format, args...) })
}

func readOptions(s *graph.Service, fail func([]string, string, ...any) *diag.Error) options {
	var o options
	raw := s.Options
	if len(raw) == 0 || string(raw) == "null" {
		return o
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		fail([]string{"docker"}, "is not an object")
		return o
	}
	if t, err := token.Split(string(raw)); err != nil || len(t.Tokens()) > 0 {
		fail([]string{"docker"}, "holds a value that is known only later, which the engine's own fields cannot").WithHint("env, args and files can")
		return o
	}
	for _, k := range spec.Keys(fields) {
		where, v := []string{"docker", k}, fields[k]
		if string(v) == "null" {
			continue
		}
		take := func(into any, want string) bool {
			if err := spec.DecodeStrict(v, into); err != nil {
				fail(where, "%s is not %s", k, want)
				return false
			}
			return true
		}
		switch k {
		case "base":
			if take(&o.Base, "an image") && !pinned(o.Base) {
				fail(where, "image %q has no digest, so it may be another one tomorrow", o.Base).WithHint("defx lock --update writes down what it is now; or NAME@sha256:…")
			}
		case "at":
			if take(&o.At, "a path") && (!path.IsAbs(o.At) || path.Clean(o.At) != o.At) {
				fail(where, "%q is not an absolute, clean path", o.At)
			}
		case "network":
			if take(&o.Network, "a name") && o.Network != "host" {
				fail(where, "%q is not known here", o.Network).WithHint("network: 'host', or leave it out for the deployment's own")
			}
		case "aliases":
			take(&o.Aliases, "a list of names")
			for _, a := range o.Aliases {
				if !aliasRE.MatchString(a) {
					fail(where, "%q is not a name in a network", a)
				}
			}
			slices.Sort(o.Aliases)
		case "ports":
			take(&o.Ports, "an object of ports: { http: 80 }")
			for _, name := range spec.Keys(o.Ports) {
				if _, ok := s.Spec.Ports[name]; !ok {
					fail(append(where, name), "it has no port %q", name).WithHint("%s", diag.Suggest(name, spec.Keys(s.Spec.Ports)))
				}
				if p := o.Ports[name]; p < 1 || p > 65535 {
					fail(append(where, name), "%d is not a port", p)
				}
			}
		case "publish":
			var on bool
			o.Publish = &publish{}
			if json.Unmarshal(v, &on) == nil {
				if o.Publish.Off = !on; on {
					o.Publish = nil
				}
			} else if a := ""; take(&a, "an address, true or false") {
				if _, err := netip.ParseAddr(a); err != nil {
					fail(where, "%q is not an address", a).WithHint("publish: '127.0.0.1', or false")
				}
				o.Publish.Address = a
			}
		case "capabilities":
			take(&o.Capabilities, "a list of names")
			for _, c := range o.Capabilities {
				if !capRE.MatchString(c) && c != "default" {
					fail(where, "%q is not the name of a capability", c).WithHint("NET_ADMIN; ['default'] keeps what the engine gives")
				}
			}
			slices.Sort(o.Capabilities)
			if o.Capabilities == nil {
				o.Capabilities = []string{}
			}
		case "push":
			if take(&o.Push, "a repository") && !repositoryRE.MatchString(o.Push) {
				fail(where, "%q is not a repository of a registry, without tag", o.Push).WithHint("registry.example.com/shop/web")
			}
		case "readOnly":
			take(&o.ReadOnly, "true or false")
		case "init":
			take(&o.Init, "true or false")
		case "volumes":
			take(&o.Volumes, "a list of { name | path, target, readOnly }")
			for _, vol := range o.Volumes {
				switch {
				case (vol.Name == "") == (vol.Path == ""):
					fail(where, "a volume has either a name or a path of the machine")
				case vol.Name != "" && !volumeRE.MatchString(vol.Name):
					fail(where, "%q is not the name of a volume", vol.Name)
				case vol.Path != "" && (!path.IsAbs(vol.Path) || path.Clean(vol.Path) != vol.Path):
					fail(where, "%q is not an absolute, clean path", vol.Path)
				}
				if !path.IsAbs(vol.Target) || path.Clean(vol.Target) != vol.Target {
					fail(where, "target %q is not an absolute, clean path", vol.Target)
				}
			}
		case "config":
			o.Config = engineFields(fail, where, v, &container.Config{})
		case "host":
			o.Host = engineFields(fail, where, v, &container.HostConfig{})
		default:
			hint := diag.Suggest(k, optionNames)
			if hint == "" {
				hint = "one of " + strings.Join(optionNames, ", ")
			}
			fail(where, "%q is not known here", k).WithHint("%s", hint)
		}
	}
	return o
}

// engineFields takes fields of the engine's own, as its API calls them.
func engineFields(fail func([]string, string, ...any) *diag.Error, where []string, raw json.RawMessage, into any) json.RawMessage {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		fail(where, "is not an object of the engine's fields").WithHint("host: { ShmSize: 67108864 }")
		return nil
	}
	ok := true
	for _, k := range spec.Keys(fields) {
		field, is := managedFields[where[1]+"."+k]
		if !is {
			continue
		}
		ok = false
		e := fail(append(slices.Clone(where), k), "%s is written by defx", k)
		if field != "" {
			e.WithHint("set %s", field)
		}
	}
	if !ok {
		return nil
	}
	if err := spec.DecodeStrict(raw, into); err != nil {
		fail(where, "%s", strings.TrimPrefix(fmt.Sprint(err), "json: ")).WithHint("names and forms are those of the engine's API: Hostname, ShmSize, Sysctls")
		return nil
	}
	return raw
}

var pinnedRE = regexp.MustCompile(`^[^@\s]+@sha256:[0-9a-f]{64}$`)

func pinned(image string) bool { return pinnedRE.MatchString(image) }
