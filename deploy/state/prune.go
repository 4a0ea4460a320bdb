package state

import (
	"context"
	"fmt"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
)

// Pruned says what Forget removed.
type Pruned struct {
	Generations int   `json:"generations"` // to which nobody can go back any more
	Objects     int   `json:"objects"`
	Freed       int64 `json:"freed"` // bytes
}

// Prune removes what no generation leads to: what applies that failed or were
// killed left behind. With keep, generations older than the newest so many go
// too. The caller holds a lease on all addresses, unless it is dry.
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
	oldest := head
	if len(kept) > 1 {
		oldest = Head{kept[len(kept)-1].Number, kept[len(kept)-2].Parent}
	}
	out.Objects, out.Freed, err = s.GC(ctx, oldest, func(d digest.Digest) bool { return live[d] }, dry)
	return out, err
}

// reachable lists the objects that some generations, of which the newest is the head, need.
func reachable(ctx context.Context, s Store, head Head, list []*Generation) (map[digest.Digest]bool, error) {
	live := map[digest.Digest]bool{head.Object: true}
	for i, g := range list {
		if i+1 < len(list) {
			live[g.Parent] = true
		}
		for _, d := range g.LastGood {
			live[d] = true
		}
		for _, sheet := range g.Chunks {
			live[sheet.Object] = true
		}
		if live[g.PlanObject] {
			continue
		}
		live[g.PlanObject] = true
		var kept storedPlan
		if err := Load(ctx, s, g.PlanObject, &kept); err != nil {
			return nil, fmt.Errorf("plan of generation %d: %w", g.Number, err)
		}
		for _, sheet := range kept.Chunks {
			if live[sheet.Object] {
				continue
			}
			live[sheet.Object] = true
			var units []plan.Placed
			if err := Load(ctx, s, sheet.Object, &units); err != nil {
				return nil, fmt.Errorf("plan of generation %d: %w", g.Number, err)
			}
			kept.Units = append(kept.Units, units...)
		}
		for _, u := range kept.Units { // also those that did not come to be: going back tries them again
			live[u.Object] = true
		}
	}
	return live, NewReader(s).Each(ctx, list, func(rec plan.Record) error {
		live[rec.Object] = true
		return nil
	})
}
