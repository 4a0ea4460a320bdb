package docker

import (
	"encoding/json"
	"path"
	"strings"
)

// Dir is the directory of the files that describe to the agent what to run in the engine. The
// extension is the kind of the file:
//
//	BASE.INSTANCE.container          Container: a version of a service
//	BASE.init.once, BASE.INSTANCE.migrate.once
//	                                 Command: runs once before it, in a container of its own
//	BASE.ready.probe, BASE.healthy.probe, BASE.check.probe, BASE.reload
//	                                 Command: runs inside the container
//	BASE.cron                        Cron: starts the container on schedule, in a container of its own
//	BASE.job                         Cron: the same if a systemd timer starts it (WithTimer)
//	GROUP.DIGEST.pod                 Pod: the network that the members of a group share
//	PREFIX.network                   Network: of a deployment
const Dir = "/var/lib/defx/containers"

// Kinds are the kinds of files. What can start others comes first: this is the order in which they
// are stopped.
var Kinds = []string{".cron", ".job", ".container", ".once", ".probe", ".reload", ".pod", ".network"}

// labelPrefix begins the names of all labels of defx.
const labelPrefix = "dev.defx."

// Labels mark the objects in an engine that belong to defx.
const (
	LabelScope    = "dev.defx.scope"    // ENVIRONMENT/DEPLOYMENT
	LabelAddress  = "dev.defx.address"  // address of the unit
	LabelBase     = "dev.defx.base"     // name of the service in all versions
	LabelUnit     = "dev.defx.unit"     // file that describes it
	LabelDigest   = "dev.defx.digest"   // of that file's content
	LabelArtifact = "dev.defx.artifact" // of an image: the package that it was built from

	// LabelGeneration is the generation for which an object was created. It is informative only: an object
	// that does not change keeps it.
	LabelGeneration = "dev.defx.generation"
)

// ID identifies an object of a deployment.
type ID struct {
	Scope   string `json:"scope"`
	Address string `json:"address,omitempty"`
	Base    string `json:"base"`
}

// Container is one version of a service, with the values of its refs.
type Container struct {
	ID
	Image      string            `json:"image,omitempty"`      // with a digest; empty if Build is set
	Build      *Build            `json:"build,omitempty"`      // how its image is built
	Entrypoint []string          `json:"entrypoint,omitempty"` // instead of the image's
	Args       []string          `json:"args,omitempty"`       // instead of the image's
	Env        []string          `json:"env,omitempty"`        // NAME=value, sorted
	WorkDir    string            `json:"workDir,omitempty"`
	User       string            `json:"user,omitempty"`    // in the engine's notation
	Network    string            `json:"network,omitempty"` // name of the deployment's network, or "host"; empty in a pod
	Pod        string            `json:"pod,omitempty"`     // file of the pod whose network it shares
	Aliases    []string          `json:"aliases,omitempty"` // names in the network, sorted
	Ports      []Port            `json:"ports,omitempty"`   // forwarded by the machine
	Mounts     []Mount           `json:"mounts,omitempty"`  // sorted by target
	Tmpfs      map[string]string `json:"tmpfs,omitempty"`   // target → options
	Secrets    []Secret          `json:"secrets,omitempty"` // by target
	Own        []Owner           `json:"own,omitempty"`     // files that are given to users before the start
	NanoCPUs   int64             `json:"nanoCPUs,omitempty"`
	Memory     int64             `json:"memory,omitempty"` // bytes
	Tasks      int64             `json:"tasks,omitempty"`
	OpenFiles  int64             `json:"openFiles,omitempty"`
	CapDrop    []string          `json:"capDrop,omitempty"`
	CapAdd     []string          `json:"capAdd,omitempty"`
	ReadOnly   bool              `json:"readOnly,omitempty"` // root file system
	NoInit     bool              `json:"noInit,omitempty"`   // the program is process 1
	Restart    string            `json:"restart"`
	Stop       *Stop             `json:"stop,omitempty"`
	Before     []string          `json:"before,omitempty"` // files of the commands that run before it, in order
	Job        bool              `json:"job,omitempty"`    // started by its schedule only
	Config     json.RawMessage   `json:"config,omitempty"` // additional fields of the engine's Config
	Host       json.RawMessage   `json:"host,omitempty"`   // additional fields of the engine's HostConfig
}

// Build is an image that is built from a package.
type Build struct {
	Artifact string `json:"artifact"`       // hexadecimal digest of a folder in the store
	At       string `json:"at"`             // path of the package in the image
	Base     string `json:"base,omitempty"` // base image with a digest; empty means none
	Push     string `json:"push,omitempty"` // repository to push the image to; empty means it is loaded where it is built
}

// Port is a port of the machine that is forwarded to a container.
type Port struct {
	Inner    int    `json:"inner"`
	Outer    int    `json:"outer"`
	Protocol string `json:"protocol"`
	Address  string `json:"address,omitempty"` // of the machine; empty means all
}

// Mount mounts a volume or a path of the machine into a container.
type Mount struct {
	Volume   string `json:"volume,omitempty"` // name; empty if Path is set
	Path     string `json:"path,omitempty"`   // path on the machine
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	Create   bool   `json:"create,omitempty"` // a path that does not exist is made
	Owner    int    `json:"owner,omitempty"`  // user that a new volume or path is given to
}

// Secret is a file of the machine that only root can read. The container gets a copy that its user
// can read.
type Secret struct {
	Source string `json:"source"`
	Target string `json:"target"`
	Owner  int    `json:"owner"` // −1: the user that the container runs as, which must be root
}

// Owner is a file and the number of the user that it is given to.
type Owner struct {
	Path string `json:"path"`
	User int    `json:"user"`
}

// Stop is how a container is stopped.
type Stop struct {
	Command []string `json:"command,omitempty"`
	Signal  string   `json:"signal,omitempty"`
	Timeout int      `json:"timeout,omitempty"` // seconds
}

// Command is a command or signal in the environment of a container.
type Command struct {
	ID
	Unit    string   `json:"of"` // file of the container
	Command []string `json:"command,omitempty"`
	Signal  string   `json:"signal,omitempty"` // sent to the first process, instead of running a command
	Done    string   `json:"done,omitempty"`   // file that records success
}

// Cron starts a container on schedule.
type Cron struct {
	ID
	Unit     string `json:"of"`
	Cron     string `json:"cron,omitempty"`
	Every    string `json:"every,omitempty"`
	Timezone string `json:"timezone"`
	Jitter   string `json:"jitter,omitempty"`
	CatchUp  bool   `json:"catchUp,omitempty"` // run once if a run was missed
}

// Pod is a network namespace that containers share.
type Pod struct {
	ID
	Network string   `json:"network"`
	Aliases []string `json:"aliases,omitempty"`
	Ports   []Port   `json:"ports,omitempty"`
}

// Network is the network of a deployment.
type Network struct {
	ID
	Name string `json:"name"`
}

// Kind returns the kind of a unit by its extension, or "" if it is not one of Kinds.
func Kind(unit string) string {
	ext := path.Ext(unit)
	for _, k := range Kinds {
		if ext == k {
			return k
		}
	}
	return ""
}

// Name returns the name of a unit in the engine.
func Name(unit string) string { return strings.TrimSuffix(unit, path.Ext(unit)) }
