package systemd

import (
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/token"
)

// payload is a unit before its refs are bound. It is structured rather than encoded, so that a ref
// can be anywhere in a text. Artifacts are paths in the store already; the path contains the
// digest.
type payload struct {
	Fact   *factPayload
	Run    runPart
	Reload *spec.ReloadPart
	Meta   metaPart
}

// runPart holds what needs a restart to change. Its digest is the version.
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
	Bound       []string               `json:"bound,omitempty"`     // with reload: the paths only, because a new mount needs a new process
	Dirs        []spec.Dir             `json:"dirs,omitempty"`
	User        string                 `json:"user,omitempty"`
	Identity    string                 `json:"identity,omitempty"`    // from which the name of its dynamic user is derived, if that is not its own name
	Declared    bool                   `json:"declared,omitempty"`    // User is declared as a fact of the machine
	Initializer bool                   `json:"initializer,omitempty"` // whether there is one; its command is in metaPart
	Migrate     []token.Text           `json:"migrate,omitempty"`
	Scheduled   bool                   `json:"scheduled,omitempty"`
	Sockets     []listener             `json:"sockets,omitempty"` // sorted by name
	Notify      bool                   `json:"notify,omitempty"`
	LowPort     bool                   `json:"lowPort,omitempty"` // the process itself binds a port below 1024
	Limits      *graph.Limits          `json:"limits,omitempty"`
	Restart     string                 `json:"restart,omitempty"`
	Stop        *graph.Stop            `json:"stop,omitempty"`
	Options     options                `json:"options,omitzero"`
}

// metaPart holds what changes without touching the process.
type metaPart struct {
	After       []graph.Address       `json:"after,omitempty"` // services on the same machine that start before it
	Wants       []graph.Address       `json:"wants,omitempty"` // the required ones of After
	Ports       map[string]graph.Port `json:"ports,omitempty"`
	Ready       *graph.Ready          `json:"ready,omitempty"`
	Update      *graph.Update         `json:"update,omitempty"`
	Initializer []token.Text          `json:"initializer,omitempty"`
	Schedule    *graph.Schedule       `json:"schedule,omitempty"`
	Reload      *graph.Reload         `json:"reload,omitempty"`
	Retire      []token.Text          `json:"retire,omitempty"`
	Graceful    string                `json:"graceful,omitempty"` // how two versions can run at once; empty: they cannot
}

// listener is a socket, with the port's number in place of its name.
type listener struct {
	Name     string `json:"name"`
	Port     int    `json:"port,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Path     string `json:"path,omitempty"`
	Mode     string `json:"mode,omitempty"`
}
