package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
)

// APIVersion is on every document that defx prints or keeps.
const APIVersion = "defx/v1"

// Plan is the set of units that should be.
type Plan struct {
	APIVersion  string   `json:"apiVersion"`
	Kind        string   `json:"kind"` // "Plan"
	Deployment  string   `json:"deployment"`
	Environment string   `json:"environment"`
	Units       []Placed `json:"units"` // sorted by address
}

// Placed is a unit with its place and what its refs stand for.
type Placed struct {
	Address  string        `json:"address"`
	Machine  string        `json:"machine"`
	Backend  string        `json:"backend"`
	Digest   digest.Digest `json:"digest"`            // of the unit
	Object   digest.Digest `json:"object"`            // of the unit's canonical bytes; not in the plan's digest
	Values   Values        `json:"values,omitempty"`  // what is known of its refs
	Unknown  []string      `json:"unknown,omitempty"` // keys of refs that only apply will know, sorted
	Requires []string      `json:"requires,omitempty"`
	After    []string      `json:"after,omitempty"`
	Protect  bool          `json:"protect,omitempty"`
	Stateful bool          `json:"stateful,omitempty"`
	Follows  []string      `json:"follows,omitempty"`
	Drain    int           `json:"drain,omitempty"`
	Held     bool          `json:"held,omitempty"`  // stands as it was deployed, because it did not evaluate
	Binds    Values        `json:"binds,omitempty"` // key of a ref → output of a module that gives its value; not in the plan's digest
	Outputs  Values        `json:"-"`               // of what stands: what its record keeps
}

// Bind fills what is not known with outputs of modules.
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

// Digest names the plan: addresses, places, unit digests and known values.
func (p *Plan) Digest() (digest.Digest, error) {
	// Canonical JSON, written at once: there may be very many units.
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

// Find gives the unit at an address, or nil.
func (p *Plan) Find(address string) *Placed {
	i, ok := slices.BinarySearchFunc(p.Units, address, func(u Placed, a string) int { return strings.Compare(u.Address, a) })
	if !ok {
		return nil
	}
	return &p.Units[i]
}

// Record is what an apply left standing of one unit.
type Record struct {
	Address  string        `json:"address"`
	Machine  string        `json:"machine"`
	Backend  string        `json:"backend"`
	Digest   digest.Digest `json:"digest"` // of the unit; empty: something stands there and nobody knows what
	Object   digest.Digest `json:"object"`
	Values   Values        `json:"values,omitempty"` // what its refs really were
	Requires []string      `json:"requires,omitempty"`
	After    []string      `json:"after,omitempty"`
	Protect  bool          `json:"protect,omitempty"`
	Stateful bool          `json:"stateful,omitempty"`
	Follows  []string      `json:"follows,omitempty"` // as of the unit
	Drain    int           `json:"drain,omitempty"`   // as of the unit
	Outputs  Values        `json:"outputs,omitempty"` // of a module: what others may read of it
}

// Placed is the unit of a record, to stay as it is.
func (r Record) Placed() Placed {
	return Placed{Address: r.Address, Machine: r.Machine, Backend: r.Backend, Digest: r.Digest, Object: r.Object, Values: r.Values, Requires: r.Requires, After: r.After,
		Protect: r.Protect, Stateful: r.Stateful, Follows: r.Follows, Drain: r.Drain, Outputs: r.Outputs}
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

// Verb is how an update reaches what runs.
type Verb string

const (
	Restart  Verb = "restart"  // the process starts anew
	Reload   Verb = "reload"   // files are exchanged and the process is told
	Swap     Verb = "exchange" // what defx knows changes, the process does not notice
	Converge Verb = "converge" // resources are made to be what the module says
	Attach   Verb = "attach"   // a balancer leads there again, after it was taken out for a change
)

// Change is one field that differs.
type Change struct {
	Path     string        `json:"path"`   // JSON pointer into the normalized service
	Before   any           `json:"before"` // null: absent
	After    any           `json:"after"`
	Position diag.Position `json:"position"`
	Replaces bool          `json:"replaces,omitempty"` // of a resource: it cannot be changed in place, another one takes its place
	Source   []string      `json:"-"`                  // the way to the field in the entry's value
}

// Action is one change of one unit.
type Action struct {
	Op              Op            `json:"op"`
	Address         string        `json:"address"`
	Machine         string        `json:"machine"`
	From            string        `json:"from,omitempty"`   // the machine it leaves, of a move or replace
	PreviousMachine string        `json:"former,omitempty"` // the address that it had before it was renamed
	Backend         string        `json:"backend"`
	Verb            Verb          `json:"verb,omitempty"`     // of an update
	Graceful        bool          `json:"graceful,omitempty"` // of a restart: the new version is ready before the old one stops
	Digest          digest.Digest `json:"digest,omitempty"`   // of the unit that should be
	Before          digest.Digest `json:"before,omitempty"`   // of the unit that stands
	Certain         bool          `json:"certain"`            // false: dropped at apply if its values turn out equal
	Reason          string        `json:"reason"`
	Changes         []Change      `json:"changes"`
	WaitsFor        []string      `json:"waits,omitempty"` // addresses whose actions go first, sorted
}

// Protected is a unit that nobody asks for any more and that stays nevertheless.
type Protected struct {
	Address string `json:"address"`
	Machine string `json:"machine"`
	Reason  string `json:"reason"`
}

// RefreshResult is what a module's tool would do, and what others did there: what only the cloud tells.
type RefreshResult struct {
	Changes []ResourceChange `json:"changes"` // sorted by address
	Drift   []ResourceChange `json:"drift"`   // sorted by address
}

// ResourceChange is one resource that differs. What is secret in it is masked.
type ResourceChange struct {
	Address string   `json:"address"`
	Op      Op       `json:"op"` // create, update, replace or delete
	Fields  []Change `json:"fields"`
}

// HeldItem is something that did not evaluate.
type HeldItem struct {
	Address  string        `json:"address"` // library, functionality or unit
	Error    string        `json:"error"`
	Position diag.Position `json:"position"`
}

// Summary counts units.
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
}

// ChangeSet is what lies between a plan and the state.
type ChangeSet struct {
	APIVersion  string                    `json:"apiVersion"`
	Kind        string                    `json:"kind"` // "ChangeSet"
	Deployment  string                    `json:"deployment"`
	Environment string                    `json:"environment"`
	Plan        digest.Digest             `json:"plan"`
	ChangeSet   digest.Digest             `json:"changeSet"` // of this document without positions
	Baseline    digest.Digest             `json:"baseline"`
	Base        int                       `json:"base"` // generation that the state stands at; 0 = none yet
	Summary     Summary                   `json:"summary"`
	Actions     []Action                  `json:"actions"` // deletes last, each part sorted by address
	Held        []HeldItem                `json:"held"`
	Refresh     map[string]*RefreshResult `json:"refresh,omitempty"` // module → what only the cloud tells, if it was asked
	Protected   []Protected               `json:"protected"`
}

// Empty tells whether there is nothing to do.
func (c *ChangeSet) Empty() bool { return len(c.Actions) == 0 }

// Seal names the change set: what is done, to what, from which base.
func (c *ChangeSet) Seal() error {
	type act struct {
		Op      Op            `json:"op"`
		Address string        `json:"address"`
		Machine string        `json:"machine"`
		Digest  digest.Digest `json:"digest"`
		Before  digest.Digest `json:"before"`
		Certain bool          `json:"certain"`
	}
	acts := make([]act, len(c.Actions))
	for i, a := range c.Actions {
		acts[i] = act{a.Op, a.Address, a.Machine, a.Digest, a.Before, a.Certain}
	}
	var err error
	c.ChangeSet, err = digest.Of("changeset/1", map[string]any{"deployment": c.Deployment, "environment": c.Environment,
		"plan": c.Plan, "base": c.Base, "actions": acts})
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
