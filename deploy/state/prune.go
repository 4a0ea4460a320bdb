package state

import (
	"context"
	"fmt"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
)

// Pruned is the result of Prune.
type Pruned struct {
	Generations int   `json:"generations"` // removed from the history: rollback to them is no longer possible
	Objects     int   `json:"objects"`
	Freed       int64 `json:"freed"` // bytes
}

// Prune removes the objects that no generation references, which failed and
// killed applies leave behind. With keep > 0 it first removes all but the
// newest keep generations. With dry it only counts. The caller holds a lease on
// all addresses, unless dry.
func Prune(ctx context.Context, s Store, keep int, dry bool) (Pruned, error) {
	var out Pruned
	head, err := s.Head(ctx)
	if err != nil || head.Generation == 0 {
		return out, err
	}
	all, err := History(ctx, s, 0)
	if err != nil {
		return out, err
	}
	kept := all
	if keep > 0 && keep < len(all) {
		kept = all[:keep]
		out.Generations = len(all) - keep
	}
	live, err := reachable(ctx, s, head, kept)
	if err != nil {
		return out, err
	}
	oldest := Oldest{Format: Format, Generation: head.Generation, Object: head.Object}
	if len(kept) > 1 {
		oldest.Generation, oldest.Object = kept[len(kept)-1].Number, kept[len(kept)-2].Parent
	}
	if oldest.Applies, err = forgetGenerations(ctx, s, all[len(kept):], dry); err != nil {
		return out, err
	}
	if oldest.Applies != "" {
		live[oldest.Applies] = true
	}
	out.Objects, out.Freed, err = s.GC(ctx, oldest, func(d digest.Digest) bool { return live[d] }, dry)
	return out, err
}

// reachable returns the objects referenced by generations, which are listed
// newest first and begin with the head.
func reachable(ctx context.Context, s Store, head Head, list []*Generation) (map[digest.Digest]bool, error) {
	live := map[digest.Digest]bool{head.Object: true}
	for _, i := range head.Intents {
		live[i.Detail] = true
	}
	for i, g := range list {
		if i+1 < len(list) {
			live[g.Parent] = true
		}
		for _, d := range g.LastGood {
			live[d] = true
		}
		for _, c := range g.Chunks {
			live[c.Object] = true
		}
		if live[g.PlanObject] || g.PlanObject == "" {
			continue
		}
		live[g.PlanObject] = true
		var p storedPlan
		if err := Load(ctx, s, g.PlanObject, &p); err != nil {
			return nil, fmt.Errorf("plan of generation %d: %w", g.Number, err)
		}
		for _, c := range p.Chunks {
			if live[c.Object] {
				continue
			}
			live[c.Object] = true
			var units []plan.Placed
			if err := Load(ctx, s, c.Object, &units); err != nil {
				return nil, fmt.Errorf("plan of generation %d: %w", g.Number, err)
			}
			p.Units = append(p.Units, units...)
		}
		for _, u := range p.Units { // including units that failed to deploy: a rollback tries them again
			live[u.Object] = true
		}
	}
	return live, NewReader(s).Each(ctx, list, func(rec plan.Record) error {
		live[rec.Object] = true
		return nil
	})
}
