package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/defx-dev/defx/internal/diag"
)

// Pulled is the result of Pull.
type Pulled struct {
	From       int      // generation before; 0 = none
	Generation int      // generation now
	Aside      []string // paths of what was replaced and kept
}

// Pull takes over the state in another folder: it makes a copy that fell behind
// equal to the one that went on. It refuses to give up generations that the other
// state does not have, unless replace is set. It waits as o says for a lease that
// is held: a copy has the leases of the time when it was made.
func (s *Dir) Pull(ctx context.Context, from *Dir, o LeaseOptions, replace bool) (*Pulled, error) {
	_, source, err := Current(ctx, from)
	if err != nil {
		return nil, err
	}
	if source.Generation == 0 {
		return nil, diag.Errorf("", "%s has no generation", from.path).WithHint("give the folder of a state, or of one environment in it")
	}
	lease, err := AcquireWait(ctx, s, LeaseRequest{Owner: CurrentOwner(o.Verb), TTL: o.TTL}, o.Wait, o.OnWait)
	if err != nil {
		return nil, err
	}
	defer s.Release(context.WithoutCancel(ctx), lease)
	renewing, stop := context.WithCancel(ctx)
	defer stop()
	go KeepAlive(renewing, s, lease, func(error) { stop() })

	own, err := s.Head(ctx)
	if err != nil {
		return nil, err
	}
	out := &Pulled{From: own.Generation, Generation: source.Generation}
	next := source
	switch relation, err := relate(ctx, s, own, from, source); {
	case err != nil:
		return nil, err
	case relation == same && len(own.Intents) == 0 && len(source.Intents) == 0:
		return out, nil
	case relation == behind || relation == same:
		for _, i := range own.Intents { // an apply that the other state does not know has still to be finished
			if known, err := NewAncestry(from, source, nil).Knows(ctx, i.Apply); err != nil {
				return nil, err
			} else if !known {
				next.Intents = append(slices.Clone(next.Intents), i)
			}
		}
	case relation == ahead:
		return nil, diag.Errorf("", "%s is at generation %d, which this state has already: this one is at %d", from.path, source.Generation, own.Generation).
			WithHint("nothing was changed; pull in the other direction")
	case !replace:
		return nil, diag.Errorf("", "this state, at generation %d, is no earlier copy of %s, at generation %d: both have changed, or they are different states", own.Generation, from.path, source.Generation).
			WithHint("nothing was changed; --replace takes the other one and keeps the head of this one aside")
	}
	if err := s.copyObjects(ctx, from); err != nil {
		return nil, err
	}
	oldest, err := from.Oldest(ctx)
	if err != nil {
		return nil, err
	}
	theirs, err := from.readLeases()
	if err != nil {
		return nil, err
	}
	when := time.Now().UTC().Format("20060102T150405Z")
	if err := s.copyModules(from, when, out); err != nil {
		return nil, err
	}
	err = s.withLock(ctx, func() error {
		now, err := s.readHead()
		if err != nil {
			return err
		}
		if !now.Equal(own) {
			return ErrHeadMoved
		}
		leases, err := s.readLeases()
		if err != nil {
			return err
		}
		if _, held := leases.Held[lease.key()]; !held {
			return ErrLeaseLost
		}
		for _, i := range append(slices.Clone(source.Intents), own.Intents...) {
			leases.Last = max(leases.Last, i.Token)
		}
		leases.Last = max(leases.Last, theirs.Last)
		if err := s.writeFile(leasesName, leases); err != nil {
			return err
		}
		if oldest.Object != "" {
			err = s.writeFile(oldestName, oldest)
		} else if err = os.Remove(filepath.Join(s.path, oldestName)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err != nil {
			return err
		}
		if own.Generation > 0 && own.Lineage != source.Lineage || replace {
			aside := headName + ".replaced-" + when
			if err := s.writeFile(aside, own); err != nil {
				return err
			}
			out.Aside = append(out.Aside, filepath.Join(s.path, aside))
		}
		return s.writeFile(headName, next)
	})
	return out, err
}

// relation is how a state relates to another one.
type relation int

const (
	different relation = iota // neither has the other's newest generation
	same                      // both have the same newest generation
	behind                    // the other one has its newest generation, and further ones
	ahead                     // it has the newest generation of the other one, and further ones
)

// relate compares a state with another one.
func relate(ctx context.Context, s *Dir, own Head, from *Dir, source Head) (relation, error) {
	switch {
	case own.Generation == 0 && len(own.Intents) == 0:
		return behind, nil
	case own.Lineage != source.Lineage:
		return different, nil
	case own.Object == source.Object:
		return same, nil
	}
	has := func(s *Dir, other Head, otherStore *Dir) (bool, error) {
		history, err := History(ctx, s, 0)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(history, func(g *Generation) bool { return g.Parent == other.Object }) {
			return true, nil
		}
		g := &Generation{} // it may have been removed from the history
		if err := Load(ctx, otherStore, other.Object, g); err != nil {
			return false, err
		}
		ids, err := finishedApplies(ctx, s)
		return g.Apply != "" && slices.Contains(ids, g.Apply), err
	}
	if own.Generation == 0 {
		return behind, nil
	}
	if is, err := has(from, own, s); err != nil || is {
		return behind, err
	}
	if is, err := has(s, source, from); err != nil || is {
		return ahead, err
	}
	return different, nil
}

// copyObjects stores all objects of another state.
func (s *Dir) copyObjects(ctx context.Context, from *Dir) error {
	packs, err := from.packs()
	if err != nil {
		return err
	}
	for _, name := range packs {
		objects, err := from.verifyPack(name)
		if errors.Is(err, fs.ErrNotExist) { // merged with others meanwhile
			return fmt.Errorf("%s changes: %w", from.path, err)
		}
		if err == nil {
			err = s.Put(ctx, objects...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyModules replaces the folder of modules, which has Terraform's state, by that
// of another state, and keeps the replaced one aside.
func (s *Dir) copyModules(from *Dir, when string, out *Pulled) error {
	source, target := filepath.Join(from.path, modulesName), filepath.Join(s.path, modulesName)
	if _, err := os.Lstat(target); err == nil {
		aside := target + ".replaced-" + when
		if err := os.Rename(target, aside); err != nil {
			return err
		}
		out.Aside = append(out.Aside, aside)
	}
	if _, err := os.Lstat(source); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		to := filepath.Join(target, rel)
		switch {
		case d.IsDir() && d.Name() == ".terraform": // downloaded again
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(to, dirMode)
		case !d.Type().IsRegular() || d.Name() == "lock":
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, raw, fileMode)
	})
}
