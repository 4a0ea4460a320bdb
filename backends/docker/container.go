package docker

import (
	"encoding/json"
	"path"
	"strings"
)

// Dir holds what the engine is told, one file each, on a machine. What a
// file's name ends in says what it is:
//
//	BASE.INSTANCE.container          Container: a version of a service
//	BASE.init.once, BASE.INSTANCE.migrate.once
//	                                 Command: runs once, as a container of its own, before it
//	BASE.ready.probe, BASE.healthy.probe, BASE.reload
//	                                 Command: runs inside the container
//	BASE.cron                        Cron: starts the container on time, as a container of its own
//	BASE.job                         Cron: the same, where a timer of systemd does (ByTimer)
//	GROUP.DIGEST.pod                 Pod: the network that the members of a group share
//	HOME.network                     Network: of a deployment
const Dir = "/var/lib/defx/containers"

// Kinds of files, as their names end. What may start others comes first: that
// is the order in which things are stopped.
var Kinds = []string{".cron", ".job", ".container", ".once", ".probe", ".reload", ".pod", ".network"}

// Label names what is of defx in an engine, and whose it is.
const (
	LabelScope    = "dev.defx.scope"    // ENVIRONMENT/DEPLOYMENT
	LabelAddress  = "dev.defx.address"  // of the unit
	LabelBase     = "dev.defx.base"     // stable name of what it belongs to
	LabelUnit     = "dev.defx.unit"     // file it was made of
	LabelDigest   = "dev.defx.digest"   // of that file's content
	LabelArtifact = "dev.defx.artifact" // of an image: what it was built of, in the store

	// LabelGeneration is the generation that something was made for. It tells history and decides nothing: what
	// stays as it is keeps it.
	LabelGeneration = "dev.defx.generation"
)

// ID names something of a deployment.
type ID struct {
	Scope   string `json:"scope"`
	Address string `json:"address,omitempty"`
	Base    string `json:"base"`
}

// Container is one version of a service, with the values of its refs.
type Container struct {
	ID
	Image      string            `json:"image,omitempty"`      // with a digest; or
	Build      *Build            `json:"build,omitempty"`      // what its image is made of
	Entrypoint []string          `json:"entrypoint,omitempty"` // instead of the image's
	Args       []string          `json:"args,omitempty"`       // instead of the image's
	Env        []string          `json:"env,omitempty"`        // NAME=value, sorted
	WorkDir    string            `json:"workDir,omitempty"`
	User       string            `json:"user,omitempty"`     // as the engine reads it
	Network    string            `json:"network,omitempty"`  // name of the deployment's; "host"; empty in a pod
	Pod        string            `json:"pod,omitempty"`      // file of the pod whose network it is in
	Aliases    []string          `json:"aliases,omitempty"`  // its names in the network, sorted
	Ports      []Port            `json:"ports,omitempty"`    // that the machine passes on
	Mounts     []Mount           `json:"mounts,omitempty"`   // by target
	Tmpfs      map[string]string `json:"tmpfs,omitempty"`    // target → options
	Secrets    []Secret          `json:"secrets,omitempty"`  // by target
	Own        []Owner           `json:"own,omitempty"`      // files that are given to users before it starts
	NanoCPUs   int64             `json:"nanoCPUs,omitempty"` //
	Memory     int64             `json:"memory,omitempty"`   // bytes
	Tasks      int64             `json:"tasks,omitempty"`
	OpenFiles  int64             `json:"openFiles,omitempty"`
	CapDrop    []string          `json:"capDrop,omitempty"`
	CapAdd     []string          `json:"capAdd,omitempty"`
	ReadOnly   bool              `json:"readOnly,omitempty"` // its root
	NoInit     bool              `json:"noInit,omitempty"`   // its program is process 1
	Restart    string            `json:"restart"`
	Stop       *Stop             `json:"stop,omitempty"`
	Before     []string          `json:"before,omitempty"` // files of commands that run once before it, in order
	Job        bool              `json:"job,omitempty"`    // it is started on time
	Config     json.RawMessage   `json:"config,omitempty"` // the user's own fields of the engine's Config
	Host       json.RawMessage   `json:"host,omitempty"`   // and of its HostConfig
}

// Build is an image that is made of a package.
type Build struct {
	Artifact string `json:"artifact"`       // hexadecimal digest: a folder of the store
	At       string `json:"at"`             // where it lies in the image
	Base     string `json:"base,omitempty"` // image below it, with a digest; none = nothing
	Push     string `json:"push,omitempty"` // repository that it goes through; none = it is loaded where it is made
}

// Port is one that the machine passes on to a container.
type Port struct {
	Inner    int    `json:"inner"`
	Outer    int    `json:"outer"`
	Protocol string `json:"protocol"`
	Address  string `json:"address,omitempty"` // of the machine; all if empty
}

// Mount shows something at a path.
type Mount struct {
	Volume   string `json:"volume,omitempty"` // name; or
	Path     string `json:"path,omitempty"`   // of the machine
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	Owner    int    `json:"owner,omitempty"` // user that a new volume is given to
}

// Secret is a file of the machine that root alone may read, and that the
// container's user sees a copy of.
type Secret struct {
	Source string `json:"source"`
	Target string `json:"target"`
	Owner  int    `json:"owner"` // −1: whoever it runs as, which must be root
}

// Owner is a file and the number of the user that it belongs to.
type Owner struct {
	Path string `json:"path"`
	User int    `json:"user"`
}

// Stop says how a container ends.
type Stop struct {
	Command []string `json:"command,omitempty"`
	Signal  string   `json:"signal,omitempty"`
	Timeout int      `json:"timeout,omitempty"` // seconds
}

// Command is something that is done in the surroundings of a container.
type Command struct {
	ID
	Unit    string   `json:"of"` // file of the container
	Command []string `json:"command,omitempty"`
	Signal  string   `json:"signal,omitempty"` // to its first process, instead of a command
	Done    string   `json:"done,omitempty"`   // file that remembers that it succeeded
}

// Cron starts a container on time.
type Cron struct {
	ID
	Unit     string `json:"of"`
	Cron     string `json:"cron,omitempty"`
	Every    string `json:"every,omitempty"`
	Timezone string `json:"timezone"`
	Jitter   string `json:"jitter,omitempty"`
	CatchUp  bool   `json:"catchUp,omitempty"` // a run that was missed is made up for
}

// Pod is a network that containers share.
type Pod struct {
	ID
	Network string   `json:"network"`
	Aliases []string `json:"aliases,omitempty"`
	Ports   []Port   `json:"ports,omitempty"`
}

// Network is a deployment's.
type Network struct {
	ID
	Name string `json:"name"`
}

// Kind is what a unit's name ends in, if it is one of ours.
func Kind(unit string) string {
	ext := path.Ext(unit)
	for _, k := range Kinds {
		if ext == k {
			return k
		}
	}
	return ""
}

// Name is what a unit is called in the engine.
func Name(unit string) string { return strings.TrimSuffix(unit, path.Ext(unit)) }
