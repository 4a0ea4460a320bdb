package docker

import (
	"cmp"
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
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
	"github.com/moby/moby/api/types/container"
)

// options is the field "docker" of a functionality.
type options struct {
	Base         string          `json:"base,omitempty"`         // base image of the package, with its digest; default: none
	At           string          `json:"at,omitempty"`           // path of the package in its image; default: /app
	Push         string          `json:"push,omitempty"`         // repository to push the image to
	Network      string          `json:"network,omitempty"`      // host; default: the deployment's network
	Aliases      []string        `json:"aliases,omitempty"`      // additional names in the network
	Ports        map[string]int  `json:"ports,omitempty"`        // port's name → port inside the container, if it differs from ports
	Publish      *publish        `json:"publish,omitempty"`      // whether and on which address the machine forwards ports
	Capabilities []string        `json:"capabilities,omitempty"` // kept capabilities; 'default' means the engine's, except those with "-" before them
	ReadOnly     *bool           `json:"readOnly,omitempty"`     // root file system
	Init         *bool           `json:"init,omitempty"`         // run an init process that reaps zombies
	Volumes      []volume        `json:"volumes,omitempty"`      // volumes of the deployment, or paths of the machine
	Config       json.RawMessage `json:"config,omitempty"`       // additional fields of the engine's Config
	Host         json.RawMessage `json:"host,omitempty"`         // additional fields of the engine's HostConfig
}

// IsZero reports whether no option is set.
func (o options) IsZero() bool { return reflect.ValueOf(o).IsZero() }

// publish is false, or an address of the machine.
type publish struct {
	Off     bool   `json:"off,omitempty"`
	Address string `json:"address,omitempty"`
}

// volume is a volume that services of a deployment share by its name, or a path of the machine.
type volume struct {
	Name     string `json:"name,omitempty"`
	Path     string `json:"path,omitempty"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

var optionNames = []string{"aliases", "at", "base", "capabilities", "config", "host", "init", "network", "ports", "publish", "push", "readOnly", "volumes"}

// managedFields are the engine's fields that defx writes, each with the field of the service that
// sets it. The field is empty if users cannot set it.
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

// options decodes the backend's options and refuses unknown fields.
func (r *renderer) options() options {
	return readOptions(r.In.Service, func(where []string, format string, args ...any) *diag.Error { return r.Fail(where, format, args...) })
}

// readOptions decodes the options of a service and passes errors to fail.
func readOptions(s *graph.Service, fail func([]string, string, ...any) *diag.Error) options {
	var o options
	raw := s.Options
	if len(raw) == 0 || string(raw) == "null" {
		return o
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		fail([]string{"docker"}, "docker must be an object")
		return o
	}
	if t, err := token.Split(string(raw)); err != nil || len(t.Tokens()) > 0 {
		fail([]string{"docker"}, "docker contains a value that is known only at apply").WithHint("use such values in env, args or files")
		return o
	}
	for _, k := range sets.Keys(fields) {
		where, v := []string{"docker", k}, fields[k]
		if string(v) == "null" {
			continue
		}
		decode := func(into any, want string) bool {
			if err := spec.DecodeStrict(v, into); err != nil {
				fail(where, "%s must be %s", k, want)
				return false
			}
			return true
		}
		switch k {
		case "base":
			if decode(&o.Base, "an image") && !pinned(o.Base) {
				fail(where, "image %q has no digest, so its content could change", o.Base).WithHint("run defx lock --update, or write NAME@sha256:…")
			}
		case "at":
			if decode(&o.At, "a path") && (!path.IsAbs(o.At) || path.Clean(o.At) != o.At) {
				fail(where, "%q must be an absolute path without . or ..", o.At)
			}
		case "network":
			if decode(&o.Network, "a name") && o.Network != "host" {
				fail(where, "unknown network %q", o.Network).WithHint("network: 'host', or remove it to use the deployment's network")
			}
		case "aliases":
			decode(&o.Aliases, "a list of names")
			for _, a := range o.Aliases {
				if !aliasRE.MatchString(a) {
					fail(where, "%q is not a valid network alias", a)
				}
			}
			slices.Sort(o.Aliases)
		case "ports":
			decode(&o.Ports, "an object of ports: { http: 80 }")
			for _, name := range sets.Keys(o.Ports) {
				if _, ok := s.Spec.Ports[name]; !ok {
					fail(append(where, name), "the service has no port %q", name).WithHint("%s", diag.Suggest(name, sets.Keys(s.Spec.Ports)))
				}
				if p := o.Ports[name]; p < 1 || p > 65535 {
					fail(append(where, name), "port %d must be from 1 to 65535", p)
				}
			}
		case "publish":
			var on bool
			o.Publish = &publish{}
			if json.Unmarshal(v, &on) == nil {
				if o.Publish.Off = !on; on {
					o.Publish = nil
				}
			} else if a := ""; decode(&a, "an address, true or false") {
				if _, err := netip.ParseAddr(a); err != nil {
					fail(where, "%q is not an IP address", a).WithHint("publish: '127.0.0.1', or false")
				}
				o.Publish.Address = a
			}
		case "capabilities":
			decode(&o.Capabilities, "a list of names")
			for _, c := range o.Capabilities {
				if !capRE.MatchString(c) && c != "default" {
					fail(where, "%q is not a capability name", c).WithHint("for example NET_ADMIN; ['default'] keeps the engine's default capabilities")
				}
			}
			slices.Sort(o.Capabilities)
			if o.Capabilities == nil {
				o.Capabilities = []string{}
			}
		case "push":
			if decode(&o.Push, "a repository") && !repositoryRE.MatchString(o.Push) {
				fail(where, "%q is not a repository without tag", o.Push).WithHint("for example registry.example.com/shop/web")
			}
		case "readOnly":
			decode(&o.ReadOnly, "true or false")
		case "init":
			decode(&o.Init, "true or false")
		case "volumes":
			decode(&o.Volumes, "a list of { name | path, target, readOnly }")
			for _, vol := range o.Volumes {
				switch {
				case (vol.Name == "") == (vol.Path == ""):
					fail(where, "a volume must have either a name or a path of the machine")
				case vol.Name != "" && !volumeRE.MatchString(vol.Name):
					fail(where, "%q is not a valid volume name", vol.Name)
				case vol.Path != "" && (!path.IsAbs(vol.Path) || path.Clean(vol.Path) != vol.Path):
					fail(where, "%q must be an absolute path without . or ..", vol.Path)
				}
				if !path.IsAbs(vol.Target) || path.Clean(vol.Target) != vol.Target {
					fail(where, "target %q must be an absolute path without . or ..", vol.Target)
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
			fail(where, "unknown option %q", k).WithHint("%s", hint)
		}
	}
	return o
}

// engineFields reads additional fields of the engine's API.
func engineFields(fail func([]string, string, ...any) *diag.Error, where []string, raw json.RawMessage, into any) json.RawMessage {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		fail(where, "%s must be an object of the engine's fields", where[1]).WithHint("host: { ShmSize: 67108864 }")
		return nil
	}
	ok := true
	names := fieldNames(reflect.TypeOf(into).Elem())
	for _, k := range sets.Keys(fields) {
		field, is := managedFields[where[1]+"."+k]
		if !is {
			// The engine also takes privileged for Privileged: such a name would be another one here.
			if i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, k) }); i >= 0 && names[i] != k {
				fail(append(slices.Clone(where), k), "unknown field %q", k).WithHint("did you mean %q?", names[i])
				ok = false
			}
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
		fail(where, "%s", strings.TrimPrefix(fmt.Sprint(err), "json: ")).WithHint("use the names and types of the Docker API, for example Hostname, ShmSize, Sysctls")
		return nil
	}
	if c, is := into.(*container.Config); is {
		for _, k := range sets.Keys(c.Labels) {
			if strings.HasPrefix(k, labelPrefix) {
				fail(append(slices.Clone(where), "Labels", k), "labels that begin with %s are written by defx", labelPrefix).WithHint("choose another name")
			}
		}
	}
	return raw
}

// fieldNames returns the names of the fields of a type of the engine's API in JSON.
func fieldNames(t reflect.Type) []string {
	var out []string
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			out = append(out, fieldNames(f.Type)...)
		case name != "-":
			out = append(out, cmp.Or(name, f.Name))
		}
	}
	return out
}

var pinnedRE = regexp.MustCompile(`^[^@\s]+@sha256:[0-9a-f]{64}$`)

func pinned(image string) bool { return pinnedRE.MatchString(image) }
