// Package backends is the contract between the graph and what runs it.
//
// A backend's Render and Realize are pure: no clock, no files, no environment.
// The package knows the shapes that pass; it refuses to know any backend.
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

// StorePath is where content lies on every machine, by digest: StorePath + "/" + hex.
const StorePath = "/var/lib/defx/store"

// Input is one placed service and what its rendering may see.
type Input struct {
	Deployment  string
	Environment string
	Service     *graph.Service
	// Local lists the services of requires and after that run on the same machine, sorted:
	// what a boot without defx must order by itself.
	Local []graph.Address
	// Group lists the members of the group that the service is of, itself included, sorted; nil if it is of none.
	Group []*graph.Service
	// Artifact gives the digest and kind of an artifact token's content. The content of a "tree" (a folder)
	// and of a "tar" (unpacked) lies at StorePath/hex; a "file" keeps its name, StorePath/hex/name.
	Artifact func(token.Token) (plan.Artifact, bool)
}

// Backend makes units of services.
type Backend interface {
	// Name is the word of the Jsonnet field backend, and of the namespace that only it reads.
	Name() string
	// Encoding is the version of its payloads. It rises when equal payloads would give other bytes on a machine.
	Encoding() int
	// Render makes the payload of a service. All tokens of the payload that are refs stay symbols
	// inside token.Text values. Errors carry the path of the field below the service's SpecPath or Path.
	Render(Input) (plan.Payload, diag.List)
	// Realize turns a payload into what should stand on the machine. instance is Unit.Instance
	// of the unit; value gives the value of a ref. An unbound ref is an error.
	Realize(p plan.Payload, instance string, value func(token.Token) (string, bool)) (Layout, error)
}

// Networker is a backend whose services have addresses of their own. Sees tells
// what a ref to a service on the same machine is to a reader of this backend;
// not ok = what it is to everybody. field is host, address (what should be the
// same to all who read it) or port, arg the port's name; known tells whether the
// machine has an address that all may use. Of reader and target it may ask what
// others see of a service, ports, labels, dirs and options: there may be no more (graph.Service.Sketch).
type Networker interface {
	AddressFor(in Input, target *graph.Service, field, arg string, known bool) (value string, ok bool)
}

// Layout is what a unit is on a machine.
type Layout struct {
	// Name is the stable name of what runs, Unit the name of this version of it.
	Name, Unit string
	// Start names what brings the unit to life, in order: Unit itself for a service, its timer or
	// socket if that starts it. Stopping goes the other way round and ends with Unit.
	Start []string
	// Scripts run before Unit, and if one fails Unit does not start.
	Scripts []string
	// Group stands for all of a deployment on the machine: stopping it stops them. "" = there is none.
	Group string
	// Ready tells when the version counts as ready; nil = when it runs.
	Ready *Ready
	// Soak is how long a changed replica runs well before the next one's turn.
	Soak time.Duration
	// Healthy is a unit that succeeds while all is well with the set that this is a replica of; "" = nobody tells.
	Healthy string
	// Retire is a unit that takes it out of what it belongs to, before it goes for good; "" = nothing is to be done.
	Retire string
	// Graceful names the way in which two versions live at once; "" = they do not.
	Graceful string
	// Leftovers are patterns (path.Match) of files that running it leaves behind. They go with the unit.
	Leftovers []string
	// Objects go into the store before any file is written.
	Objects []Object
	// Files in the order in which they are written: what makes the new version reachable comes last.
	Files []File
}

// Ready is how to see that what runs is ready. With none of HTTP, TCP and Exec
// it is ready when it is started.
type Ready struct {
	HTTP     string        // path on Port that answers 2xx or 3xx
	TCP      bool          // Port takes connections
	Port     int           // on this machine
	Exec     string        // unit that succeeds when it is ready
	Interval time.Duration // from one look to the next
	Timeout  time.Duration // until it counts as failed
	Retries  int           // looks that may fail before it counts as failed; 0 = as many as there is time for
}

// Object is content for the store. It lies at StorePath + "/" + Name.
type Object struct {
	Name    string        // one path element: the digest's hex and what else tells it from others
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
	InPlace bool        // rewritten where it is: a running process holds it in a bind mount
	Shared  bool        // other units may own it too, with the same content; it goes with the last
}

// ObjectName is the customary name of a file in the store: equal content with
// other permissions is another object.
func ObjectName(d digest.Digest, mode fs.FileMode) string {
	return fmt.Sprintf("%s-%04o", d.Hex(), mode.Perm())
}

// NewObject makes content an object of the store under its customary name.
func NewObject(content []byte, mode fs.FileMode) Object {
	d := digest.Bytes(content)
	return Object{Name: ObjectName(d, mode), Digest: d, Content: content, Mode: mode.Perm()}
}

// SecretsPath is where the values of secrets lie on every machine: root alone may look.
const SecretsPath = "/var/lib/defx/secrets"

// SecretPath is the file that holds a secret's value on a machine. The secret's
// name is one path element there: every byte but a-z, A-Z, 0-9, "-" and "." is
// written as "_" and two hexadecimal digits, a leading "." too.
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
