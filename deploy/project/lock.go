package project

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/artifact"
	"github.com/defx-dev/defx/deploy/lock"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
)

// LockEntry is one thing that the lock keeps or should keep.
type LockEntry struct {
	Kind   string        `json:"kind"` // artifact or image
	Name   string        `json:"name"`
	State  string        `json:"state"`
	Digest digest.Digest `json:"digest,omitempty"` // of what is here now
	Locked digest.Digest `json:"locked,omitempty"`
}

// States of entries.
const (
	LockMatches = "locked"  // as it is locked
	LockAbsent  = "absent"  // not here: what is locked stands for it
	LockNew     = "new"     // not locked
	LockDiffers = "differs" // locked otherwise
	LockUnused  = "unused"  // locked, and the deployment does not name it
	LockMissing = "missing" // neither here nor locked
)

// useLock lets what is locked for an environment stand for what is not here.
func (p *Project) useLock(environment string) (map[string]digest.Digest, error) {
	f, err := lock.Read(p.Config.Root)
	if err != nil {
		return nil, err
	}
	s := f.Environments[environment]
	locked := map[string]plan.Artifact{}
	for name, a := range s.Artifacts {
		locked[name] = plan.Artifact{Path: name, Digest: a.Digest, Kind: a.Kind}
	}
	p.artifacts.Lock(locked)
	return s.Images, nil
}

// LockStatus holds what the deployment names against what is locked for its
// environment. Entries are sorted by kind and name.
func (p *Project) LockStatus(ctx context.Context) (environment string, list []LockEntry, err error) {
	res, err := p.evaluated(ctx)
	if err != nil {
		return "", nil, err
	}
	f, err := lock.Read(p.Config.Root)
	if err != nil {
		return "", nil, err
	}
	list, _, _ = p.lockEntries(res, f.Environments[res.Environment])
	return res.Environment, list, nil
}

// evaluated is what the entry evaluates to, its transforms applied.
func (p *Project) evaluated(ctx context.Context) (*lang.Result, error) {
	res, err := lang.Evaluate(ctx, p.Config)
	if err != nil || res.Transforms == 0 {
		return res, err
	}
	in := compile.Input{Result: res}
	if err := p.transform(ctx, &in); err != nil {
		return nil, err
	}
	return in.Result, nil
}

// lockEntries looks at what a deployment names. whole tells whether all of it evaluated.
func (p *Project) lockEntries(res *lang.Result, s lock.Section) (list []LockEntry, kinds map[string]string, whole bool) {
	named, images, whole := named(res)
	p.artifacts.Lock(nil)
	kinds = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(merged(named, s.Artifacts))) {
		was, locked := s.Artifacts[name]
		e := LockEntry{Kind: "artifact", Name: name, Locked: was.Digest}
		if !named[name] {
			e.State = LockUnused
			list = append(list, e)
			continue
		}
		a, err := p.artifacts.Describe(token.Token{Kind: token.Artifact, Name: name})
		kinds[name] = a.Kind
		switch {
		case err != nil && locked && errors.Is(err, artifact.ErrNotFound):
			e.State = LockAbsent
			kinds[name] = was.Kind
		case err != nil:
			e.State = LockMissing
		case !locked:
			e.State, e.Digest = LockNew, a.Digest
		case a.Digest != was.Digest || a.Kind != was.Kind:
			e.State, e.Digest = LockDiffers, a.Digest
		default:
			e.State, e.Digest = LockMatches, a.Digest
		}
		list = append(list, e)
	}
	for _, name := range slices.Sorted(maps.Keys(merged(images, s.Images))) {
		e := LockEntry{Kind: "image", Name: name, Locked: s.Images[name], State: LockMatches}
		switch {
		case !images[name]:
			e.State = LockUnused
		case e.Locked == "":
			e.State = LockNew
		}
		list = append(list, e)
	}
	return list, kinds, whole
}

func merged[V any](a map[string]bool, b map[string]V) map[string]bool {
	out := maps.Clone(a)
	for k := range b {
		out[k] = true
	}
	return out
}

// UpdateLock writes the section of the environment anew: what lies here, and
// what registries say that tags stand for. What is not here stays as it was
// locked; so does what nobody names, if not all of the deployment evaluates.
func (p *Project) UpdateLock(ctx context.Context) (environment string, list []LockEntry, err error) {
	res, err := p.evaluated(ctx)
	if err != nil {
		return "", nil, err
	}
	f, err := lock.Read(p.Config.Root)
	if err != nil {
		return "", nil, err
	}
	list, kinds, whole := p.lockEntries(res, f.Environments[res.Environment])
	next := lock.Section{Artifacts: map[string]lock.Artifact{}, Images: map[string]digest.Digest{}}
	var errs diag.List
	for i := range list {
		e := &list[i]
		switch {
		case e.State == LockMissing:
			errs = append(errs, diag.Errorf("", "artifact %q: it is neither here nor locked", e.Name).WithHint("build it first"))
		case e.State == LockUnused && whole:
		case e.Kind == "artifact" && e.State == LockUnused:
			next.Artifacts[e.Name] = f.Environments[res.Environment].Artifacts[e.Name]
		case e.Kind == "artifact" && e.State == LockAbsent:
			next.Artifacts[e.Name] = lock.Artifact{Digest: e.Locked, Kind: kinds[e.Name]}
		case e.Kind == "artifact":
			next.Artifacts[e.Name] = lock.Artifact{Digest: e.Digest, Kind: kinds[e.Name]}
		case e.State == LockUnused:
			next.Images[e.Name] = e.Locked
		default:
			d, err := lock.Resolve(ctx, e.Name)
			if bad, ok := errors.AsType[*diag.Error](err); ok {
				errs = append(errs, bad)
				continue
			} else if err != nil {
				return "", nil, err
			}
			if e.Digest = d; e.Locked != "" && e.Locked != d {
				e.State = LockDiffers
			}
			next.Images[e.Name] = d
		}
	}
	if err := errs.Err(); err != nil {
		return "", nil, err
	}
	f.Environments[res.Environment] = next
	return res.Environment, list, f.Write(p.Config.Root)
}

// CopyLock gives an environment what another has locked.
func (p *Project) CopyLock(from, to string) error {
	f, err := lock.Read(p.Config.Root)
	if err != nil {
		return err
	}
	if err := f.Copy(from, to); err != nil {
		return err
	}
	return f.Write(p.Config.Root)
}

// LockedEnvironments names the sections that there are.
func (p *Project) LockedEnvironments() []string {
	f, err := lock.Read(p.Config.Root)
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(f.Environments))
}

// named lists the artifacts that lie here and the images that are known by tag
// alone, wherever the deployment names them: also where a later stage would hold it.
func named(res *lang.Result) (artifacts, images map[string]bool, whole bool) {
	artifacts, images, whole = map[string]bool{}, map[string]bool{}, true
	text := func(t token.Text) {
		for _, tok := range t.Tokens() {
			if tok.Kind == token.Artifact && !strings.Contains(tok.Name, "://") {
				artifacts[tok.Name] = true
			}
		}
	}
	var walk func(v any, key, in string)
	walk = func(v any, key, in string) {
		switch v := v.(type) {
		case string:
			if (key == "image" && in == "service" || key == "base" && in == "docker") && !lock.HasDigest(v) && v != "" {
				images[v] = true
			}
			t, err := token.Split(v)
			if err != nil {
				return // compile tells
			}
			text(t)
			for _, tok := range t.Tokens() {
				if body, err := tok.BodyDoc(); tok.Body != "" && err == nil {
					body.Map(nil, func(_ []string, t token.Text, _ bool) []any { text(t); return []any{t} })
				}
			}
		case []any:
			for _, x := range v {
				walk(x, "", "")
			}
		case map[string]any:
			for k, x := range v {
				walk(x, k, key)
			}
		}
	}
	for _, l := range res.Libraries {
		whole = whole && l.Err == nil
		for _, f := range l.Functionalities {
			var v any
			if f.Err != nil || json.Unmarshal(f.Value, &v) != nil {
				whole = false
				continue
			}
			walk(v, "", "")
		}
	}
	return artifacts, images, whole
}
