package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
)

// APIVersion is in every document that defx prints or stores.
const APIVersion = "defx/v1"

// Plan is the set of desired units.
type Plan struct {
	APIVersion  string   `json:"apiVersion"`
	Kind        string   `json:"kind"` // "Plan"
	Deployment  string   `json:"deployment"`
	Environment string   `json:"environment"`
	Units       []Placed `json:"units"` // sorted by address
}

// Placed is a unit with its machine and the values of its refs.
type Placed struct {
	Address string        `json:"address"`
	Machine string        `json:"machine"`
	Backend string        `json:"backend"`
	Digest  digest.Digest `json:"digest"`            // of the unit
	Object  digest.Digest `json:"object"`            // of the unit's canonical bytes; not in the plan's digest
	Values  Values        `json:"values,omitempty"`  // known values of its refs
	Unknown []string      `json:"unknown,omitempty"` // keys of refs whose value is only known during apply, sorted
	Traits
	Claims  []Claim      `json:"claims,omitempty"` // what it takes on its machine; not in the plan digest
	Needs   []graph.Need `json:"needs,omitempty"`  // what it asks for beyond a process of its own; not in the plan digest
	Held    bool         `json:"held,omitempty"`   // held: it stays as it was deployed
	Binds   Values       `json:"binds,omitempty"`  // key of a ref → output of a module that gives its value; not in the plan's digest
	Outputs Values       `json:"-"`                // of a held unit: those of its record
}

// Bind returns u with its unknown values, which it gets from outputs of modules.
func (u Placed) Bind(output func(key string) (string, bool)) (Placed, error) {
	values := Values{}
	maps.Copy(values, u.Values)
	for key, from := range u.Binds {
		v, ok := output(from)
		if !ok {
			return u, fmt.Errorf("the value of %s is not known", from)
		}
		values[key] = v
	}
	for _, key := range u.Unknown {
		if _, bound := u.Binds[key]; !bound {
			return u, fmt.Errorf("the value of %s is not known", key)
		}
	}
	u.Unknown = nil
	if len(values) > 0 {
		u.Values = values
	}
	return u, nil
}

// Digest returns the digest of the plan: addresses, machines, unit digests and known values.
func (p *Plan) Digest() (digest.Digest, error) {
	// The canonical JSON is written directly, because there can be very many units.
	out := make([]byte, 0, 300*len(p.Units)+100)
	text := func(before, s string) { out = digest.AppendText(append(out, before...), s) }
	text(`{"deployment":`, p.Deployment)
	text(`,"environment":`, p.Environment)
	out = append(out, `,"units":[`...)
	for i, u := range p.Units {
		if i > 0 {
			out = append(out, ',')
		}
		text(`{"address":`, u.Address)
		text(`,"digest":`, string(u.Digest))
		text(`,"machine":`, u.Machine)
		if len(u.Values) > 0 {
			out = u.Values.canonical(append(out, `,"values":`...))
		}
		out = append(out, '}')
	}
	return digest.Named("plan/1", append(out, "]}"...)), nil
}

// Names returns the names of the units.
func (p *Plan) Names() *graph.Names {
	n := graph.NamesOf()
	for _, u := range p.Units {
		n.Add(u.Address)
	}
	return n
}

// Find returns the unit at an address, or nil.
func (p *Plan) Find(address string) *Placed {
	i, ok := slices.BinarySearchFunc(p.Units, address, func(u Placed, a string) int { return strings.Compare(u.Address, a) })
	if !ok {
		return nil
	}
	return &p.Units[i]
}

// Record is a deployed unit, as the last apply left it.
type Record struct {
	Address string        `json:"address"`
	Machine string        `json:"machine"`
	Backend string        `json:"backend"`
	Digest  digest.Digest `json:"digest"` // of the unit; empty: the state of the unit is unknown
	Object  digest.Digest `json:"object"`
	Values  Values        `json:"values,omitempty"` // values of its refs
	Traits
	Outputs Values `json:"outputs,omitempty"` // of a module: outputs that others can read

	Apply    string    `json:"apply,omitempty"`    // ID of the apply that last changed it
	Claims   []Claim   `json:"claims,omitempty"`   // what it takes on its machine
	Data     []string  `json:"data,omitempty"`     // its directories and volumes that hold data, sorted
	Stopped  *Stopped  `json:"stopped,omitempty"`  // it was stopped on purpose; nil: it runs
	Rejected *Rejected `json:"rejected,omitempty"` // the version that was rolled back; nil = none
}

// Placed returns the unit of a record, to keep it unchanged.
func (r Record) Placed() Placed {
	return Placed{Address: r.Address, Machine: r.Machine, Backend: r.Backend, Digest: r.Digest, Object: r.Object, Values: r.Values, Traits: r.Traits, Claims: r.Claims, Outputs: r.Outputs}
}

// Op is what an action does.
type Op string

const (
	Create  Op = "create"
	Update  Op = "update"
	Replace Op = "replace"
	Move    Op = "move"
	Delete  Op = "delete"
)

// Verb is how an update affects the process.
type Verb string

const (
	Restart  Verb = "restart"  // the process is restarted
	Reload   Verb = "reload"   // files are replaced and the process is signaled
	Swap     Verb = "exchange" // only defx's own record changes
	Converge Verb = "converge" // resources are changed to match the module
	Attach   Verb = "attach"   // a backend is registered with its balancer again

	RepairUnit Verb = "repair" // what somebody changed on the machine is restored
	Start      Verb = "start"  // it runs again, as it is
	Stop       Verb = "stop"   // it is stopped, and stays so until it is started
)

// Change is one field that differs.
type Change struct {
	Path     string        `json:"path"`   // JSON pointer into the normalized service
	Before   any           `json:"before"` // null: not set
	After    any           `json:"after"`
	Position diag.Position `json:"position"`
	Replaces bool          `json:"replaces,omitempty"` // of a resource: the change needs a new resource
	Source   []string      `json:"-"`                  // path of the field in the entry's value
}

// Action is one change of one unit.
type Action struct {
	Op              Op            `json:"op"`
	Address         string        `json:"address"`
	Machine         string        `json:"machine"`
	From            string        `json:"from,omitempty"`   // the previous machine, of a move or replace
	PreviousAddress string        `json:"former,omitempty"` // the address before it was renamed
	Backend         string        `json:"backend"`
	Verb            Verb          `json:"verb,omitempty"`     // of an update
	Graceful        bool          `json:"graceful,omitempty"` // of a restart: the new version is ready before the old one stops
	Digest          digest.Digest `json:"digest,omitempty"`   // of the desired unit
	Before          digest.Digest `json:"before,omitempty"`   // of the deployed unit
	Certain         bool          `json:"certain"`            // false: apply skips it if its values turn out to be unchanged
	Reason          string        `json:"reason"`
	Changes         []Change      `json:"changes"`
	WaitsFor        []string      `json:"waits,omitempty"`       // addresses whose actions go first, sorted
	GivesUp         []string      `json:"givesUp,omitempty"`     // directories with data that it gives up, as they were declared
	Stopped         bool          `json:"stopped,omitempty"`     // it was stopped on purpose, and stays so
	Drift           []Difference  `json:"drift,omitempty"`       // how its machine differs from what was deployed
	Needs           []graph.Need  `json:"needs,omitempty"`       // of a new or changed unit: rights that it asks for, and effects on what is not its own
	StopTimeout     string        `json:"stopTimeout,omitempty"` // how long the stop of the old version may take, if it is set to more than LongStop
}

// LongStop is how long a stop may take without being mentioned in a plan.
const LongStop = 30 * time.Second

// Protected is a unit that is no longer in the configuration but is not deleted.
type Protected struct {
	Address string `json:"address"`
	Machine string `json:"machine"`
	Reason  string `json:"reason"`
	Moved   string `json:"moved,omitempty"` // the line of the entry file that declares a rename, if it was probably renamed
}

// RefreshResult is what a module's provider reports: its planned changes, and drift.
type RefreshResult struct {
	Changes []ResourceChange `json:"changes"` // sorted by address
	Drift   []ResourceChange `json:"drift"`   // sorted by address
}

// ResourceChange is one resource that differs. Sensitive values are masked.
type ResourceChange struct {
	Address string   `json:"address"`
	Op      Op       `json:"op"` // create, update, replace or delete
	Fields  []Change `json:"fields"`
}

// HeldItem is something with an error that is left unchanged.
type HeldItem struct {
	Address  string        `json:"address"` // library, functionality or unit
	Error    string        `json:"error"`
	Position diag.Position `json:"position"`
}

// Summary is the number of units for each operation.
type Summary struct {
	Create    int `json:"create"`
	Update    int `json:"update"`
	Replace   int `json:"replace"`
	Move      int `json:"move"`
	Delete    int `json:"delete"`
	Unchanged int `json:"unchanged"`
	Uncertain int `json:"uncertain"`
	Held      int `json:"held"`
	Protected int `json:"protected"`
	Repair    int `json:"repair,omitempty"` // equal to the plan, but not on their machines
}

// ChangeSet is the actions that lead from the state to a plan.
type ChangeSet struct {
	APIVersion  string                    `json:"apiVersion"`
	Kind        string                    `json:"kind"` // "ChangeSet"
	Deployment  string                    `json:"deployment"`
	Environment string                    `json:"environment"`
	Plan        digest.Digest             `json:"plan"`
	ChangeSet   digest.Digest             `json:"changeSet"` // of this document without positions
	Baseline    digest.Digest             `json:"baseline"`
	Base        int                       `json:"base"` // generation of the state; 0 = none yet
	Summary     Summary                   `json:"summary"`
	Actions     []Action                  `json:"actions"` // deletes last, each part sorted by address
	Held        []HeldItem                `json:"held"`
	Refresh     map[string]*RefreshResult `json:"refresh,omitempty"` // module → what its provider reports, if it was asked
	Protected   []Protected               `json:"protected"`
	Drifted     []Drifted                 `json:"drifted,omitempty"`  // differs on its machine and is left so, sorted by address
	Removals    []Removal                 `json:"removals,omitempty"` // what is left on machines that units have moved away from, sorted
	Machines    *MachinesAsked            `json:"machines,omitempty"` // what the records were compared with; nil: machines were not asked

	Names *graph.Names `json:"-"` // of all units, deployed or desired; nil in a document that was read
}

// MachinesAsked says with what a change set was compared.
type MachinesAsked struct {
	Asked    []string          `json:"asked"`              // names of the machines that answered, sorted
	NotAsked map[string]string `json:"notAsked,omitempty"` // machine → why it could not be asked
	Modules  int               `json:"modules,omitempty"`  // modules of resources, which were not asked
}

// Removal is a unit that still lies, or may lie, on a machine where it should not be any more.
type Removal struct {
	Address   string `json:"address"`
	Machine   string `json:"machine"`
	Forgotten bool   `json:"forgotten,omitempty"` // the machine is asked only if it is declared again
	Data      bool   `json:"data,omitempty"`      // the unit had data there when the machine was forgotten
}

// Stopped says that a unit was stopped on purpose.
type Stopped struct {
	Reason string    `json:"reason"`
	By     string    `json:"by"` // user@host
	At     time.Time `json:"at"`
}

// Rejected is a version of a unit that was rolled back.
type Rejected struct {
	Digest     digest.Digest `json:"digest"`
	Reason     string        `json:"reason"`     // one line
	Generation int           `json:"generation"` // of the apply
}

// Empty reports whether there is nothing to do.
func (c *ChangeSet) Empty() bool { return len(c.Actions) == 0 && len(c.Removals) == 0 }

// Seal sets the digest of the change set: actions, plan and base generation.
func (c *ChangeSet) Seal() error {
	type act struct {
		Op      Op            `json:"op"`
		Address string        `json:"address"`
		Machine string        `json:"machine"`
		Digest  digest.Digest `json:"digest"`
		Before  digest.Digest `json:"before"`
		Certain bool          `json:"certain"`
		Verb    Verb          `json:"verb,omitempty"`  // of a repair, start or stop
		Drift   []Difference  `json:"drift,omitempty"` //
	}
	acts := make([]act, len(c.Actions))
	for i, a := range c.Actions {
		acts[i] = act{a.Op, a.Address, a.Machine, a.Digest, a.Before, a.Certain, "", a.Drift}
		if a.Verb == RepairUnit || a.Verb == Start || a.Verb == Stop {
			acts[i].Verb = a.Verb
		}
	}
	named := map[string]any{"deployment": c.Deployment, "environment": c.Environment, "plan": c.Plan, "base": c.Base, "actions": acts}
	if len(c.Removals) > 0 {
		named["removals"] = c.Removals
	}
	var err error
	c.ChangeSet, err = digest.Of("changeset/1", named)
	return err
}

func sortActions(l []Action) {
	slices.SortStableFunc(l, func(a, b Action) int {
		del := func(x Action) int {
			if x.Op == Delete {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(del(a), del(b)), strings.Compare(a.Address, b.Address))
	})
}
