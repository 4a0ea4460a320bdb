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
)

// outputs are what modules give, as of now.
type outputs struct {
	mu     sync.Mutex
	values plan.Values
	of     map[string]plan.Values // module → its outputs
}

// learn takes over what records tell.
func (o *outputs) learn(records []plan.Record) {
	for _, r := range records {
		if r.Machine == "" {
			o.set(r.Address, r.Outputs)
		}
	}
}

func (o *outputs) set(module string, v plan.Values) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of == nil {
		o.of, o.values = map[string]plan.Values{}, plan.Values{}
	}
	for key := range o.of[module] {
		delete(o.values, key)
	}
	o.of[module] = v
	for key, value := range v {
		o.values[key] = value
	}
}

func (o *outputs) get(key string) (string, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	v, ok := o.values[key]
	return v, ok
}

// modules lists the modules that stand.
func (r *run) modules(ctx context.Context) (map[string]*agent.Entry, error) {
	if r.w.Modules == nil {
		return nil, errors.New("this build makes no resources")
	}
	return r.w.Modules.Units(ctx, r.scope())
}

// strange tells, before the first module changes, whether there are some that the state does not know.
func (r *run) strange(ctx context.Context) error {
	r.looked.Do(func() { r.foreign = r.lost(ctx, "") })
	return r.foreign
}

// module makes a module what it should be; u nil deletes it.
func (r *run) module(ctx context.Context, address string, u *plan.Placed, old *plan.Record) (*plan.Record, error) {
	if err := r.strange(ctx); err != nil {
		return old, err
	}
	ask := terraform.ModuleRequest{Scope: r.scope(), Address: address, Token: r.token.Load(), AllowDelete: r.w.AllowDelete[address] || r.w.Verb == "destroy", SelfResource: r.own}
	if u != nil {
		raw, err := r.w.object(ctx, u.Object)
		if err != nil {
			return old, err
		}
		ask.Unit, ask.Values = raw, u.Values
		var unit plan.Unit
		if err := unit.Decode(raw); err != nil {
			return old, err
		}
		if err := r.w.Modules.Stage(unit.Artifacts, r.w.Artifact); err != nil {
			return old, err
		}
		if ask.Moved, err = r.w.MovedIn(ctx, old); err != nil {
			return old, err
		}
		if p := r.w.Plan.Find(address); p != nil && len(p.Binds) > 0 && len(p.Follows) == 0 { // nobody saw what it would be made of
			ask.OnlyCreate = !maps.Equal(p.Values, u.Values)
		}
	}
	var before []cloud.Target
	if u == nil && old != nil && old.Drain > 0 {
		var err error
		if before, err = r.w.Modules.Targets(address); err != nil {
			return old, err
		}
	}
	e, known, err := r.w.Modules.ApplyModule(ctx, ask)
	if !known {
		if err != nil && old == nil { // nothing was begun
			return nil, err
		}
		return old, err
	}
	if e == nil {
		r.outs.set(address, nil)
		if u == nil && err == nil && old != nil {
			err = r.rest(ctx, old.Drain, before)
		}
		return nil, err
	}
	if err == nil && e.Digest != "" {
		r.mu.Lock()
		delete(r.outside, address)
		for was, now := range ask.Moved {
			r.renames[now] = was
		}
		r.mu.Unlock()
	}
	var was plan.Record
	if old != nil {
		was = *old
	}
	rec, rerr := r.record(ctx, address, "", e, was)
	r.outs.set(address, rec.Outputs)
	r.renew(address)
	if err == nil && rerr == nil && rec.Digest != "" && rec.Drain > 0 {
		if err = r.well(ctx, address); err != nil {
			rec.Digest = "" // the next apply looks again
		}
	}
	return &rec, errors.Join(err, rerr)
}

// MovedIn lists the resources of a module that stand under another name: old → new.
func (w *Request) MovedIn(ctx context.Context, old *plan.Record) (map[string]string, error) {
	if old == nil || old.Digest == "" || w.Moved == nil {
		return nil, nil
	}
	raw, err := w.object(ctx, old.Object)
	if err != nil {
		return nil, err
	}
	var u plan.Unit
	var by map[string]json.RawMessage
	if u.Decode(raw) != nil || json.Unmarshal(u.Spec, &by) != nil {
		return nil, nil
	}
	out := map[string]string{}
	for address := range by {
		if now := w.Moved(address); now != address {
			out[address] = now
		}
	}
	return out, nil
}

// renew forgets what was known of machines that a module has replaced.
func (r *run) renew(module string) {
	for _, m := range r.machines {
		if m.m.Module != module {
			continue
		}
		m.mu.Lock()
		if id, _ := r.outs.get(m.m.Identity); m.m.Instance != id && m.client != nil {
			m.client.Close()
			m.client, m.fenced, m.asked, m.stands, m.sent = nil, false, false, nil, nil
		}
		m.mu.Unlock()
	}
}

// asDone is the plan with the values that its units really read; nil if all were known before.
func (r *run) asDone(now []plan.Record) *plan.Plan {
	whole, any := *r.w.Plan, false
	whole.Units = slices.Clone(whole.Units)
	for _, rec := range now {
		i := slices.IndexFunc(whole.Units, func(u plan.Placed) bool { return u.Address == rec.Address })
		if i < 0 || len(whole.Units[i].Unknown) == 0 || rec.Digest != whole.Units[i].Digest {
			continue
		}
		whole.Units[i].Values, whole.Units[i].Unknown, any = rec.Values, nil, true
	}
	if !any {
		return nil
	}
	return &whole
}

// find learns where a machine is that a module makes. The machine's lock is held.
func (r *run) find(ctx context.Context, m *machine) error {
	address, ok := r.outs.get(m.m.Output)
	if !ok || address == "" {
		return fmt.Errorf("machine %s is not there yet: %s makes it", m.m.Name, m.m.Module)
	}
	found := *m.m
	user := ""
	if before, _, ok := strings.Cut(strings.TrimPrefix(found.Connect, "ssh://"), "@"); ok {
		user = before + "@"
	}
	found.Connect = "ssh://" + user + address
	id, _ := r.outs.get(found.Identity)
	if found.Address != "" && found.Address != address || found.Instance != "" && found.Instance != id {
		found.HostKey = "" // another machine has another key
	}
	found.Address, found.Instance = address, id
	until := time.Now().Add(5 * time.Minute) // it may be booting
	for found.HostKey == "" && r.w.HostKey != nil {
		key, err := r.w.HostKey(ctx, &found)
		if err == nil {
			found.HostKey = key
			break
		}
		if time.Now().After(until) || ctx.Err() != nil {
			return fmt.Errorf("machine %s (%s) does not answer: %w", m.m.Name, address, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
	m.m = &found
	return nil
}
