// Package graph holds the nouns of a normalized deployment: defaults filled in, names resolved,
// edges explicit, order decided.
//
// It knows types and order. It refuses to know how a library writes them (compile), where a
// service runs best (place) and what a backend renders for it. Invariants of a finished Graph:
// slices are sorted by address or name; every edge ends at a service of the graph; requires and
// after form no cycle; the same deployment always gives the same bytes.
package graph

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/defx-dev/defx/internal/token"
)

// Graph is one deployment for one environment.
type Graph struct {
	Name             string
	Environment      string
	Services         []*Service // sorted by address
	Machines         []*Machine // sorted by name
	PreviousMachines []*Machine // known from earlier state: held services may still run there

	Externals map[string]*External // lib/name → external endpoint
	Resources []*Resource          // sorted by address
	Scaled    []*Service           // run by autoscaling groups, which choose the count: on no machine
	Balancers []*Balancer          // sorted by address
	Allow     map[string][]string  // lib/name or lib/* → kinds of needs that the entry file allows
	EC2       Instances            // how services of the backend ec2 are placed on instances
}

// Instances are the settings of the instances that run services of the backend ec2.
type Instances struct {
	Region              string              `json:"region,omitempty"`                                                   // default region
	Locations           map[string]Location `json:"locations,omitempty"`                                                // place.location → its region, zone and subnet
	Subnet              token.Text          `json:"subnet,omitempty"`                                                   // subnet of the instances, such as `defx.ref('a').output('id')`
	InstanceType        string              `json:"instanceType,omitempty"`                                             // type of instances that run services
	Image               string              `json:"image,omitempty"`                                                    // AMI with systemd and cloud-init, such as Debian
	ServicesPerInstance int                 `json:"servicesPerInstance,omitempty" min:"1" max:"1000"`                   // maximum number of services on one instance; if absent, as many as its capacity allows
	KeyName             token.Text          `json:"keyName,omitempty"`                                                  // key pair of the instances
	User                string              `json:"user,omitempty" default:"admin"`                                     // user for ssh
	Via                 string              `json:"via,omitempty"`                                                      // ssh address of a jump host to the instances
	Address             string              `json:"address,omitempty" enum:"private,public" default:"private"`          // which address of the instances defx connects to
	SSHFrom             []string            `json:"sshFrom,omitempty"`                                                  // networks from which ssh is allowed; that of the VPC if absent
	AuthorizedKeys      []string            `json:"authorizedKeys,omitempty"`                                           // additional public keys that are allowed to log in
	Pool                string              `json:"pool,omitempty"`                                                     // the pool that the instances belong to
	Capacity            Capacity            `json:"capacity,omitzero"`                                                  // cpu and memory of an instance, for types that defx does not know
	Bucket              token.Text          `json:"bucket,omitempty"`                                                   // bucket for the packages of services of the class `autoscale`: its name, or `defx.ref('store').output('id')` of an aws.s3 resource that sets its name
	SecretStore         string              `json:"secretStore,omitempty"`                                              // where instances of the class `autoscale` get secrets from, by name: `ssm:/PREFIX/` (parameters) or `secretsmanager:PREFIX/`
	Class               string              `json:"class,omitempty" enum:"shared,exclusive,autoscale" default:"shared"` // `shared`: services share instances; `exclusive`: one instance for each service; `autoscale`: an autoscaling group, which chooses the count
}

// Location is the region, zone and subnet for a value of place.location.
type Location struct {
	Region string     `json:"region,omitempty"` // region of its instances
	Zone   string     `json:"zone,omitempty"`   // zone of its instances, if the subnet does not determine it
	Subnet token.Text `json:"subnet,omitempty"` // subnet of its instances
}

// Balance is a cloud load balancer that forwards one port to the replicas of services.
type Balance struct {
	Backends []string     `json:"backends" required:"true"`                          // names of the services whose replicas receive the traffic
	Listen   int          `json:"listen" required:"true" min:"1" max:"65535"`        // the port that it listens on
	Target   string       `json:"target" required:"true"`                            // name of the port of its backends that it forwards to
	Attach   string       `json:"attach" enum:"auto,manual" default:"manual"`        // `auto`: a backend is registered as soon as it is ready; `manual`: only by `defx attach`, as a separate approval
	Kind     string       `json:"kind" enum:"network,application" default:"network"` // `network`: TCP connections; `application`: HTTP requests, which needs subnets in two zones
	Drain    string       `json:"drain,omitempty" format:"duration" default:"30s"`   // how long a deregistered backend may finish open connections before it is stopped; whole seconds, at most 30m
	Public   bool         `json:"public,omitempty"`                                  // it is reachable from the internet
	Subnets  []token.Text `json:"subnets,omitempty"`                                 // its subnets; `defaults.ec2.subnet` if absent
}

// Balancer is a load balancer and its backends.
type Balancer struct {
	Balance
	Address     Address
	Sets        []string     // its backends: sets, sorted
	FQDN        string       // its DNS name
	Path        []string     // its path in the entry's value
	Held        bool         // its current version has an error: this is the last good one
	Attachments []Attachment // one for each replica on an instance, sorted; known once services are assigned to instances
}

// Attachment is one replica of a balancer's backends, registered or not.
type Attachment struct {
	Module   string  // address of the module that registers it
	Backend  Address // the replica
	Attached bool    // it is wanted behind the balancer
}

// External is an endpoint that defx does not manage.
type External struct {
	Host   string            `json:"host" required:"true"` // host name or address, the same for every reader
	Ports  map[string]Port   `json:"ports,omitempty"`      // ports that it listens on
	Labels map[string]string `json:"labels,omitempty"`     // values for `.label(name)`
}

// Resource is infrastructure that is not a process.
type Resource struct {
	Address  Address
	Type     string         // "aws.vpc"
	Fields   map[string]any // what its backend reads; texts are token.Text with resolved refs
	Path     []string       // its path in the entry's value
	Held     bool
	Retained bool          // services with their own data run on it: it is not replaced without consent
	Needs    []Need        // what the service asks for that it boots
	Uploads  []token.Token // artifacts that it uploads
	Follows  []Address     // services that must be ready before its readers get their addresses
	Drain    time.Duration // not 0: it is a balancer's target; what it follows is deregistered and may finish for this long before it is stopped
}

// Fact is one host setting: something that a machine must have.
type Fact struct {
	Kind  string          // packages, sysctl, modules or users
	Key   string          // name of the package, setting, module or user
	Value json.RawMessage // canonical

	AskedBy map[string][]string `json:"-"` // functionality that requires it → path of its field in the entry's value
}

// Service is one replica of one service, with everything that is known about it before a
// backend renders it.
type Service struct {
	Address  Address
	Backend  string
	Machine  string // set by place; empty before
	Spec     Spec
	Options  json.RawMessage // options for its backend, canonical JSON; nil if none
	EC2      json.RawMessage // options for ec2, if that is its backend
	FQDN     string
	Requires []Edge // order, address, values
	Connects []Edge // reachability only
	After    []Edge // order only
	Place    Place
	Index    int    // position among the replicas of its set, from 0
	Sole     bool   // its set has no other replica
	Identity string // name under which its user and volumes were made, if that is not its own: it was renamed since

	Shares   map[string]Address // kind of a directory → the service to which it belongs; set once services are placed
	Path     []string           // path of its functionality in the entry's value
	SpecPath []string           // path of its spec; below Path
	Held     bool               // its library or functionality has an error: this is the last good version
	Patch    []string           // path of this replica's patch in the entry's value; nil if it has none
	Host     *Host              // what its machine must have
	Fact     *Fact              // not nil: a fact of its machine instead of a process; Spec is empty
	Summary  bool               // taken from a memoized summary: Spec has only ports, labels, dirs, schedule and limits
}

// String returns the address of a service as people read it.
func (s *Service) String() string {
	if s.Sole && s.Address.Replica == FirstReplica {
		return s.Address.Set()
	}
	return s.Address.String()
}

// Edge is a dependency of a service on a set of replicas.
type Edge struct {
	Alias string // name that the service uses for it
	Set   string // address without replica
	To    []Address
}

// Machine is a place that runs units.
type Machine struct {
	Name     string            `json:"name"`
	Connect  string            `json:"connect"`            // local, dir:PATH or ssh://user@host:port
	Address  string            `json:"address,omitempty"`  // what `.host` returns to readers on other machines
	HostKey  string            `json:"hostKey,omitempty"`  // pinned public host key, in authorized_keys form
	Via      string            `json:"via,omitempty"`      // ssh jump host
	Docker   string            `json:"docker,omitempty"`   // socket of its docker engine, unix:///PATH; the default socket if absent
	Pool     string            `json:"pool,omitempty"`     // pool that it belongs to
	Roles    []string          `json:"roles,omitempty"`    // sorted
	Labels   map[string]string `json:"labels,omitempty"`   // free text
	Location string            `json:"location,omitempty"` // free text: a region, a rack
	Capacity Capacity          `json:"capacity,omitzero"`  // what its services may use together
	Module   string            `json:"module,omitempty"`   // resource module that creates it; empty: it is not created by defx
	Output   string            `json:"output,omitempty"`   // output of the module that gives its address
	Identity string            `json:"identity,omitempty"` // output of the module that identifies this instance of the machine
	Instance string            `json:"instance,omitempty"` // value of Identity at the last connection
	Made     *token.Token      `json:"-"`                  // the resource output that gives its address; Module and Output name the same once they are known
	Kind     string            `json:"kind,omitempty"`     // instance type and image, if a module creates it
}

// Capacity is the cpu and memory of a machine for services.
type Capacity struct {
	CPU    string `json:"cpu,omitempty" format:"cpu"`       // cores, '0.5'; absent: not limited
	Memory string `json:"memory,omitempty" format:"memory"` // bytes with a unit, '64Gi'; absent: not limited
}

// Place is where a functionality may run, and how many replicas it has.
type Place struct {
	Machine  string            `json:"machine,omitempty"`               // exactly this machine
	Every    string            `json:"every,omitempty" enum:"machine"`  // `machine`: one replica for each suitable machine, named after it
	With     string            `json:"with,omitempty"`                  // only machines that run this functionality
	Pool     string            `json:"pool,omitempty"`                  // only machines in this pool
	Roles    []string          `json:"roles,omitempty"`                 // only machines with all of these roles
	Labels   map[string]string `json:"labels,omitempty"`                // only machines with all of these labels
	Location string            `json:"location,omitempty"`              // only machines in this location
	Except   []string          `json:"except,omitempty"`                // not on these machines
	Spread   string            `json:"spread,omitempty" enum:"machine"` // `machine`: at most one replica for each machine
	Replicas *Replicas         `json:"replicas,omitempty"`              // number of replicas, or name → patch that is added to the functionality for this replica; absent: 1
}

// Replicas is a number of replicas or their names. As JSON: a number, or name → patch.
type Replicas struct {
	Count int      // if Names is nil: their names are 0 to Count−1
	Names []string // sorted
}

// List returns the names of all replicas.
func (r *Replicas) List() []string {
	if r == nil {
		return []string{FirstReplica}
	}
	if r.Names != nil {
		return r.Names
	}
	out := make([]string, r.Count)
	for i := range out {
		out[i] = strconv.Itoa(i)
	}
	return out
}

// MarshalJSON writes the number, or the list of names.
func (r *Replicas) MarshalJSON() ([]byte, error) {
	if r.Names != nil {
		return json.Marshal(r.Names)
	}
	return json.Marshal(r.Count)
}

// Excludes returns the rule that excludes a machine, or "".
func (p Place) Excludes(m *Machine) string {
	why, _ := p.excludes(m)
	return why
}

// ExcludedBy returns the path below place of the field that excludes a machine, or nil.
func (p Place) ExcludedBy(m *Machine) []string {
	_, field := p.excludes(m)
	return field
}

func (p Place) excludes(m *Machine) (string, []string) {
	switch {
	case p.Pool != "" && m.Pool != p.Pool:
		return fmt.Sprintf("is not in pool %q", p.Pool), []string{"pool"}
	case p.Location != "" && m.Location != p.Location:
		return fmt.Sprintf("is not in location %q", p.Location), []string{"location"}
	case slices.Contains(p.Except, m.Name):
		return "is in place.except", []string{"except"}
	}
	for i, r := range p.Roles {
		if !slices.Contains(m.Roles, r) {
			return fmt.Sprintf("lacks role %q", r), []string{"roles", strconv.Itoa(i)}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(p.Labels)) {
		if m.Labels[k] != p.Labels[k] {
			return fmt.Sprintf("lacks label %s=%q", k, p.Labels[k]), []string{"labels", k}
		}
	}
	return "", nil
}

// Host is what a machine must have before a service starts there. If two services ask for the
// same setting it is set once; if they ask for different values, both are errors.
type Host struct {
	Packages []string           `json:"packages,omitempty"` // packages of the system's package manager, NAME or NAME=VERSION; they stay installed when no service asks for them any more
	Sysctl   map[string]Setting `json:"sysctl,omitempty"`   // kernel settings; restored when no service asks for them any more
	Modules  []string           `json:"modules,omitempty"`  // kernel modules to load
	Users    map[string]User    `json:"users,omitempty"`    // system users; they stay when no service asks for them any more
}

// Setting is the value of a kernel setting: a string, or in JSON also a whole number.
type Setting string

// Selection selects services of the deployment. Exactly one field is set.
type Selection struct {
	Port  string `json:"port,omitempty"`  // services with a port of this name
	Label string `json:"label,omitempty"` // services with this label
}

// Valid reports whether exactly one field is set.
func (s *Selection) Valid() bool { return s != nil && (s.Port == "") != (s.Label == "") }

// Selects reports whether svc is selected.
func (s *Selection) Selects(svc *Service) bool {
	if s.Port != "" {
		_, ok := svc.Spec.Ports[s.Port]
		return ok
	}
	_, ok := svc.Spec.Labels[s.Label]
	return ok
}

// Name returns the canonical name of a selection, which tokens carry.
func (s *Selection) Name() string {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err) // two strings always encode
	}
	return string(raw)
}

// User is a system user.
type User struct {
	UID    int      `json:"uid,omitempty" min:"1" max:"65533"` // the machine chooses one if absent
	Groups []string `json:"groups,omitempty"`                  // supplementary groups
	Home   string   `json:"home,omitempty"`                    // absolute path; / if absent
	Shell  string   `json:"shell,omitempty"`                   // absolute path; nologin if absent
}

// Spec is what a service runs, independent of its backend. Text fields may contain tokens.
//
// The comment of each field says what a change of it does: "run" is in the digest and in the
// version (a change restarts), "meta" is in the digest only (a change is recorded without a
// restart), "none" is in neither.
type Spec struct {
	Command     []token.Text          `json:"command,omitempty"`                                                  // run: program and its first arguments, without a shell; a relative program is looked up in `package`
	Args        []token.Text          `json:"args,omitempty"`                                                     // run: appended to `command`
	Image       string                `json:"image,omitempty"`                                                    // run: OCI image; a tag gets its digest from defx.lock.json
	Package     token.Text            `json:"package,omitempty"`                                                  // run: exactly one artifact: the program and its files
	Env         map[string]token.Text `json:"env,omitempty"`                                                      // run: environment variables
	Secrets     map[string]token.Text `json:"secrets,omitempty"`                                                  // run: name → `defx.secret('name')`: a file on the machine; the variable $NAME_FILE has its path
	Files       map[string]File       `json:"files,omitempty"`                                                    // run, or reload if `reload` is set: absolute path → content, visible to this service only
	HostFiles   map[string]File       `json:"hostFiles,omitempty"`                                                // run, or reload if `reload` is set: absolute path → content, written to the machine and visible to all; each path has one owner
	Dirs        Dirs                  `json:"dirs,omitzero"`                                                      // run: directories that the machine keeps for it
	Ports       map[string]Port       `json:"ports,omitempty"`                                                    // meta, but run if it is below 1024 or in a container: name → port it listens on; services that read a port through a token change with it
	User        string                `json:"user,omitempty"`                                                     // run: user that it runs as; absent: a system user made for this service while it runs (DynamicUser)
	Ready       *Ready                `json:"ready,omitempty"`                                                    // meta, but `notify` is run: how to check that it is ready; services that require it start then
	Initializer []token.Text          `json:"initializer,omitempty"`                                              // meta, but adding or removing it is run: command before its first start on a machine; it is repeated until it succeeds once, so it must be idempotent
	Migrate     []token.Text          `json:"migrate,omitempty"`                                                  // run: command before the first start of each version; each replica runs it, one after the other (`update.atOnce` at a time)
	Schedule    *Schedule             `json:"schedule,omitempty"`                                                 // meta, but adding or removing it is run: when it runs, if it does not run all the time
	Sockets     map[string]Socket     `json:"sockets,omitempty"`                                                  // run: name → listener that the machine opens for it
	Limits      *Limits               `json:"limits,omitempty"`                                                   // run: upper limits of what it may use
	Restart     string                `json:"restart,omitempty" enum:"always,on-failure,no" default:"on-failure"` // run: when it is restarted after it exits
	Reload      *Reload               `json:"reload,omitempty"`                                                   // meta: how it loads changed `files` without a restart
	Stop        *Stop                 `json:"stop,omitempty"`                                                     // run: how it is stopped
	Update      *Update               `json:"update,omitempty"`                                                   // meta: how its replicas are updated
	Retire      []token.Text          `json:"retire,omitempty"`                                                   // meta: command that runs next to it before it is deleted, but not before a move; while the command fails, the service is kept
	Protect     bool                  `json:"protect,omitempty"`                                                  // none: removing it from the configuration does not delete it; deletion must be confirmed with `--allow-delete`
	Links       []Link                `json:"links,omitempty"`                                                    // none: links to more about it: a runbook, a dashboard
	Labels      map[string]string     `json:"labels,omitempty"`                                                   // none by itself: free text about it; services that read a label through a token change with it
}

// File is the content of a file. Exactly one of `text`, `json`, `yaml`, `toml`, `ini`, `env`
// and `from` is set. Structured kinds are encoded after their tokens are replaced; a value that
// is only a port becomes a number there.
type File struct {
	Text  token.Text            `json:"text,omitempty"`                // content as text
	JSON  *token.Doc            `json:"json,omitempty"`                // content as a JSON value; strings may contain tokens, and a value that is only a port becomes a number
	YAML  *token.Doc            `json:"yaml,omitempty"`                // the same, encoded as YAML
	TOML  *token.Doc            `json:"toml,omitempty"`                // the same, encoded as TOML; must be an object
	INI   *token.Doc            `json:"ini,omitempty"`                 // the same, encoded as INI: key → value, or section → key → value; a list repeats its key
	Env   map[string]token.Text `json:"env,omitempty"`                 // lines NAME=value, in the format of systemd and docker
	From  token.Text            `json:"from,omitempty"`                // exactly one artifact: a file
	Mode  string                `json:"mode,omitempty" default:"0444"` // permissions, in octal
	Owner string                `json:"owner,omitempty"`               // owner; root if absent
}

// Kind returns the field that holds the content; "" unless exactly one does.
func (f File) Kind() string {
	kinds := f.Kinds()
	if len(kinds) != 1 {
		return ""
	}
	return kinds[0]
}

// Kinds returns the fields that hold content.
func (f File) Kinds() []string {
	var out []string
	for _, k := range []struct {
		name string
		set  bool
	}{{"text", f.Text != nil}, {"json", f.JSON != nil}, {"yaml", f.YAML != nil}, {"toml", f.TOML != nil},
		{"ini", f.INI != nil}, {"env", f.Env != nil}, {"from", f.From != nil}} {
		if k.set {
			out = append(out, k.name)
		}
	}
	return out
}

// Doc returns the content of a structured kind; nil if there is none.
func (f File) Doc() *token.Doc {
	for _, d := range []*token.Doc{f.JSON, f.YAML, f.TOML, f.INI} {
		if d != nil {
			return d
		}
	}
	return nil
}

// Dirs are directories that the machine keeps for the service, one of each kind. A name is that
// of a directory of the service's own, defx/ENVIRONMENT/DEPLOYMENT/ADDRESS/NAME below the
// standard directory of its kind (/var/lib, /var/cache, /var/log, /run): the program gets its
// path from `defx.me.dir('state')` or from $STATE_DIRECTORY, $CACHE_DIRECTORY and so on.
type Dirs struct {
	State   Dir `json:"state,omitzero"`   // its data, below /var/lib; it protects the service from deletion
	Cache   Dir `json:"cache,omitzero"`   // what it can make again, below /var/cache
	Logs    Dir `json:"logs,omitzero"`    // its log files, below /var/log
	Runtime Dir `json:"runtime,omitzero"` // sockets and the like, below /run
}

// Dir is one directory of a service. Exactly one of `name`, `path` and `of` is set; a string is
// the name.
type Dir struct {
	Name string `json:"name,omitempty"` // name among the directories of the service
	Path string `json:"path,omitempty"` // absolute path on the machine, taken literally; the service needs a static `user`, and nothing else on the machine may use the path
	Of   string `json:"of,omitempty"`   // name of a service whose directory of this kind is shared; both are placed on the same machine, and the other service keeps the protection of the data
}

// DirKinds are the kinds of directories, each with its field in Dirs.
var DirKinds = []string{"state", "cache", "logs", "runtime"}

// dirRoots are the standard directories.
var dirRoots = map[string]string{"state": "/var/lib", "cache": "/var/cache", "logs": "/var/log", "runtime": "/run"}

// DirRoot returns the standard directory of a kind.
func DirRoot(kind string) string { return dirRoots[kind] }

// Kind returns the directory of a kind, or nil if there is no such kind.
func (d *Dirs) Kind(kind string) *Dir {
	switch kind {
	case "state":
		return &d.State
	case "cache":
		return &d.Cache
	case "logs":
		return &d.Logs
	case "runtime":
		return &d.Runtime
	}
	return nil
}

// IsZero reports whether no directory is set.
func (d Dirs) IsZero() bool { return d == Dirs{} }

// Own reports whether the directory belongs to the service that declares it.
func (d Dir) Own() bool { return d.Name != "" || d.Path != "" }

// String returns a directory as it was declared.
func (d Dir) String() string {
	if d.Of != "" {
		return "of " + d.Of
	}
	return cmp.Or(d.Path, d.Name)
}

// MarshalJSON writes a name as a string.
func (d Dir) MarshalJSON() ([]byte, error) {
	if d.Name != "" {
		return json.Marshal(d.Name)
	}
	type plain Dir
	return json.Marshal(plain(d))
}

// UnmarshalJSON reads the form of MarshalJSON.
func (d *Dir) UnmarshalJSON(raw []byte) error {
	*d = Dir{}
	if len(raw) > 0 && raw[0] == '"' {
		return json.Unmarshal(raw, &d.Name)
	}
	type plain Dir
	return json.Unmarshal(raw, (*plain)(d))
}

// DirName returns the directory of a service's own directories, below the standard directory of
// each kind: defx/ENVIRONMENT/DEPLOYMENT/ADDRESS.
func DirName(environment, deployment string, a Address) string {
	return "defx/" + environment + "/" + deployment + "/" + a.FileName()
}

// DirPath returns the path of a directory that belongs to a service.
func DirPath(environment, deployment string, a Address, kind string, d Dir) string {
	if d.Path != "" {
		return d.Path
	}
	return dirRoots[kind] + "/" + DirName(environment, deployment, a) + "/" + d.Name
}

// DirOwner returns the service to which a directory of s belongs: s, or the one whose directory
// it shares. It returns nil if that is not known yet, or if s has no such directory.
func (g *Graph) DirOwner(s *Service, kind string) *Service {
	switch d := s.Spec.Dirs.Kind(kind); {
	case d == nil || *d == Dir{}:
		return nil
	case d.Of == "":
		return s
	}
	if a, ok := s.Shares[kind]; ok {
		return g.Find(a)
	}
	return nil
}

// Port is a port that a service listens on.
type Port struct {
	Port     int    `json:"port" min:"1" max:"65535"`                        // port number
	Protocol string `json:"protocol,omitempty" enum:"tcp,udp" default:"tcp"` // two services on a machine cannot use the same port and protocol
}

// Ready is the readiness check of a service.
type Ready struct {
	HTTP     string       `json:"http,omitempty"`                                    // path on `port` that must answer with 2xx or 3xx
	TCP      bool         `json:"tcp,omitempty"`                                     // `port` must accept connections
	Exec     []token.Text `json:"exec,omitempty"`                                    // command that must exit 0
	Notify   bool         `json:"notify,omitempty"`                                  // run: the service reports readiness with sd_notify
	Port     string       `json:"port,omitempty"`                                    // name in `ports`; required if there are several
	Interval string       `json:"interval,omitempty" format:"duration" default:"1s"` // time between two checks
	Timeout  string       `json:"timeout,omitempty" format:"duration" default:"30s"` // time after which apply reports a failure
	Retries  int          `json:"retries,omitempty" min:"0"`                         // checks that may fail after the first success
	Count    int          `json:"count,omitempty" min:"0"`                           // number of ready replicas after which dependents start; 0 = all
}

// Update is how replicas are updated: a few at a time, stopping at the first failure.
type Update struct {
	Style     string       `json:"style,omitempty" enum:"inplace,graceful" default:"inplace"` // `graceful`: the new version is ready before the old one stops; requires `sockets` or `reuseport`
	ReusePort bool         `json:"reuseport,omitempty"`                                       // the service opens its ports with SO_REUSEPORT, so that two versions can run at the same time
	AtOnce    int          `json:"atOnce,omitempty" min:"1" default:"1"`                      // number of replicas that are updated at the same time
	Soak      string       `json:"soak,omitempty" format:"duration"`                          // how long an updated replica must stay healthy before the next one is updated
	Healthy   []token.Text `json:"healthy,omitempty"`                                         // health command of the whole set, exit 0 = healthy, run next to a replica before and after its update; while it fails, only replicas that are not ready are updated
}

// Schedule is when a service runs. Exactly one of `cron` and `every` is set.
type Schedule struct {
	Cron     string `json:"cron,omitempty" format:"cron"`                    // minute, hour, day, month, weekday; instead of `every`
	Every    string `json:"every,omitempty" format:"duration"`               // time between two starts; instead of `cron`
	Timezone string `json:"timezone,omitempty"`                              // IANA name; UTC if absent
	Jitter   string `json:"jitter,omitempty" format:"duration"`              // maximum random delay
	Missed   string `json:"missed,omitempty" enum:"run,skip" default:"skip"` // `run`: start a run that was missed while the machine was off; `skip`: wait for the next one
}

// Socket is a listener that the machine opens for the service: a port or a unix socket.
type Socket struct {
	Port string `json:"port,omitempty"` // name in `ports`; instead of `path`
	Path string `json:"path,omitempty"` // absolute path of a unix socket; instead of `port`
	Mode string `json:"mode,omitempty"` // permissions of the unix socket, in octal
}

// Limits are upper limits of what a service may use.
type Limits struct {
	CPU       string `json:"cpu,omitempty" format:"cpu"`       // cores, '0.5'
	Memory    string `json:"memory,omitempty" format:"memory"` // bytes with a unit, '512Mi'; at least 1Mi
	Tasks     int    `json:"tasks,omitempty" min:"1"`          // number of processes and threads
	OpenFiles int    `json:"openFiles,omitempty" min:"1"`      // number of open file descriptors
}

// Reload is how a service loads changed files without a restart.
type Reload struct {
	Signal  string       `json:"signal,omitempty"`  // signal to its main process; instead of `command`
	Command []token.Text `json:"command,omitempty"` // command that runs next to it; instead of `signal`
	Check   []token.Text `json:"check,omitempty"`   // command that runs next to it before each reload; if it fails, the files are restored and nothing is reloaded
}

// Stop is how a service is stopped.
type Stop struct {
	Signal  string       `json:"signal,omitempty"`                    // sent first, instead of SIGTERM
	Command []token.Text `json:"command,omitempty"`                   // command before the signal
	Timeout string       `json:"timeout,omitempty" format:"duration"` // time after which it is killed
}

// Link is a link to more about a service.
type Link struct {
	Rel  string `json:"rel" required:"true"`  // what it is: runbook, dashboard, source
	Href string `json:"href" required:"true"` // URL
}
