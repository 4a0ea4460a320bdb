package project

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/lock"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
	"github.com/defx-dev/defx/lang/cache"
)

// A plan is a function of what was read, the state and the program. So of a plan
// that had nothing to do it is enough to remember what it was made of: while all
// that is as it was, nothing is evaluated, rendered or compared.

// What is no source file bears the kind of thing that it is in its name.
const (
	ofState    = "state:"
	ofRoot     = "root:"
	ofArtifact = "artifact:"
)

// remembered is what names the memory of plans without changes.
func (p *Project) remembered() (digest.Digest, error) { return p.Config.Key("plan of " + p.StateDir) }

// CachedNoChanges gives the change set of the last plan if it was empty and nothing
// that it was made of has changed, else nil.
func (p *Project) CachedNoChanges() *plan.ChangeSet {
	if p.Config.Cache == "" {
		return nil
	}
	key, err := p.remembered()
	if err != nil {
		return nil
	}
	look, err := p.looker()
	if err != nil {
		return nil
	}
	raw, _, _ := cache.Open(p.Config.Cache, p.Config.CacheMax).Find(key, look)
	cs := &plan.ChangeSet{}
	if raw == nil || json.Unmarshal(raw, cs) != nil {
		return nil
	}
	return cs
}

// StoreNoChanges keeps a change set that is empty, with all that it was made of. What
// transforms read is not told, and modules have a world of their own: plans with
// them are always made.
func (p *Project) StoreNoChanges(d *Desired, cs *plan.ChangeSet) {
	if p.Config.Cache == "" || !cs.Empty() || len(cs.Protected) > 0 || len(d.Held) > 0 || d.Transforms > 0 || len(d.Rendered.Modules) > 0 {
		return
	}
	artifacts, whole := p.artifacts.Described()
	key, err := p.remembered()
	if err != nil || !whole {
		return
	}
	look, err := p.looker()
	if err != nil {
		return
	}
	if !slices.Equal(d.before, p.besides(d)) {
		return // somebody changed it while it was read
	}
	reads := slices.Concat(d.Reads, d.before)
	for _, a := range artifacts {
		reads = append(reads, look(ofArtifact+a))
	}
	raw, err := json.Marshal(cs)
	if err != nil {
		return
	}
	cache.Open(p.Config.Cache, p.Config.CacheMax).Store(key, reads, raw)
}

// besides is what a plan reads besides sources and artifacts.
func (p *Project) besides(d *Desired) []lang.ReadRecord {
	paths := []string{ofRoot + lock.Name, ofRoot + secretsIndex}
	for _, file := range []string{"head.json", apply.JournalName} {
		paths = append(paths, ofState+d.Name+"/"+d.Environment+"/"+file)
	}
	var out []lang.ReadRecord
	for _, path := range paths {
		out = append(out, p.lookAt(path))
	}
	return out
}

// looker tells how everything that a plan is made of is now.
func (p *Project) looker() (func(path string) lang.ReadRecord, error) {
	source, err := p.Config.CacheKeyReader()
	if err != nil {
		return nil, err
	}
	return func(path string) lang.ReadRecord {
		if strings.HasPrefix(path, ofState) || strings.HasPrefix(path, ofRoot) {
			return p.lookAt(path)
		}
		if name, ok := strings.CutPrefix(path, ofArtifact); ok {
			a, err := p.artifacts.Describe(token.Token{Kind: token.Artifact, Name: name})
			if err != nil {
				return lang.ReadRecord{Path: path}
			}
			return lang.ReadRecord{Path: path, Digest: a.Digest}
		}
		return source(path)
	}, nil
}

func (p *Project) lookAt(path string) lang.ReadRecord {
	file, ok := strings.CutPrefix(path, ofState)
	dir := p.StateDir
	if !ok {
		file, dir = strings.TrimPrefix(path, ofRoot), p.Config.Root
	}
	raw, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(file)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return lang.ReadRecord{Path: path, Absent: true}
	case err != nil:
		return lang.ReadRecord{Path: path}
	}
	return lang.ReadRecord{Path: path, Digest: digest.Bytes(raw)}
}
