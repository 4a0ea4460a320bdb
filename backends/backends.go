// Package backends is the contract between the service graph and the backends that run it.
//
// It knows the data that passes between them: Input, plan.Payload and Layout. It refuses to know
// any single backend. Invariant: Render and Realize are pure. They read no clock, no files and no
// environment variables, so equal inputs give equal bytes.
package backends

import (
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// StorePath is the directory of content on every machine. Content is named by its digest: StorePath
// + "/" + hex.
const StorePath = "/var/lib/defx/store"

// Input is one placed service together with everything that rendering it may read.
type Input struct {
	Deployment  string
	Environment string
	Service     *graph.Service
	// Local lists the services of requires and after that run on the same machine, sorted. A boot
	// without the agent must order them by itself.
	Local []graph.Address
	// Group lists the members of the service's group, including the service itself, sorted. It is
	// nil if the service is not in a group.
	Group []*graph.Service
	// Owners are the services whose directories the service shares, by the kind of directory.
	Owners map[string]*graph.Service
	// Artifact returns the digest and kind of an artifact token's content. The content of a "tree"
	// (a folder) and of a "tar" (unpacked) is at StorePath/hex. A "file" keeps its name:
	// StorePath/hex/name.
	Artifact func(token.Token) (plan.Artifact, bool)
}

// Backend renders services to units.
type Backend interface {
	// Name returns the value of the Jsonnet field backend that selects this backend. It is also the
	// name of the backend's own options field.
	Name() string
	// Encoding returns the version of the payload encoding. It is increased when equal payloads
	// would give other bytes on a machine.
	Encoding() int
	// Render returns the payload of a service, and its effects on its machine: the claims and needs of
	// the layout, with their fields. Refs stay symbols inside token.Text values. Errors carry the
	// path of the field, below the service's SpecPath or Path.
	Render(Input) (plan.Payload, Effects, diag.List)
	// Realize turns a payload into the files and units of a machine. instance is Unit.Instance of
	// the unit; value returns the value of a ref. A ref without a value is an error.
	Realize(p plan.Payload, instance string, value func(token.Token) (string, bool)) (Layout, error)
}

// Effects are what a unit does to its machine beyond running a process of its own. They are in no
// digest.
type Effects struct {
	Claims []plan.Claim // what it takes, so that nothing else can have it
	Needs  []graph.Need // what it asks for, sorted
}

// Linter is a backend that finds mistakes in services that are valid but probably not intended.
type Linter interface {
	// Lint returns warnings about a service, with paths below its SpecPath or Path.
	Lint(s *graph.Service) diag.List
}

// MachineChecker is a backend that cannot use every machine.
type MachineChecker interface {
	// CheckMachine returns why no service of this backend can run on a machine, and what to do
	// instead; both are empty if it can.
	CheckMachine(*graph.Machine) (problem, hint string)
}

// Networker is a backend whose services have addresses of their own, as containers do.
type Networker interface {
	// AddressFor returns what a ref to target, a service on the same machine, becomes for the
	// reader in. It returns false if the reader gets the same value as all other readers. field is
	// host, port, or address (which should be the same for all readers); arg is the port's name.
	// known reports whether the machine has an address that everyone can use. AddressFor may read
	// only the ports, labels, dirs and options of both services: the rest of a memoized service is
	// absent (graph.Service.Summary).
	AddressFor(in Input, target *graph.Service, field, arg string, known bool) (value string, ok bool)
}

// Layout is what a unit consists of on a machine: its files and the names of what is started.
type Layout struct {
	// Name is the name that stays the same in all versions, Unit the name of this version.
	Name, Unit string
	// Start names the units to start, in order: Unit itself for a service, or the timer or socket
	// that starts it. They are stopped in reverse order, Unit last.
	Start []string
	// Scripts name the units that run before Unit. If one fails, Unit does not start.
	Scripts []string
	// Group is the unit that stands for the whole deployment on the machine: stopping it stops all
	// services. It is empty if there is none.
	Group string
	// Ready is the readiness check of the version. Without one the version is ready when it runs.
	Ready *Ready
	// Soak is how long an updated replica must stay healthy before the next one is updated.
	Soak time.Duration
	// Healthy is a unit that succeeds while the replica set is healthy. It is empty if there is no
	// such check.
	Healthy string
	// Retire is a unit that removes the replica from its cluster before it is deleted. It is empty
	// if nothing has to be done.
	Retire string
	// ReloadCheck is a unit that must succeed before the running version reloads. It is empty if
	// there is no such check.
	ReloadCheck string
	// Ports are the ports of this machine that the version or its sockets listen on. Those of a
	// container are the matter of its engine.
	Ports []Port
	// StopTimeout is how long the version may take to stop, as the user set it. It is 0 if he did
	// not.
	StopTimeout time.Duration
	// Graceful names the way in which two versions can run at once. It is empty if they cannot.
	Graceful string
	// Leftovers are patterns (path.Match) of files that the running unit creates. They are removed
	// with the unit.
	Leftovers []string
	// MountPoints are paths of the machine on which the running unit mounts files. If one does not
	// exist, the supervisor makes an empty file there, and the folders above it; they are removed
	// with the unit.
	MountPoints []string
	// Data names what holds the unit's data and outlives its versions, sorted: directories of the
	// machine, and volumes of an engine as "volume:NAME".
	Data []string
	// Objects are written to the store before any file is written.
	Objects []Object
	// Files are in the order in which they are written: what activates the new version comes last.
	Files []File
	// Claims are what the unit takes on the machine. They do not depend on the version.
	Claims []plan.Claim
	// Needs are what the unit asks for, sorted. They do not depend on the version.
	Needs []graph.Need
	// Dirs are directories with content that follows the unit when it is renamed.
	Dirs []Dir
}

// Dir is a directory that belongs to a unit.
type Dir struct {
	Kind string `json:"kind"` // state, cache or logs
	Name string `json:"name"` // its name among the directories of the unit, which a rename does not change
	Path string `json:"path"` // below /var/lib, /var/cache or /var/log; systemd keeps that of a dynamic user in the directory private there
}

// Port is a port of a machine.
type Port struct {
	Protocol string // tcp or udp
	Port     int
}

// VolumePrefix begins the name of an engine's volume in Layout.Data.
const VolumePrefix = "volume:"

// Ready is a readiness check. If none of HTTP, TCP and Exec is set, the version is ready when it is
// started.
type Ready struct {
	HTTP     string        // path on Port that must answer 2xx or 3xx
	TCP      bool          // Port must accept connections
	Port     int           // on this machine
	Exec     string        // unit that must succeed
	Interval time.Duration // time between two attempts
	Timeout  time.Duration // after this time the version has failed
	Retries  int           // failed attempts until the version has failed; 0 means no limit before Timeout
}

// Object is content for the store. It is written to StorePath + "/" + Name.
type Object struct {
	Name    string        // one path element that begins with the digest's hex
	Digest  digest.Digest // digest.Bytes of Content
	Content []byte
	Mode    fs.FileMode // permission bits
}

// File is one path that a unit owns on a machine.
type File struct {
	Path    string      // absolute, clean, as the machine sees it
	Content []byte      // of a regular file
	Link    string      // target of a symbolic link; then Content is nil
	Mode    fs.FileMode // permission bits of a regular file
	InPlace bool        // overwritten instead of replaced, because a running process has it bind-mounted
	Shared  bool        // other units may own it too, with the same content; it is removed with the last of them
}

// ObjectName returns the usual name of a file in the store. The same content with other permissions
// is another object.
func ObjectName(d digest.Digest, mode fs.FileMode) string {
	return fmt.Sprintf("%s-%04o", d.Hex(), mode.Perm())
}

// NewObject returns an object with the given content under its usual name.
func NewObject(content []byte, mode fs.FileMode) Object {
	d := digest.Bytes(content)
	return Object{Name: ObjectName(d, mode), Digest: d, Content: content, Mode: mode.Perm()}
}

// SecretsPath is the directory of secret values on every machine. Only root can read it.
const SecretsPath = "/var/lib/defx/secrets"

// SecretPath returns the file of a secret's value on a machine. The secret's name becomes one path
// element: every byte except a-z, A-Z, 0-9, "-" and "." is written as "_" and two hexadecimal
// digits, and so is a leading ".".
func SecretPath(environment, deployment, name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' && i > 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return SecretsPath + "/" + environment + "/" + deployment + "/" + b.String()
}
