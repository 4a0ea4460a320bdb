package apply

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/sets"
)

// MachineRepair is the result of RepairMachine.
type MachineRepair struct {
	Aside      []string // paths on the machine of the damaged files that were kept aside
	Missing    []string // paths on the machine of files that were missing
	Adopted    []string // addresses of units that were recorded again as they are, sorted
	Uncertain  []string // addresses of units that the next apply makes what they should be, sorted
	Generation int      // the newest one now; 0 = nothing was ever applied
}

// RepairMachine makes the records of a machine readable again, and records there
// the units that the state knows and the machine's records lack. Nothing is
// started, stopped or changed. Units that are not exactly as the state records
// them become uncertain, so that the next apply makes them what they should be.
func RepairMachine(ctx context.Context, req *Request, name string) (*MachineRepair, error) {
	b, err := req.readBase(ctx)
	if err != nil {
		return nil, err
	}
	out := &MachineRepair{Generation: b.head.Generation}
	owner := state.CurrentOwner(req.Verb)
	r := &run{req: req, caller: agent.Caller{Apply: state.NewID(), By: owner.Who, Verb: req.Verb}, emit: serialize(req.OnEvent)}
	r.connCtx, r.cancelConns = context.WithCancel(ctx)
	defer r.closeAll()
	r.start(b)
	m, err := r.dial(name)
	if err != nil {
		return nil, err
	}
	if b.gen == nil { // there is nothing to record again
		return out, out.repairFiles(ctx, m)
	}
	o := state.LeaseOptions{Verb: req.Verb, Apply: r.caller.Apply, TTL: req.LeaseTime, Wait: req.LeaseWait,
		OnWait: func(held *state.ErrLeaseHeld) { r.emit(Event{Outcome: Waiting, Err: held}) }}
	return out, state.WithLease(ctx, req.Store, o, func(ctx context.Context, lease state.Lease) error {
		r.lease, r.caller.Token = lease, lease.Token
		b, err := req.readBase(ctx)
		if err != nil {
			return err
		}
		r.start(b)
		return r.repairMachine(ctx, b, name, m, out)
	})
}

// repairFiles makes the records of a machine readable again.
func (out *MachineRepair) repairFiles(ctx context.Context, m *machine) error {
	files, err := m.client.Repair(ctx)
	for _, f := range files {
		if strings.Contains(f, agent.DamagedSuffix) {
			out.Aside = append(out.Aside, f)
		} else {
			out.Missing = append(out.Missing, f)
		}
	}
	return err
}

// repairMachine is RepairMachine under the lease.
func (r *run) repairMachine(ctx context.Context, b *base, name string, m *machine, out *MachineRepair) error {
	units := map[string][]string{}
	for _, rec := range b.records {
		if rec.Machine == name {
			units[rec.Address] = []string{name}
		}
	}
	head, err := state.Announce(ctx, r.req.Store, b.head, state.IntentDetail{Units: units, Intent: state.Intent{Apply: r.caller.Apply, Token: r.caller.Token,
		Verb: r.req.Verb, By: r.caller.By, Started: now(), Machines: []string{name}}})
	if err != nil {
		return err
	}
	if err := out.repairFiles(ctx, m); err != nil {
		return err
	}
	before, err := m.client.Scope(ctx, r.scope())
	if err == nil {
		err = r.acceptance.check(ctx, name, before)
	}
	if err != nil {
		return err
	}
	lacks := slices.ContainsFunc(sets.Keys(units), func(address string) bool { return before.Units[address] == nil })
	if len(out.Aside)+len(out.Missing) == 0 && !lacks {
		return state.Withdraw(ctx, r.req.Store, r.caller.Apply)
	}
	if err := m.client.Fence(ctx, r.scope(), r.caller, r.lease.Addresses, r.generation); err != nil {
		return err
	}
	records := slices.Clone(b.records)
	for i, rec := range records {
		if rec.Machine != name {
			continue
		}
		e := before.Units[rec.Address]
		if e == nil && rec.Object != "" {
			if e, err = r.adopt(ctx, m, rec); err != nil {
				return fmt.Errorf("%s: %w", rec.Address, err)
			}
			if e.Digest != "" {
				out.Adopted = append(out.Adopted, rec.Address)
			}
		}
		if e == nil || e.Digest == "" {
			records[i].Digest = ""
			out.Uncertain = append(out.Uncertain, rec.Address)
			continue
		}
		if records[i], err = r.req.record(ctx, rec.Address, name, e, rec); err != nil {
			return err
		}
	}
	if err := m.client.FlushManifest(ctx, r.scope(), r.generation); err != nil {
		return err
	}
	next := *b.gen
	next.Number, next.Parent, next.Records, next.Chunks = r.generation, b.head.Object, records, nil
	next.Apply, next.Finished, next.Token = r.caller.Apply, nil, r.caller.Token
	next.Verb, next.By, next.Applied = r.req.Verb, r.caller.By, now()
	next.Summary, next.Failed, next.Outcomes, next.Renamed = state.Counts{Unchanged: len(records)}, nil, nil, nil
	out.Generation = next.Number
	return state.Commit(ctx, r.req.Store, head, &next)
}

// adopt records a unit on a machine as the state knows it.
func (r *run) adopt(ctx context.Context, m *machine, rec plan.Record) (*agent.Entry, error) {
	raw, err := r.req.object(ctx, rec.Object)
	if err != nil {
		return nil, err
	}
	return m.client.Adopt(ctx, r.scope(), rec.Address, r.caller, raw, maps.Clone(rec.Values))
}
