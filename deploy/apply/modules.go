package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/cloud"
	"github.com/defx-dev/defx/deploy/terraform"
	"github.com/defx-dev/defx/internal/poll"
	"github.com/defx-dev/defx/internal/token"
)

// outputs are the current outputs of all modules.
type outputs struct {
	mu       sync.Mutex
	values   plan.Values
	byModule map[string]plan.Values // module → its outputs
}

// load sets the outputs from records.
func (o *outputs) load(records []plan.Record) {
	for _, r := range records {
		if r.Machine == "" {
			o.set(r.Address, r.Outputs)
		}
	}
}

// set replaces the outputs of a module.
func (o *outputs) set(module string, v plan.Values) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byModule == nil {
		o.byModule, o.values = map[string]plan.Values{}, plan.Values{}
	}
	for key := range o.byModule[module] {
		delete(o.values, key)
	}
	o.byModule[module] = v
	for key, value := range v {
		o.values[key] = value
	}
}

// get returns an output by its key.
func (o *outputs) get(key string) (string, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, ok := o.values[key]
	return v, ok
}

// moduleEntries lists the deployed modules.
func (r *run) moduleEntries(ctx context.Context) (map[string]*agent.Entry, error) {
	if r.req.Modules == nil {
		return nil, errors.New("this request has no Terraform runner, so it cannot change resources")
	}
	return r.req.Modules.Units(ctx, r.scope())
}

// checkUnknownModules fails if there are modules that the state does not know. It
// runs before the first module changes.
func (r *run) checkUnknownModules(ctx context.Context) error {
	r.modulesOnce.Do(func() { r.modulesErr = r.checkUnits(ctx, "") })
	return r.modulesErr
}

// applyModule creates, updates or, if u is nil, deletes a module, and returns its
// record afterwards.
func (r *run) applyModule(ctx context.Context, address string, u *plan.Placed, old *plan.Record) (*plan.Record, error) {
	if err := r.checkUnknownModules(ctx); err != nil {
		return old, err
	}
	mr := terraform.ModuleRequest{Scope: r.scope(), Address: address, Caller: r.caller, TTL: r.lease.TTL, AllowDelete: r.req.AllowDelete[address] || r.req.Verb == "destroy", SelfResource: r.selfResource}
	if u != nil {
		raw, err := r.req.object(ctx, u.Object)
		if err != nil {
			return old, err
		}
		mr.Unit, mr.Values = raw, u.Values
		var unit plan.Unit
		if err := unit.Decode(raw); err != nil {
			return old, err
		}
		if err := r.req.Modules.Stage(ctx, unit.Artifacts, r.req.Artifact); err != nil {
			return old, err
		}
		if mr.Moved, err = r.req.MovedIn(ctx, old); err != nil {
			return old, err
		}
		if p := r.req.Plan.Find(address); p != nil && len(p.Binds) > 0 && len(p.Follows) == 0 { // the plan was confirmed without these values
			mr.OnlyCreate = !maps.Equal(p.Values, u.Values)
		}
	}
	var before []cloud.Target
	if u == nil && old != nil && old.Drain > 0 {
		var err error
		if before, err = r.req.Modules.Targets(address); err != nil {
			return old, err
		}
	}
	r.touched.Store(true)
	e, known, err := r.req.Modules.ApplyModule(ctx, mr)
	if !known {
		if err != nil && old == nil { // nothing was started
			return nil, err
		}
		return old, err
	}
	if e == nil {
		r.outputs.set(address, nil)
		if u == nil && err == nil && old != nil {
			err = r.waitDrained(ctx, old.Drain, before)
		}
		return nil, err
	}
	if err == nil && e.Digest != "" {
		r.mu.Lock()
		delete(r.deregistered, address)
		for from, to := range mr.Moved {
			r.renames[to] = from
		}
		r.mu.Unlock()
	}
	var previous plan.Record
	if old != nil {
		previous = *old
	}
	rec, rerr := r.req.record(ctx, address, "", e, previous)
	r.outputs.set(address, rec.Outputs)
	r.resetConns(address)
	if err == nil && rerr == nil && rec.Digest != "" && rec.Drain > 0 {
		if err = r.waitHealthy(ctx, address); err != nil {
			rec.Digest = "" // the next apply checks again
		}
	}
	return &rec, errors.Join(err, rerr)
}

// MovedIn returns the resources of a deployed module that are renamed: old → new.
func (req *Request) MovedIn(ctx context.Context, old *plan.Record) (map[string]string, error) {
	if old == nil || old.Digest == "" || req.Moved == nil {
		return nil, nil
	}
	raw, err := req.object(ctx, old.Object)
	if err != nil {
		return nil, err
	}
	var u plan.Unit
	var resources map[string]json.RawMessage
	if u.Decode(raw) != nil || json.Unmarshal(u.Spec, &resources) != nil {
		return nil, nil
	}
	out := map[string]string{}
	for address := range resources {
		if now := req.Moved(address); now != address {
			out[address] = now
		}
	}
	return out, nil
}

// resetConns closes the connections to machines that a module has replaced.
func (r *run) resetConns(module string) {
	for _, m := range r.machines {
		if m.decl.Module != module {
			continue
		}
		m.mu.Lock()
		if id, _ := r.outputs.get(m.decl.Identity); m.decl.Instance != id && m.client != nil {
			m.client.Close()
			m.client, m.fenced, m.state, m.sent = nil, false, nil, nil
		}
		m.mu.Unlock()
	}
}

// planWithValues returns the plan with the values that its units have actually
// read, or nil if all values were known before.
func (r *run) planWithValues(now []plan.Record) *plan.Plan {
	p, changed := *r.req.Plan, false
	p.Units = slices.Clone(p.Units)
	for _, rec := range now {
		i := slices.IndexFunc(p.Units, func(u plan.Placed) bool { return u.Address == rec.Address })
		if i < 0 || len(p.Units[i].Unknown) == 0 || rec.Digest != p.Units[i].Digest {
			continue
		}
		p.Units[i].Values, p.Units[i].Unknown, changed = rec.Values, nil, true
	}
	if !changed {
		return nil
	}
	return &p
}

// resolveAddress sets the connection of a machine that a module makes, and waits
// until it answers with its host key if that is unknown. The caller holds the
// machine's lock.
func (r *run) resolveAddress(ctx context.Context, m *machine) error {
	address, ok := r.outputs.get(m.decl.Output)
	if !ok || address == "" {
		return fmt.Errorf("machine %s does not exist yet: %s creates it", m.decl.Name, m.decl.Module)
	}
	found := *m.decl
	user := ""
	if before, _, ok := strings.Cut(strings.TrimPrefix(found.Connect, "ssh://"), "@"); ok {
		user = before + "@"
	}
	found.Connect = "ssh://" + user + token.URLHost(address)
	id, _ := r.outputs.get(found.Identity)
	if found.Address != "" && found.Address != address || found.Instance != "" && found.Instance != id {
		found.HostKey = "" // the key of the replaced machine
	}
	found.Address, found.Instance = address, id
	if found.HostKey == "" && r.req.HostKey != nil {
		deadline := time.Now().Add(5 * time.Minute) // it may be booting
		err := poll.Until(ctx, 2*time.Second, func(ctx context.Context) (bool, error) {
			key, err := r.req.HostKey(ctx, &found)
			if err != nil && (time.Now().After(deadline) || ctx.Err() != nil) {
				return false, fmt.Errorf("machine %s (%s) does not answer: %w", m.decl.Name, address, err)
			}
			found.HostKey = key
			return err == nil, nil
		})
		if err != nil {
			return err
		}
	}
	m.decl = &found
	return nil
}
