// Package docker renders services to containers.
//
// A version of a service is a file in Dir that describes a container completely; the agent creates
// a container of the same name from it. So a version has an owner, a journal entry and a rollback
// just like a unit file. Files are bind-mounted read-only from the store or, if the service can
// reload, from copies that are rewritten in place. An image comes from a registry, by its digest,
// or is built on the machine from the package.
//
// The package knows what can be described to an engine. It refuses to know the engine's API and how
// files get to a machine. Invariants: a change that needs no new process changes no Container; what
// an engine cannot represent is refused at its field.
package docker

import (
	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

type backend struct{}

// New returns the backend.
func New() backends.Backend { return backend{} }

// Name returns the value of the field backend, which is also the name of the options field.
func (backend) Name() string { return "docker" }

// Encoding returns the version of the payload encoding. It is increased when equal payloads would
// give other containers.
func (backend) Encoding() int { return 2 }

// payload is a unit before its refs are bound.
type payload struct {
	Run    runPart
	Reload *spec.ReloadPart
	Meta   metaPart
}

// runPart holds what needs a new container to change. Its digest is the version.
type runPart struct {
	Deployment  string                 `json:"deployment"`
	Environment string                 `json:"environment"`
	Address     graph.Address          `json:"address"`
	Image       string                 `json:"image,omitempty"`
	Build       *Build                 `json:"build,omitempty"`
	Folder      bool                   `json:"folder,omitempty"`  // the package is a folder, which is the working directory
	Command     []token.Text           `json:"command,omitempty"` // program and first arguments
	Args        []token.Text           `json:"args,omitempty"`
	Env         map[string]token.Text  `json:"env,omitempty"`
	Secrets     map[string]spec.Secret `json:"secrets,omitempty"`
	Files       map[string]spec.File   `json:"files,omitempty"` // without reload
	HostFiles   map[string]spec.File   `json:"hostFiles,omitempty"`
	Bound       []string               `json:"bound,omitempty"`  // with reload: the paths only
	Stored      []string               `json:"stored,omitempty"` // artifacts in texts, which are mounted
	Dirs        []spec.Dir             `json:"dirs,omitempty"`
	User        string                 `json:"user,omitempty"`
	Identity    string                 `json:"identity,omitempty"`    // from which the number of its user is derived, if that is not its own name
	Initializer bool                   `json:"initializer,omitempty"` // whether there is one; its command is in metaPart
	Migrate     []token.Text           `json:"migrate,omitempty"`
	Scheduled   bool                   `json:"scheduled,omitempty"`
	Ports       map[string]graph.Port  `json:"ports,omitempty"`
	Group       []member               `json:"group,omitempty"` // all services that share its network, including itself
	Limits      *graph.Limits          `json:"limits,omitempty"`
	Restart     string                 `json:"restart,omitempty"`
	Stop        *graph.Stop            `json:"stop,omitempty"`
	Options     options                `json:"options,omitzero"`
}

// member is what the pod of a group needs to know of each service.
type member struct {
	Name    string                `json:"name"`
	Ports   map[string]graph.Port `json:"ports,omitempty"`
	Inner   map[string]int        `json:"inner,omitempty"`
	Publish *publish              `json:"publish,omitempty"`
	Aliases []string              `json:"aliases,omitempty"`
}

// metaPart holds what changes without touching the process.
type metaPart struct {
	Ready       *graph.Ready    `json:"ready,omitempty"`
	Update      *graph.Update   `json:"update,omitempty"`
	Initializer []token.Text    `json:"initializer,omitempty"`
	Schedule    *graph.Schedule `json:"schedule,omitempty"`
	Reload      *graph.Reload   `json:"reload,omitempty"`
}

var codec = spec.Codec[payload]{Build: build, Encode: payload.encode, Decode: decodePayload}

// Render returns the payload of a service.
func (backend) Render(in backends.Input) (plan.Payload, backends.Effects, diag.List) {
	r := renderer{spec.Reader{In: in, Backend: "docker", Subject: in.Service.String()}}
	return codec.Render(&r.Reader, r.payload())
}

// Realize returns the layout of a payload once the values of its refs are known.
func (backend) Realize(p plan.Payload, version string, value spec.Values) (backends.Layout, error) {
	return codec.Realize(p, version, value)
}

func (p payload) encode() (plan.Payload, error) { return spec.Encode(p.Run, p.Meta, p.Reload) }

func decodePayload(pl plan.Payload) (p payload, err error) {
	err = spec.Decode("docker", pl, &p.Run, &p.Meta, &p.Reload)
	return p, err
}
