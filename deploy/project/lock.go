package project

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/artifact"
	"github.com/defx-dev/defx/deploy/lock"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
)

// LockEntry is one artifact or image that the lock file has or should have.
type LockEntry struct {
	Kind   string        `json:"kind"` // artifact or image
	Name   string        `json:"name"`
	State  string        `json:"state"`
	Digest digest.Digest `json:"digest,omitempty"` // of the present content
	Locked digest.Digest `json:"locked,omitempty"`
}

// States of a LockEntry.
const (
	LockMatches = "locked"  // the present content is the locked one
	LockAbsent  = "absent"  // not present: the locked digest is used
	LockNew     = "new"     // present, not locked
	LockDiffers = "differs" // the present content is not the locked one
	LockUnused  = "unused"  // locked, but the deployment does not name it
	LockMissing = "missing" // neither present nor locked
)

// useLock makes the artifacts that are locked for an environment replace those
// that are not present, and returns its locked images.
func (p *Project) useLock(ctx context.Context, environment string) (map[string]digest.Digest, error) {
	f, err := lock.Read(ctx, p.Config.Root)
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

// LockStatus compares the artifacts and images of the deployment with the lock
// file's section for its environment. Entries are sorted by kind and name.
func (p *Project) LockStatus(ctx context.Context) (environment string, list []LockEntry, err error) {
	res, err := p.evaluated(ctx)
	if err != nil {
		return "", nil, err
	}
	f, err := lock.Read(ctx, p.Config.Root)
	if err != nil {
		return "", nil, err
	}
	list, _, _ = p.lockEntries(res, f.Environments[res.Environment])
	return res.Environment, list, nil
}

// evaluated returns the evaluated entry with its transforms applied.
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

// lockEntries compares what a deployment names with a section of the lock file.
// kinds has the kind of each artifact; complete reports whether all of the
// deployment evaluated.
func (p *Project) lockEntries(res *lang.Result, s lock.Section) (list []LockEntry, kinds map[string]string, complete bool) {
	artifacts, images, complete := lockable(res)
	p.artifacts.Lock(nil)
	kinds = map[string]string{}
	for _, name := range sets.Union(sets.Keys(artifacts), sets.Keys(s.Artifacts)) {
		was, locked := s.Artifacts[name]
		e := LockEntry{Kind: "artifact", Name: name, Locked: was.Digest}
		if !artifacts[name] {
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
	for _, name := range sets.Union(sets.Keys(images), sets.Keys(s.Images)) {
		e := LockEntry{Kind: "image", Name: name, Locked: s.Images[name], State: LockMatches}
		switch {
		case !images[name]:
			e.State = LockUnused
		case e.Locked == "":
			e.State = LockNew
		}
		list = append(list, e)
	}
	return list, kinds, complete
}

// UpdateLock rewrites the section of the environment with the digests of the
// present artifacts, and of the images that registries have for their tags now.
// Artifacts that are not present keep their locked digest. Entries that the
// deployment does not name are dropped only if all of it evaluated.
func (p *Project) UpdateLock(ctx context.Context) (environment string, list []LockEntry, err error) {
	res, err := p.evaluated(ctx)
	if err != nil {
		return "", nil, err
	}
	f, err := lock.Read(ctx, p.Config.Root)
	if err != nil {
		return "", nil, err
	}
	list, kinds, complete := p.lockEntries(res, f.Environments[res.Environment])
	next := lock.Section{Artifacts: map[string]lock.Artifact{}, Images: map[string]digest.Digest{}}
	var errs diag.List
	for i := range list {
		e := &list[i]
		switch {
		case e.State == LockMissing:
			errs = append(errs, diag.Errorf("", "artifact %q: it does not exist and is not locked", e.Name).WithHint("build it first"))
		case e.State == LockUnused && complete:
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
			if de, ok := errors.AsType[*diag.Error](err); ok {
				errs = append(errs, de)
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

// CopyLock copies the section of environment from to environment to. Both must
// be declared.
func (p *Project) CopyLock(ctx context.Context, from, to string) error {
	envs, err := lang.ListEnvironments(ctx, p.Config)
	if err != nil {
		return err
	}
	for _, name := range []string{from, to} {
		if _, bad := envs.Choose(name); bad != nil {
			return bad
		}
	}
	f, err := lock.Read(ctx, p.Config.Root)
	if err != nil {
		return err
	}
	if err := f.Copy(from, to); err != nil {
		return err
	}
	return f.Write(p.Config.Root)
}

// Environments returns the names of the declared environments, sorted; if the
// entry file has an error, those of which there is a state.
func (p *Project) Environments(ctx context.Context) []string {
	if envs, err := lang.ListEnvironments(ctx, p.Config); err == nil {
		return envs.Names
	}
	recorded := map[string]bool{}
	for _, names := range p.Deployments() {
		for _, name := range names {
			recorded[name] = true
		}
	}
	return sets.Keys(recorded)
}

// lockable returns the local artifacts and the images without a digest that the
// deployment names anywhere, including where a later stage would hold it.
// complete reports whether all of the deployment evaluated.
func lockable(res *lang.Result) (artifacts, images map[string]bool, complete bool) {
	artifacts, images, complete = map[string]bool{}, map[string]bool{}, true
	addArtifacts := func(t token.Text) {
		for _, tok := range t.Tokens() {
			if tok.Kind == token.Artifact && !strings.Contains(tok.Name, "://") {
				artifacts[tok.Name] = true
			}
		}
	}
	var walk func(v any, key, parent string)
	walk = func(v any, key, parent string) {
		switch v := v.(type) {
		case string:
			if (key == "image" && parent == "service" || key == "base" && parent == "docker") && !lock.HasDigest(v) && v != "" {
				images[v] = true
			}
			t, err := token.Split(v)
			if err != nil {
				return // compile reports it
			}
			addArtifacts(t)
			for _, tok := range t.Tokens() {
				if body, err := tok.BodyDoc(); tok.Body != "" && err == nil {
					body.Map(nil, func(_ []string, t token.Text, _ bool) []any { addArtifacts(t); return []any{t} })
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
		complete = complete && l.Err == nil
		for _, f := range l.Functionalities {
			var v any
			if f.Err != nil || json.Unmarshal(f.Value, &v) != nil {
				complete = false
				continue
			}
			walk(v, "", "")
		}
	}
	return artifacts, images, complete
}
