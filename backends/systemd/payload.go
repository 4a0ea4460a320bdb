package systemd

import (
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/token"
)

// payload is what a unit is before its refs are bound: structured and not
// encoded, so that a ref can stand anywhere in a text. Artifacts are paths in
// the store already; their digest is in the path.
type payload struct {
	Fact   *factPayload
	Run    runPart
	Reload *reloadPart
	Meta   metaPart
}

// runPart is what a restart is needed for. Its digest is the version.
type runPart struct {
	Deployment  string                 `json:"deployment"`
	Environment string                 `json:"environment"`
	Address     graph.Address          `json:"address"`
	Command     []token.Text           `json:"command"`           // program and arguments; the program is an absolute path
	Package     string                 `json:"package,omitempty"` // folder it runs in
	Env         map[string]token.Text  `json:"env,omitempty"`
	Secrets     map[string]spec.Secret `json:"secrets,omitempty"`
	Files       map[string]spec.File   `json:"files,omitempty"`     // without reload
	HostFiles   map[string]spec.File   `json:"hostFiles,omitempty"` // without reload
	Bound       []string               `json:"bound,omitempty"`     // with reload: the paths alone, for a new mount needs a new process
	Dirs        graph.Dirs             `json:"dirs,omitzero"`
	User        string                 `json:"user,omitempty"`
	Declared    bool                   `json:"declared,omitempty"`    // User is a fact of the machine, which says all of it
	Initializer bool                   `json:"initializer,omitempty"` // there is one
	Migrate     []token.Text           `json:"migrate,omitempty"`
	Scheduled   bool                   `json:"scheduled,omitempty"`
	Sockets     []listener             `json:"sockets,omitempty"` // by name
	Notify      bool                   `json:"notify,omitempty"`
	LowPort     bool                   `json:"lowPort,omitempty"` // it binds a port below 1024 itself
	Limits      *graph.Limits          `json:"limits,omitempty"`
	Restart     string                 `json:"restart,omitempty"`
	Stop        *graph.Stop            `json:"stop,omitempty"`
	Options     options                `json:"options,omitzero"`
}

// reloadPart is what a running process takes over when told to.
type reloadPart struct {
	Files     map[string]spec.File `json:"files"`
	HostFiles map[string]spec.File `json:"hostFiles,omitempty"`
}

// metaPart is what changes without touching the process.
type metaPart struct {
	After       []graph.Address       `json:"after,omitempty"` // on the same machine, ordered before it
	Wants       []graph.Address       `json:"wants,omitempty"` // of those, the ones it requires
	Ports       map[string]graph.Port `json:"ports,omitempty"`
	Ready       *graph.Ready          `json:"ready,omitempty"`
	Update      *graph.Update         `json:"update,omitempty"`
	Initializer []token.Text          `json:"initializer,omitempty"`
	Schedule    *graph.Schedule       `json:"schedule,omitempty"`
	Reload      *graph.Reload         `json:"reload,omitempty"`
	Retire      []token.Text          `json:"retire,omitempty"`
	Graceful    string                `json:"graceful,omitempty"` // how two versions live at once; empty: they do not
}

// listener is a socket with the port's number in place of its name.
type listener struct {
	Name     string `json:"name"`
	Port     int    `json:"port,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Path     string `json:"path,omitempty"`
	Mode     string `json:"mode,omitempty"`
}
