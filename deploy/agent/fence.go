package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Caller is the apply on whose behalf a request changes a machine.
type Caller struct {
	Lineage string // of its state
	Apply   string // its ID
	Token   int64  // fencing token of its lease
	By      string // user@host; for people
	Verb    string // the command; for people
}

// fence is the content of fence.json: for each scope, the state that it belongs
// to and the applies that changed it.
type fence struct {
	Format int                    `json:"format"`
	Scopes map[string]*scopeFence `json:"scopes"`
}

// scopeFence is the fence of one scope.
type scopeFence struct {
	Lineage    string          `json:"lineage,omitempty"` // of the state whose units these are; "" = version 1 wrote it
	Generation int             `json:"generation"`
	Last       LastApply       `json:"last"`
	All        mark            `json:"all"`               // the newest apply with a lease on all units
	Units      map[string]mark `json:"units,omitempty"`   // the newest applies with leases on single units
	Entries    map[string]mark `json:"entries,omitempty"` // the applies that last changed the deployed units
}

// LastApply is the apply that last changed units of a scope.
type LastApply struct {
	Apply string    `json:"apply,omitempty"`
	Token int64     `json:"token"`
	By    string    `json:"by,omitempty"`
	Verb  string    `json:"verb,omitempty"`
	At    time.Time `json:"at,omitzero"`
}

// mark identifies an apply.
type mark struct {
	Apply string `json:"apply,omitempty"`
	Token int64  `json:"token"`
}

// UnmarshalJSON also accepts a number, the token, which is what version 1 wrote.
func (m *mark) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && !bytes.ContainsAny(raw[:1], "{n") {
		return json.Unmarshal(raw, &m.Token)
	}
	type plain mark
	return json.Unmarshal(raw, (*plain)(m))
}

// refuses reports whether a machine that remembers m refuses a caller: one with a
// lower token, and another one with the same token, which is of a copy of the state.
func (m mark) refuses(c Caller) bool {
	return m.Token > c.Token || m.Token == c.Token && m.Token > 0 && m.Apply != c.Apply
}

// ErrStaleToken is the error of a request of an apply that is not newer than the
// one that the machine has already seen.
type ErrStaleToken struct {
	Address string // of the unit, or the scope
	Token   int64  // the highest one seen
	Apply   string // of that token
}

func (f *ErrStaleToken) Error() string {
	return fmt.Sprintf("%s: another apply (%s, token %d) was on this machine: either it took over the lease, or its state is a copy of this one", f.Address, shortID(f.Apply), f.Token)
}

// ErrOtherLineage is the error of a request for a scope whose units belong to another state.
type ErrOtherLineage struct {
	Scope   string
	Lineage string // of the units
	Caller  string // lineage of the caller
}

func (e *ErrOtherLineage) Error() string {
	return fmt.Sprintf("the units of %s on this machine belong to state %s, and this is state %s", e.Scope, shortID(e.Lineage), shortID(e.Caller))
}

// shortID returns the beginning of an ID, for people.
func shortID(id string) string {
	if id == "" {
		return "unknown"
	}
	return id[:min(len(id), 8)]
}

// Scope is what a machine knows of one environment of a deployment.
type Scope struct {
	Lineage    string            `json:"lineage,omitempty"` // of the state; "" = nothing was ever applied, or only by version 1
	Generation int               `json:"generation,omitempty"`
	Last       LastApply         `json:"last"`
	Old        bool              `json:"old,omitempty"` // version 1 has written the records of the machine
	Units      map[string]*Entry `json:"units,omitempty"`
}

// known returns what is known of a scope.
func (m *manifest) known(scope string) *Scope {
	out := &Scope{Units: maps.Clone(m.Scopes[scope]), Old: m.old}
	if f := m.fence.Scopes[scope]; f != nil {
		out.Lineage, out.Generation, out.Last = f.Lineage, f.Generation, f.Last
		for _, seen := range append(slices.Collect(maps.Values(f.Units)), f.All) { // version 1 remembers no last apply
			out.Last.Token = max(out.Last.Token, seen.Token)
		}
	}
	return out
}

// Fence records the apply that is going to change units of a scope: all, or those
// at addresses. It refuses one that is not newer than an apply already seen, and
// one of another state, unless the scope is empty. A refusal changes nothing.
func (h *Host) Fence(ctx context.Context, scope string, c Caller, addresses []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(ctx); err != nil {
		return err
	}
	f := h.m.fence.Scopes[scope]
	if f != nil && f.Lineage != c.Lineage {
		if empty := len(h.m.Scopes[scope]) == 0; empty {
			f = nil // what an earlier state has left belongs to nobody
		} else if f.Lineage != "" {
			return &ErrOtherLineage{scope, f.Lineage, c.Lineage}
		}
	}
	if f == nil {
		f = &scopeFence{}
	}
	if f.All.refuses(c) {
		return &ErrStaleToken{scope, f.All.Token, f.All.Apply}
	}
	covered := addresses
	if len(addresses) == 0 {
		covered = slices.Sorted(maps.Keys(f.Units))
	}
	for _, a := range covered {
		if m := f.Units[a]; m.refuses(c) {
			return &ErrStaleToken{a, m.Token, m.Apply}
		}
	}
	next := *f
	next.Lineage = c.Lineage
	next.Last = LastApply{Apply: c.Apply, Token: c.Token, By: c.By, Verb: c.Verb, At: time.Now().UTC().Truncate(time.Second)}
	m := mark{c.Apply, c.Token}
	if len(addresses) == 0 {
		next.All, next.Units = m, nil
	} else {
		next.Units = maps.Clone(f.Units)
		if next.Units == nil {
			next.Units = map[string]mark{}
		}
		for _, a := range addresses {
			next.Units[a] = m
		}
	}
	h.m.fence.Scopes[scope] = &next
	return h.writeFence()
}

// checkFence refuses a request of an apply that is not the newest one for a unit.
func (h *Host) checkFence(scope, address string, c Caller) error {
	f := h.m.fence.Scopes[scope]
	if f == nil {
		return fmt.Errorf("%s: the machine knows of no lease for it", address)
	}
	if f.Lineage != c.Lineage {
		return &ErrOtherLineage{scope, f.Lineage, c.Lineage}
	}
	for _, m := range []mark{f.All, f.Units[address]} {
		if m.refuses(c) {
			return &ErrStaleToken{address, m.Token, m.Apply}
		}
	}
	return nil
}

// writeFence stores fence.json with the applies that changed the deployed units.
func (h *Host) writeFence() error {
	for scope, f := range h.m.fence.Scopes {
		f.Entries = nil
		for address, e := range h.m.Scopes[scope] {
			if f.Entries == nil {
				f.Entries = map[string]mark{}
			}
			f.Entries[address] = mark{e.Apply, e.Token}
		}
	}
	return h.writeJSON(fencePath, h.m.fence)
}
