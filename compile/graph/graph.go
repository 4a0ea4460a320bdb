// Package graph holds the nouns of a normalized deployment: defaults filled
// in, names resolved, edges explicit, order decided.
//
// It knows shapes and order. It refuses to know how a library writes them
// (compile), where a service runs best (place) and what a backend makes of it.
// Invariants of a finished Graph: slices are sorted by address or name; every
// edge ends at a service of the graph; requires and after hold no cycle; the
// same deployment always gives the same bytes.
package graph

import (
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
	PreviousMachines []*Machine // known from earlier state: what is held may still stand there

	Externals map[string]*External // lib/name → what stands without defx
	Resources []*Resource          // sorted by address
	Scaled    []*Service           // run by groups whose count the cloud owns: on no machine
	Balancers []*Balancer          // sorted by address
	EC2       Instances            // how services of the backend ec2 come to machines
}

// Instances say how services of the backend ec2 come to machines.
type Instances struct {
	Region              string              `json:"region,omitempty"`                                                   // region of what names none
	Locations           map[string]Location `json:"locations,omitempty"`                                                // place.location → where that is
	Subnet              token.Text          `json:"subnet,omitempty"`                                                   // subnet of the instances: defx.ref('a').output('id')
	InstanceType        string              `json:"instanceType,omitempty"`                                             // of instances that run services
	Image               string              `json:"image,omitempty"`                                                    // a Debian or another system with systemd and cloud-init
	ServicesPerInstance int                 `json:"servicesPerInstance,omitempty" min:"1" max:"1000"`                   // the most on one instance; without it, what its capacity allows
	KeyName             token.Text          `json:"keyName,omitempty"`                                                  // key pair whose owner may go in
	User                string              `json:"user,omitempty" default:"admin"`                                     // whom ssh goes in as
	Via                 string              `json:"via,omitempty"`                                                      // ssh address of a machine through which instances are reached
	Address             string              `json:"address,omitempty" enum:"private,public" default:"private"`          // the address by which instances are reached
	SSHFrom             []string            `json:"sshFrom,omitempty"`                                                  // networks from which ssh may come; the VPC's own if absent
	AuthorizedKeys      []string            `json:"authorizedKeys,omitempty"`                                           // public keys that may go in besides
	Pool                string              `json:"pool,omitempty"`                                                     // the pool that the instances belong to
	Capacity            map[string]string   `json:"capacity,omitempty"`                                                 // cpu and memory of an instance, if its type is not known here
	Bucket              token.Text          `json:"bucket,omitempty"`                                                   // a bucket for the packages of services of the class `autoscale`: its name, or `defx.ref('store').output('id')` of an aws.s3 that says its name
	SecretStore         string              `json:"secretStore,omitempty"`                                              // where instances of the class `autoscale` find secrets by name: `ssm:/PREFIX/` (parameters) or `secretsmanager:PREFIX/`
	Class               string              `json:"class,omitempty" enum:"shared,exclusive,autoscale" default:"shared"` // `exclusive`: an instance of its own; `autoscale`: a group whose count the cloud owns
}

// Location is where machines of one place.location are.
type Location struct {
	Region string     `json:"region,omitempty"` // of its instances
	Zone   string     `json:"zone,omitempty"`   // of its instances, if its subnet does not say
	Subnet token.Text `json:"subnet,omitempty"` // of its instances
}

// Balance is a balancer of the cloud, which takes what comes to one port to the replicas of services.
type Balance struct {
	Backends []string     `json:"backends" required:"true"`                          // functionalities of services whose replicas stand behind it
	Listen   int          `json:"listen" required:"true" min:"1" max:"65535"`        // the port that it listens on
	Target   string       `json:"target" required:"true"`                            // name of the port of its backends that it leads to
	Attach   string       `json:"attach" enum:"auto,manual" default:"manual"`        // `auto`: a backend is put behind it as soon as it is ready; `manual`: by `defx attach`, an approval of its own
	Kind     string       `json:"kind" enum:"network,application" default:"network"` // `network`: connections of TCP; `application`: requests of HTTP, in subnets of two zones
	Drain    string       `json:"drain,omitempty" format:"duration" default:"30s"`   // how long a backend that is taken out may finish what it began, before it is stopped; whole seconds, at most 30m
	Public   bool         `json:"public,omitempty"`                                  // it has an address in the internet
	Subnets  []token.Text `json:"subnets,omitempty"`                                 // where it stands; `defaults.ec2.subnet` if absent
}

// Balancer is a balancer and what stands behind it.
type Balancer struct {
	Balance
	Address     Address
	Sets        []string     // its backends: sets, sorted
	FQDN        string       // its name in DNS
	Path        []string     // where it stands in the entry's value
	Held        bool         // it did not evaluate: the last good one stands here
	Attachments []Attachment // one for each replica on an instance, sorted; known once services are packed
}

// Attachment is one replica behind a balancer, or not yet.
type Attachment struct {
	Module   string  // address of the module that puts it there
	Backend  Address // the replica
	Attached bool    // it should be there
}

// External is a name for what stands already.
type External struct {
	Host   string            `json:"host" required:"true"` // a name or an address, as every reader sees it
	Ports  map[string]Port   `json:"ports,omitempty"`      // what it listens on
	Labels map[string]string `json:"labels,omitempty"`     // what `.label(name)` gives
}

// Resource is infrastructure that is not a process.
type Resource struct {
	Address  Address
	Type     string         // "aws.vpc"
	Fields   map[string]any // what its backend reads; texts are token.Text with resolved refs
	Path     []string       // where it stands in the entry's value
	Held     bool
	Retained bool          // what stands on it has data of its own: it is not replaced unasked
	Uploads  []token.Token // artifacts that it uploads
	Follows  []Address     // services that must be ready before it tells others where they are
	Drain    time.Duration // not 0: it leads to what it follows, which is taken out and may finish for so long before it is stopped
}

// Fact is one thing that a machine must have.
type Fact struct {
	Kind  string          // packages, sysctl, modules or users
	Key   string          // the package's, setting's, module's or user's name
	Value json.RawMessage // canonical
}

// Service is one replica of one service, with everything that is known of it
// before a backend renders it.
type Service struct {
	Address  Address
	Backend  string
	Machine  string // chosen by place; empty before
	Spec     Spec
	Options  json.RawMessage // the namespace of its backend, canonical; nil if none
	EC2      json.RawMessage // the namespace ec2, if the backend is that one
	FQDN     string
	Requires []Edge // order, address, values
	Connects []Edge // reachability only
	After    []Edge // order only
	Place    Place
	Index    int      // among the replicas of its set
	Path     []string // where its functionality stands in the entry's value
	SpecPath []string // where its spec stands; below Path
	Held     bool     // its library or functionality did not evaluate: the last good one stands here
	Patch    []string // where the patch of this replica stands in the entry's value; nil if it has none
	Host     *Host    // what its machine must have
	Fact     *Fact    // not nil: no process but a fact of its machine; Spec is empty
	Summary  bool     // an earlier run knows what it comes to: Spec has ports, labels, dirs and schedule alone
}

// Edge leads from a service to a set of replicas.
type Edge struct {
	Alias string // how the source calls it
	Set   string // address without replica
	To    []Address
}

// Machine is a place that runs units.
type Machine struct {
	Name     string            `json:"name"`
	Connect  string            `json:"connect"`            // local, dir:PATH or ssh://user@host:port
	Address  string            `json:"address,omitempty"`  // what .host gives to readers elsewhere
	HostKey  string            `json:"hostKey,omitempty"`  // pinned public key, authorized_keys form
	Via      string            `json:"via,omitempty"`      // ssh hop
	Docker   string            `json:"docker,omitempty"`   // where its docker engine listens: unix:///PATH; the usual place if absent
	Pool     string            `json:"pool,omitempty"`     // the set it belongs to
	Roles    []string          `json:"roles,omitempty"`    // sorted
	Labels   map[string]string `json:"labels,omitempty"`   //
	Location string            `json:"location,omitempty"` // free text: a region, a rack
	Capacity map[string]string `json:"capacity,omitempty"` // resource → amount
	Module   string            `json:"module,omitempty"`   // the module of resources that makes it; empty: it was there before
	Output   string            `json:"output,omitempty"`   // the module's output that gives its address
	Identity string            `json:"identity,omitempty"` // the module's output that tells whether it is still the same machine
	Instance string            `json:"instance,omitempty"` // what that was when it was last reached
	Made     *token.Token      `json:"-"`                  // the output of a resource that gives its address; Module and Output say the same once they are known
	Kind     string            `json:"kind,omitempty"`     // instance type and image, of what a module makes
}

// Place says where a functionality may run.
type Place struct {
	Machine  string            `json:"machine,omitempty"`               // this one and no other
	Every    string            `json:"every,omitempty" enum:"machine"`  // `machine`: one replica for each machine that fits, named by it
	With     string            `json:"with,omitempty"`                  // only where this functionality runs
	Pool     string            `json:"pool,omitempty"`                  // only machines of this pool
	Roles    []string          `json:"roles,omitempty"`                 // only machines that have all of these
	Labels   map[string]string `json:"labels,omitempty"`                // only machines that carry all of these
	Location string            `json:"location,omitempty"`              // only machines there
	Except   []string          `json:"except,omitempty"`                // never these machines
	Spread   string            `json:"spread,omitempty" enum:"machine"` // `machine`: no two replicas on one machine
	Replicas *Replicas         `json:"replicas,omitempty"`              // how many, or name → patch that is added to the functionality for this one; absent means one, without a replica in its address
}

// Replicas is how many there are, or what each is called. As JSON: a number, or name → patch.
type Replicas struct {
	Count int      // if Names is nil: they are called 0 to Count−1
	Names []string // sorted
}

// List gives the names of all.
func (r *Replicas) List() []string {
	if r == nil {
		return []string{""}
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

// MarshalJSON writes the number, or the names.
func (r *Replicas) MarshalJSON() ([]byte, error) {
	if r.Names != nil {
		return json.Marshal(r.Names)
	}
	return json.Marshal(r.Count)
}

// Excludes gives the rule that keeps a service from a machine, or "".
func (p Place) Excludes(m *Machine) string {
	why, _ := p.excludes(m)
	return why
}

// ExcludedBy gives the field, below place, that keeps a service from a machine, or nil.
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
		return "is excepted", []string{"except"}
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

// Host is what a machine must have before a service starts there. Equal claims
// of several services are one; unequal ones are refused.
type Host struct {
	Packages []string           `json:"packages,omitempty"` // of the machine's own package manager, NAME or NAME=VERSION; forgotten, not removed, with the last owner
	Sysctl   map[string]Setting `json:"sysctl,omitempty"`   // kernel settings; they go back with the last owner
	Modules  []string           `json:"modules,omitempty"`  // kernel modules that are loaded
	Users    map[string]User    `json:"users,omitempty"`    // system users; forgotten, not removed, with the last owner
}

// Setting is the value of a kernel setting: a text, or as JSON a whole number.
type Setting string

// Selection chooses services of a deployment. Exactly one field is set.
type Selection struct {
	Port  string `json:"port,omitempty"`  // those that have a port of this name
	Label string `json:"label,omitempty"` // those that carry this label
}

// Valid tells whether exactly one field is set.
func (s *Selection) Valid() bool { return s != nil && (s.Port == "") != (s.Label == "") }

// Selects tells whether a service is chosen.
func (s *Selection) Selects(svc *Service) bool {
	if s.Port != "" {
		_, ok := svc.Spec.Ports[s.Port]
		return ok
	}
	_, ok := svc.Spec.Labels[s.Label]
	return ok
}

// Name is the one name of a selection, which tokens carry.
func (s *Selection) Name() string {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err) // two texts always encode
	}
	return string(raw)
}

// User is a system user.
type User struct {
	UID    int      `json:"uid,omitempty" min:"1" max:"65533"` // the machine takes a free one if absent
	Groups []string `json:"groups,omitempty"`                  // further groups
	Home   string   `json:"home,omitempty"`                    // absolute; / if absent
	Shell  string   `json:"shell,omitempty"`                   // absolute; nologin if absent
}

// Spec is what a service is, whatever runs it. Text fields may carry tokens.
//
// The comment of each field says where it goes: "run" is in the digest and in
// the version (a change restarts), "meta" is in the digest only (a change is
// taken over without a restart), "none" is in neither.
type Spec struct {
	Command     []token.Text          `json:"command,omitempty"`                                                  // run: program and first arguments, without a shell; a relative program is looked up in `package`
	Args        []token.Text          `json:"args,omitempty"`                                                     // run: appended to `command`
	Image       string                `json:"image,omitempty"`                                                    // run: OCI image; one by tag takes its digest from the lock
	Package     token.Text            `json:"package,omitempty"`                                                  // run: one artifact and nothing else: the program and what it brings along
	Env         map[string]token.Text `json:"env,omitempty"`                                                      // run: variables of its environment
	Secrets     map[string]token.Text `json:"secrets,omitempty"`                                                  // run: name → `defx.secret('name')`: a file on the machine; its path is in the variable $NAME_FILE
	Files       map[string]File       `json:"files,omitempty"`                                                    // run, or reload if `reload` is set: absolute path → content, seen by this service alone
	HostFiles   map[string]File       `json:"hostFiles,omitempty"`                                                // run, or reload if `reload` is set: absolute path → content, really written on the machine and seen by all; one owner a path
	Dirs        Dirs                  `json:"dirs,omitzero"`                                                      // run: directories that the machine keeps for it
	Ports       map[string]Port       `json:"ports,omitempty"`                                                    // meta, but run if it is below 1024 or in a container: name → port it listens on; what reads one through a token changes with it
	User        string                `json:"user,omitempty"`                                                     // run: user it runs as; absent means a dynamic one of its own
	Ready       *Ready                `json:"ready,omitempty"`                                                    // meta, but `notify` is run: how to see that it serves; what requires it starts then
	Initializer []token.Text          `json:"initializer,omitempty"`                                              // meta, but having one is run: command before its first start on a machine; runs until it succeeded once, so it must bear repetition
	Migrate     []token.Text          `json:"migrate,omitempty"`                                                  // run: command before the first start of each version; each replica runs it, one after the other (`update.atOnce` at a time)
	Schedule    *Schedule             `json:"schedule,omitempty"`                                                 // meta, but having one is run: it runs on time instead of always
	Sockets     map[string]Socket     `json:"sockets,omitempty"`                                                  // run: name → listener that the machine holds for it
	Limits      *Limits               `json:"limits,omitempty"`                                                   // run: what it may use at most
	Restart     string                `json:"restart,omitempty" enum:"always,on-failure,no" default:"on-failure"` // run: when it is started again after it ended
	Reload      *Reload               `json:"reload,omitempty"`                                                   // meta: how it takes over changed `files` without a restart
	Stop        *Stop                 `json:"stop,omitempty"`                                                     // run: how it ends
	Update      *Update               `json:"update,omitempty"`                                                   // meta: how its replicas change
	Retire      []token.Text          `json:"retire,omitempty"`                                                   // meta: command beside it before it is deleted for good, not before it moves; while that fails it stays
	Protect     bool                  `json:"protect,omitempty"`                                                  // none: not deleted because its lines vanished
	Links       []Link                `json:"links,omitempty"`                                                    // none: addresses that say more about it: a runbook, a dashboard
	Labels      map[string]string     `json:"labels,omitempty"`                                                   // none by themselves: free words about it; what reads one through a token changes with it
}

// File is content at a path. Exactly one of `text`, `json`, `yaml`, `toml`, `ini`, `env` and `from` is set.
// Structured kinds are written after their tokens are filled; there a lone port is a number.
type File struct {
	Text  token.Text            `json:"text,omitempty"`                // its content
	JSON  *token.Doc            `json:"json,omitempty"`                // its content as a value; texts may hold tokens, and a lone port becomes a number
	YAML  *token.Doc            `json:"yaml,omitempty"`                // the same, written as YAML
	TOML  *token.Doc            `json:"toml,omitempty"`                // the same, written as TOML; an object
	INI   *token.Doc            `json:"ini,omitempty"`                 // the same, written as INI: key → value, or section → key → value; a list repeats its key
	Env   map[string]token.Text `json:"env,omitempty"`                 // lines NAME=value, as systemd and docker read them
	From  token.Text            `json:"from,omitempty"`                // one artifact and nothing else: a file
	Mode  string                `json:"mode,omitempty" default:"0444"` // its rights, in octal
	Owner string                `json:"owner,omitempty"`               // user it belongs to; root if absent
}

// Kind names the one field that holds the content.
func (f File) Kind() string {
	kinds := f.Kinds()
	if len(kinds) != 1 {
		return ""
	}
	return kinds[0]
}

// Kinds names the fields that hold content.
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

// Doc is the content of a structured kind.
func (f File) Doc() *token.Doc {
	for _, d := range []*token.Doc{f.JSON, f.YAML, f.TOML, f.INI} {
		if d != nil {
			return d
		}
	}
	return nil
}

// Dirs are directories that the machine keeps for the service: a name below the
// customary place of each kind (/var/lib, /var/cache, /var/log, /run).
type Dirs struct {
	State   string `json:"state,omitempty"`   // below /var/lib; protects the service from deletion
	Cache   string `json:"cache,omitempty"`   // below /var/cache
	Logs    string `json:"logs,omitempty"`    // below /var/log
	Runtime string `json:"runtime,omitempty"` // below /run
}

// IsZero tells whether no directory is asked for.
func (d Dirs) IsZero() bool { return d == Dirs{} }

// Port is a number that a service listens on.
type Port struct {
	Port     int    `json:"port" min:"1" max:"65535"`                        // the number
	Protocol string `json:"protocol,omitempty" enum:"tcp,udp" default:"tcp"` // equal ports of one protocol do not meet on a machine
}

// Ready says how to see that a service serves.
type Ready struct {
	HTTP     string       `json:"http,omitempty"`                                    // path on `port` that answers 2xx or 3xx
	TCP      bool         `json:"tcp,omitempty"`                                     // `port` accepts connections
	Exec     []token.Text `json:"exec,omitempty"`                                    // a command that exits 0
	Notify   bool         `json:"notify,omitempty"`                                  // run: the service tells by sd_notify
	Port     string       `json:"port,omitempty"`                                    // name in `ports`; needed if there are several
	Interval string       `json:"interval,omitempty" format:"duration" default:"1s"` // between two looks
	Timeout  string       `json:"timeout,omitempty" format:"duration" default:"30s"` // after which an apply takes it for failed
	Retries  int          `json:"retries,omitempty" min:"0"`                         // looks that may fail after the first that succeeded
	Count    int          `json:"count,omitempty" min:"0"`                           // replicas that suffice for what requires it; 0 = all
}

// Update says how replicas change: a few at a time, and none after one failed.
type Update struct {
	Style     string       `json:"style,omitempty" enum:"inplace,graceful" default:"inplace"` // `graceful`: the new version is ready before the old one stops; it needs `sockets` or `reuseport`
	ReusePort bool         `json:"reuseport,omitempty"`                                       // it opens its ports with SO_REUSEPORT, so that two versions can live at once
	AtOnce    int          `json:"atOnce,omitempty" min:"1" default:"1"`                      // replicas that change at the same time
	Soak      string       `json:"soak,omitempty" format:"duration"`                          // how long a changed one runs well before the next one's turn
	Healthy   []token.Text `json:"healthy,omitempty"`                                         // a command that exits 0 while all is well, run beside the replica before and after it changes; while it fails, only replicas change that are not ready themselves
}

// Schedule says when a service runs. Exactly one of `cron` and `every` is set.
type Schedule struct {
	Cron     string `json:"cron,omitempty" format:"cron"`                    // minute, hour, day, month, weekday; instead of `every`
	Every    string `json:"every,omitempty" format:"duration"`               // between two starts; instead of `cron`
	Timezone string `json:"timezone,omitempty"`                              // IANA name; UTC if absent
	Jitter   string `json:"jitter,omitempty" format:"duration"`              // at most so much later, at random
	Missed   string `json:"missed,omitempty" enum:"run,skip" default:"skip"` // what becomes of a run that was due while the machine was off
}

// Socket is a listener held by the machine: a port's name or an absolute path.
type Socket struct {
	Port string `json:"port,omitempty"` // name in `ports`; instead of `path`
	Path string `json:"path,omitempty"` // absolute path of a unix socket; instead of `port`
	Mode string `json:"mode,omitempty"` // rights of the path, in octal
}

// Limits bound what a service may use.
type Limits struct {
	CPU       string `json:"cpu,omitempty" format:"cpu"`     // cores, '0.5'
	Memory    string `json:"memory,omitempty" format:"size"` // bytes, '512Mi'
	Tasks     int    `json:"tasks,omitempty" min:"1"`        // processes and threads
	OpenFiles int    `json:"openFiles,omitempty" min:"1"`    // descriptors
}

// Reload says how a service takes over changed files without a restart.
type Reload struct {
	Signal  string       `json:"signal,omitempty"`  // sent to its main process; instead of `command`
	Command []token.Text `json:"command,omitempty"` // run beside it; instead of `signal`
}

// Stop says how a service ends.
type Stop struct {
	Signal  string       `json:"signal,omitempty"`                    // sent first, instead of SIGTERM
	Command []token.Text `json:"command,omitempty"`                   // run before the signal
	Timeout string       `json:"timeout,omitempty" format:"duration"` // after which it is killed
}

// Link points from a service to something about it.
type Link struct {
	Rel  string `json:"rel" required:"true"`  // what it is: runbook, dashboard, source
	Href string `json:"href" required:"true"` // where it is
}
