package session

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
)

// rebuilder collects what the machines have.
type rebuilder struct {
	mu      sync.Mutex
	gen     *state.Generation
	plan    *plan.Plan
	objects [][]byte
	token   int64             // highest fencing token that a machine remembers
	lineage map[string]string // lineage of the units → a machine that has them
	applies map[string]bool   // IDs of the applies that machines remember
	machine map[string]string // address → machine
}

// Rebuild writes a generation from what the machines have deployed. It fails if
// there is a state, or if a machine is unreachable: its units would count as deleted.
func (s *Session) Rebuild(ctx context.Context) (*state.Generation, error) {
	if s.Generation.Number > 0 {
		return nil, diag.Errorf("", "the state of %s (%s) exists, at generation %d", s.Deployment, s.Environment, s.Generation.Number).
			WithHint("defx status --refresh shows what differs on the machines")
	}
	if unfinished, err := apply.ReadUnfinished(ctx, s.Store()); err != nil {
		return nil, err
	} else if unfinished != nil {
		return nil, errUnfinished
	}
	b := &rebuilder{
		gen: &state.Generation{APIVersion: plan.APIVersion, Kind: "Generation", Deployment: s.Deployment, Environment: s.Environment, Records: []plan.Record{},
			Machines: []*graph.Machine{}, Verb: "rebuild", Applied: time.Now().UTC().Truncate(time.Second), By: state.CurrentOwner("rebuild").Who},
		plan:    &plan.Plan{APIVersion: plan.APIVersion, Kind: "Plan", Deployment: s.Deployment, Environment: s.Environment, Units: []plan.Placed{}},
		machine: map[string]string{}, lineage: map[string]string{}, applies: map[string]bool{},
	}
	errs := s.Visit(ctx, s.MachineNames(), func(name string, c *agent.Client) error { return b.visit(ctx, s, name, c) })
	for _, name := range sets.Keys(errs) {
		return nil, fmt.Errorf("machine %s: %w", name, errs[name])
	}
	if len(b.gen.Records) == 0 {
		return nil, diag.Errorf("", "no machine has units of %s (%s)", s.Deployment, s.Environment).WithHint("run defx apply to start a new state")
	}
	return b.commit(ctx, s.Store(), s.Project.LeaseTime)
}

// visit adds the units of one machine.
func (b *rebuilder) visit(ctx context.Context, s *Session, name string, c *agent.Client) error {
	known, err := c.Scope(ctx, s.Scope())
	if err != nil {
		return err
	}
	units := known.Units
	b.mu.Lock()
	b.token, b.gen.Number = max(b.token, known.Last.Token), max(b.gen.Number, known.Generation)
	if len(units) > 0 {
		b.gen.Machines = append(b.gen.Machines, s.Machines[name])
		if known.Lineage != "" {
			b.lineage[known.Lineage] = name
		}
		b.applies[known.Last.Apply] = true
	}
	b.mu.Unlock()
	for _, address := range sets.Keys(units) {
		e := units[address]
		rec := plan.Record{Address: address, Machine: name, Backend: e.Backend, Digest: e.Digest, Object: e.Object, Values: e.Values, Apply: e.Apply}
		var raw []byte
		if e.Digest != "" {
			if raw, err = c.Object(ctx, e.Object); err != nil {
				return fmt.Errorf("%s: %w", address, err)
			}
			var u plan.Unit
			if err := u.Decode(raw); err != nil {
				return fmt.Errorf("%s: %w", address, err)
			}
			rec.Traits = u.Traits
		}
		if err := b.add(rec, raw); err != nil {
			return err
		}
	}
	return nil
}

// add adds a unit; object is nil if its version is unknown.
func (b *rebuilder) add(rec plan.Record, object []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if other := b.machine[rec.Address]; other != "" {
		return fmt.Errorf("%s is also on %s: an apply was interrupted while moving it", rec.Address, other)
	}
	b.machine[rec.Address], b.applies[rec.Apply] = rec.Machine, true
	b.gen.Records = append(b.gen.Records, rec)
	if object != nil {
		b.objects = append(b.objects, object)
		b.plan.Units = append(b.plan.Units, plan.Placed{Address: rec.Address, Machine: rec.Machine, Backend: rec.Backend, Digest: rec.Digest, Object: rec.Object, Values: rec.Values,
			Traits: rec.Traits})
	}
	return nil
}

// commit writes the generation, with a number and a fencing token above all that
// the machines remember. The state becomes the one that the machines belong to.
func (b *rebuilder) commit(ctx context.Context, store *state.Dir, ttl time.Duration) (*state.Generation, error) {
	slices.SortFunc(b.gen.Records, func(x, y plan.Record) int { return strings.Compare(x.Address, y.Address) })
	slices.SortFunc(b.plan.Units, func(x, y plan.Placed) int { return strings.Compare(x.Address, y.Address) })
	slices.SortFunc(b.gen.Machines, func(x, y *graph.Machine) int { return strings.Compare(x.Name, y.Name) })
	b.gen.Number++
	var err error
	if b.gen.Plan, err = b.plan.Digest(); err != nil {
		return nil, err
	}
	lineages := sets.Keys(b.lineage)
	if len(lineages) > 1 {
		return nil, diag.Errorf("", "the machines %s and %s have units of different states", b.lineage[lineages[0]], b.lineage[lineages[1]]).
			WithHint("declare the machines of one of them only")
	}
	lineage := state.NewID()
	if len(lineages) == 1 {
		lineage = lineages[0]
	}
	delete(b.applies, "")
	b.gen.Apply, b.gen.Finished = state.NewID(), sets.Keys(b.applies)
	head, err := store.Begin(ctx, lineage, b.token)
	if err != nil {
		return nil, err
	}
	return b.gen, state.WithLease(ctx, store, state.LeaseOptions{Verb: "rebuild", Apply: b.gen.Apply, TTL: ttl, Wait: time.Minute}, func(ctx context.Context, lease state.Lease) error {
		b.gen.Token = lease.Token
		if err := store.Put(ctx, b.objects...); err != nil {
			return err
		}
		if b.gen.PlanObject, err = state.PutPlan(ctx, store, b.plan); err != nil {
			return err
		}
		return state.Commit(ctx, store, head, b.gen)
	})
}
