// Package state keeps generations, objects, the head of each environment and
// leases.
//
// It knows bytes, numbers and time limits. It refuses to know what a unit is
// for. Invariants: an object never changes under its digest; the head moves
// only by compare-and-swap, to a generation that is wholly written; a lease's
// token only rises, even over lost leases.
package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/lang/digest"
)

// Head names the newest generation. The zero Head means that there is none.
type Head struct {
	Generation int           `json:"generation"`
	Object     digest.Digest `json:"object"` // of the Generation
}

// Generation is the immutable record of what an apply left behind.
type Generation struct {
	APIVersion  string                   `json:"apiVersion"`
	Kind        string                   `json:"kind"` // "Generation"
	Number      int                      `json:"number"`
	Parent      digest.Digest            `json:"parent,omitempty"` // object of the one before
	Deployment  string                   `json:"deployment"`
	Environment string                   `json:"environment"`
	Plan        digest.Digest            `json:"plan"`               // its name
	PlanObject  digest.Digest            `json:"planObject"`         // its bytes
	ChangeSet   digest.Digest            `json:"changeSet"`          //
	Records     []plan.Record            `json:"records"`            // sorted by address: what stands
	Machines    []*graph.Machine         `json:"machines"`           // how they were reached
	Renamed     map[string]string        `json:"renamed,omitempty"`  // address → the one that it had in the generation before
	Good        map[string]digest.Digest `json:"good,omitempty"`     // library → object: its last good functionalities
	Summary     Counts                   `json:"summary"`            //
	Failed      []string                 `json:"failed,omitempty"`   // addresses that did not become what the plan says
	Verb        string                   `json:"verb"`               // apply, rollback or destroy
	Applied     time.Time                `json:"applied"`            //
	By          string                   `json:"by"`                 // user@host
	Revision    string                   `json:"revision,omitempty"` // commit of the deployment's folder
}

// Back gives the address that an address of the newest generation had in the
// generation with a number, given all since then, newest first.
func Back(history []*Generation, number int) func(address string) string {
	return func(address string) string {
		for _, g := range history {
			if g.Number <= number {
				break
			}
			if was, ok := g.Renamed[address]; ok {
				address = was
			}
		}
		return address
	}
}

// Counts of units after an apply.
type Counts struct {
	Created     int `json:"created"`
	Updated     int `json:"updated"`
	Replaced    int `json:"replaced"`
	Moved       int `json:"moved"`
	Deleted     int `json:"deleted"`
	Unchanged   int `json:"unchanged"`
	Failed      int `json:"failed"`
	Skipped     int `json:"skipped"`
	Held        int `json:"held"`
	Quarantined int `json:"quarantined"`
}

// ErrMoved means that the head is not where the caller thought.
var ErrMoved = errors.New("the state moved on meanwhile")

// ErrAbsent means that there is no such object.
var ErrAbsent = errors.New("not in the state")

// Store keeps one environment of one deployment. Every implementation passes statetest.Run.
type Store interface {
	// Head reads the newest generation's name.
	Head(ctx context.Context) (Head, error)
	// Swap moves the head from old to new, or fails with ErrMoved and changes nothing.
	Swap(ctx context.Context, old, new Head) error
	// Get reads an object and checks its digest; ErrAbsent if there is none.
	Get(ctx context.Context, d digest.Digest) ([]byte, error)
	// Put keeps objects durably, all or none. Those there already cost nothing.
	Put(ctx context.Context, objects ...[]byte) error
	// Acquire takes a lease on addresses (none = all), or fails with *Busy.
	Acquire(ctx context.Context, addresses []string, owner Owner, ttl time.Duration) (Lease, error)
	// Renew extends a lease that is still held.
	Renew(ctx context.Context, l Lease, ttl time.Duration) error
	// Raise gives the holder of a lease a fencing token above one that a machine remembers
	// from another state; above that, later leases begin.
	Raise(ctx context.Context, l Lease, above int64) (int64, error)
	// Release ends a lease. One that is gone already is no error.
	Release(ctx context.Context, l Lease) error
}

// Owner says who holds a lease. Host, Boot, PID and Start let another process
// on the same machine see that the holder is dead.
type Owner struct {
	Who   string `json:"who"`   // user@host
	Verb  string `json:"verb"`  // what it does
	Host  string `json:"host"`  //
	Boot  string `json:"boot"`  // id of the machine's boot
	PID   int    `json:"pid"`   //
	Start string `json:"start"` // when the process began, in the kernel's own count
}

// Lease is the right to change units until it expires.
type Lease struct {
	Token     int64     `json:"token"`               // fencing token
	Addresses []string  `json:"addresses,omitempty"` // none = all
	Owner     Owner     `json:"owner"`
	Expires   time.Time `json:"expires"`
}

// Busy means that somebody else holds an overlapping lease.
type Busy struct{ Holder Lease }

func (b *Busy) Error() string {
	return fmt.Sprintf("%s is at work on this environment (%s, process %d) until %s at the latest",
		b.Holder.Owner.Who, b.Holder.Owner.Verb, b.Holder.Owner.PID, b.Holder.Expires.Format(time.RFC3339))
}

// Object encodes v canonically and names it.
func Object(v any) ([]byte, digest.Digest, error) {
	raw, err := digest.Canonical(v)
	return raw, digest.Bytes(raw), err
}

// Load reads an object into v.
func Load(ctx context.Context, s Store, d digest.Digest, v any) error {
	raw, err := s.Get(ctx, d)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

// Current reads the newest generation; nil if there is none.
func Current(ctx context.Context, s Store) (*Generation, Head, error) {
	h, err := s.Head(ctx)
	if err != nil || h.Generation == 0 {
		return nil, h, err
	}
	g, err := generation(ctx, s, h.Object)
	if err != nil {
		return nil, h, fmt.Errorf("generation %d: %w", h.Generation, err)
	}
	return g, h, nil
}

// generation reads one. A folder knows the one that it read last: an object
// never changes.
func generation(ctx context.Context, s Store, object digest.Digest) (*Generation, error) {
	dir, _ := s.(*Dir)
	if dir != nil {
		dir.reading.Lock()
		defer dir.reading.Unlock()
		if dir.newestAt == object {
			return dir.newest.clone(), nil
		}
	}
	g := &Generation{}
	if err := Load(ctx, s, object, g); err != nil {
		return nil, err
	}
	if dir != nil {
		dir.newest, dir.newestAt = g.clone(), object
	}
	return g, nil
}

// clone is a copy of which records and machines may be changed, but not what these hold.
func (g *Generation) clone() *Generation {
	out := *g
	out.Records, out.Machines = slices.Clone(g.Records), slices.Clone(g.Machines)
	for i, m := range g.Machines {
		one := *m
		out.Machines[i] = &one
	}
	return &out
}

// History reads generations, newest first, until limit (0 = all).
func History(ctx context.Context, s Store, limit int) ([]*Generation, error) {
	g, _, err := Current(ctx, s)
	var out []*Generation
	for err == nil && g != nil && (limit == 0 || len(out) < limit) {
		out = append(out, g)
		if g.Parent == "" {
			break
		}
		next := &Generation{}
		if err = Load(ctx, s, g.Parent, next); err != nil {
			err = fmt.Errorf("generation before %d: %w", g.Number, err)
		}
		g = next
	}
	return out, err
}
