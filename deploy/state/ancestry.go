package state

import (
	"context"
	"slices"
	"sync"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
)

// IntentDetail is the object of an intent: all that is needed to finish the apply
// from another host, even if the entry file no longer names its machines.
type IntentDetail struct {
	Kind string `json:"kind"` // "Intent"
	Intent
	Connections []*graph.Machine    `json:"connections"` // of Machines
	Units       map[string][]string `json:"units"`       // address → machines on which it may be changed; "" = a module
}

// store stores the detail, and makes its intent lead to it.
func (d *IntentDetail) store(ctx context.Context, put func(context.Context, ...[]byte) error) error {
	raw, object, err := Object(d)
	if err == nil {
		err = put(ctx, raw)
	}
	d.Detail = object
	return err
}

// Announce adds an intent to the head by compare-and-swap, before the apply's
// first write on a machine. It returns the new head. It fails with ErrHeadMoved
// if the generation is no longer that of base, from which the apply started.
func Announce(ctx context.Context, s Store, base Head, d IntentDetail) (Head, error) {
	d.Kind, d.Base, d.Detail = "Intent", base.Object, ""
	if err := d.store(ctx, s.Put); err != nil {
		return base, err
	}
	return Update(ctx, s, func(now Head) (Head, error) {
		if now.Object != base.Object || now.Lineage != base.Lineage {
			return now, ErrHeadMoved
		}
		now.Intents = append(without(now.Intents, d.Apply), d.Intent)
		return now, nil
	})
}

// Withdraw removes the intents of applies that have changed nothing.
func Withdraw(ctx context.Context, s Store, applies ...string) error {
	_, err := Update(ctx, s, func(now Head) (Head, error) {
		now.Intents = without(now.Intents, applies...)
		return now, nil
	})
	return err
}

// LoadIntents reads the details of the open intents of a head.
func LoadIntents(ctx context.Context, s Store, h Head) ([]IntentDetail, error) {
	var out []IntentDetail
	for _, i := range h.Intents {
		var d IntentDetail
		if err := Load(ctx, s, i.Detail, &d); err != nil {
			return nil, err
		}
		d.Intent = i
		out = append(out, d)
	}
	return out, nil
}

// KnownApplies is an object with the IDs of applies whose generations were
// removed. Machines may still remember them.
type KnownApplies struct {
	Kind    string   `json:"kind"` // "KnownApplies"
	Applies []string `json:"applies"`
}

// forgetGenerations returns the object with the IDs of all applies before the
// kept history, to which generations are added that are going to be removed. With
// dry, or if nothing is added, it returns the object that there is.
func forgetGenerations(ctx context.Context, s Store, gone []*Generation, dry bool) (digest.Digest, error) {
	oldest, err := s.Oldest(ctx)
	if err != nil || dry || len(gone) == 0 {
		return oldest.Applies, err
	}
	known := KnownApplies{Kind: "KnownApplies"}
	if oldest.Applies != "" {
		if err := Load(ctx, s, oldest.Applies, &known); err != nil {
			return "", err
		}
	}
	for _, g := range gone {
		known.Applies = append(known.Applies, g.applies()...)
	}
	known.Applies = sets.Union(known.Applies)
	if len(known.Applies) == 0 {
		return oldest.Applies, nil
	}
	raw, d, err := Object(known)
	if err != nil {
		return "", err
	}
	return d, s.Put(ctx, raw)
}

// applies returns the IDs of the applies that a generation records.
func (g *Generation) applies() []string {
	if g.Apply == "" {
		return g.Finished
	}
	return append(slices.Clone(g.Finished), g.Apply)
}

// Ancestry answers whether an apply belongs to the history of a state. It may be
// used concurrently.
type Ancestry struct {
	store Store

	mu    sync.Mutex
	head  Head
	known map[string]bool
}

// NewAncestry returns the ancestry of a head. Its generation, which may be nil,
// has its records.
func NewAncestry(s Store, h Head, gen *Generation) *Ancestry {
	a := &Ancestry{store: s, head: h, known: map[string]bool{}}
	a.add(h)
	if gen != nil {
		a.addIDs(gen.applies()...)
		for _, r := range gen.Records {
			a.addIDs(r.Apply)
		}
	}
	return a
}

// Lineage returns the lineage of the state. If it had none it reads the head again,
// because another process may have made the first one since.
func (a *Ancestry) Lineage(ctx context.Context) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.head.Lineage != "" {
		return a.head.Lineage, nil
	}
	now, err := a.store.Head(ctx)
	if err == nil {
		a.head.Lineage = now.Lineage
		a.add(now)
	}
	return a.head.Lineage, err
}

func (a *Ancestry) add(h Head) {
	for _, i := range h.Intents {
		a.addIDs(i.Apply)
	}
}

func (a *Ancestry) addIDs(ids ...string) {
	for _, id := range ids {
		a.known[id] = true
	}
}

// Knows reports whether the state knows an apply: from its history, or from an
// intent. Before it denies this, it reads the head and the whole history again,
// because the apply may have begun since.
func (a *Ancestry) Knows(ctx context.Context, apply string) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if apply == "" || a.known[apply] {
		return apply != "", nil
	}
	// An apply is in the head until it is in the history, so the head must be read first.
	now, err := a.store.Head(ctx)
	if err != nil {
		return false, err
	}
	a.add(now)
	ids, err := finishedApplies(ctx, a.store)
	if err != nil {
		return false, err
	}
	a.addIDs(ids...)
	return a.known[apply], nil
}

// finishedApplies returns the IDs of all applies in the history of a state, also
// of those whose generations were removed.
func finishedApplies(ctx context.Context, s Store) (ids []string, err error) {
	history, err := History(ctx, s, 0)
	if err != nil {
		return nil, err
	}
	for _, g := range history {
		ids = append(ids, g.applies()...)
	}
	oldest, err := s.Oldest(ctx)
	if err != nil || oldest.Applies == "" {
		return ids, err
	}
	var k KnownApplies
	err = Load(ctx, s, oldest.Applies, &k)
	return append(ids, k.Applies...), err
}
