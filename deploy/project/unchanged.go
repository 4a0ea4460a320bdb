package project

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/lock"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/openfile"
	"github.com/defx-dev/defx/lang"
	"github.com/defx-dev/defx/lang/cache"
)

// A plan is a function of what was read, the state and the program. So a plan
// without changes is stored with the digests of everything that was read: while
// these stay the same, nothing is evaluated, rendered or compared.

// A recorded path that is no source file starts with its kind.
const (
	statePrefix    = "state:"
	rootPrefix     = "root:"
	artifactPrefix = "artifact:"
)

// noChangesKey returns the cache key of plans without changes.
func (p *Project) noChangesKey() (digest.Digest, error) { return p.Config.Key("plan of " + p.StateDir) }

// CachedNoChanges returns the change set of the last plan if it was empty and
// nothing that was read for it has changed, else nil.
func (p *Project) CachedNoChanges(ctx context.Context) *plan.ChangeSet {
	if p.Config.Cache == "" {
		return nil
	}
	key, err := p.noChangesKey()
	if err != nil {
		return nil
	}
	record, err := p.recorder(ctx)
	if err != nil {
		return nil
	}
	raw, _, _ := cache.Open(p.Config.Cache, p.Config.CacheMax).Find(key, record)
	cs := &plan.ChangeSet{}
	if raw == nil || json.Unmarshal(raw, cs) != nil {
		return nil
	}
	if _, err := p.Store(cs.Deployment, cs.Environment).Head(ctx); err != nil { // it is damaged: planning reports it
		return nil
	}
	return cs
}

// StoreNoChanges stores an empty change set with everything that was read for
// it. It stores nothing for deployments with transforms, whose reads are not
// recorded, or with modules, which depend on state outside of defx.
func (p *Project) StoreNoChanges(ctx context.Context, d *Desired, cs *plan.ChangeSet) {
	if p.Config.Cache == "" || !cs.Empty() || len(cs.Protected) > 0 || len(d.Held) > 0 || d.Transforms > 0 || len(d.Rendered.Modules) > 0 {
		return
	}
	artifacts, complete := p.artifacts.DescribedPaths()
	key, err := p.noChangesKey()
	if err != nil || !complete {
		return
	}
	record, err := p.recorder(ctx)
	if err != nil {
		return
	}
	if !slices.Equal(d.externalReads, p.recordExternalReads(ctx, d)) {
		return // changed while it was read
	}
	reads := slices.Concat(d.Reads, d.externalReads)
	for _, a := range artifacts {
		reads = append(reads, record(artifactPrefix+a))
	}
	raw, err := json.Marshal(cs)
	if err != nil {
		return
	}
	cache.Open(p.Config.Cache, p.Config.CacheMax).Store(key, reads, raw)
}

// recordExternalReads records what a plan reads that is neither source nor artifact.
func (p *Project) recordExternalReads(ctx context.Context, d *Desired) []lang.ReadRecord {
	paths := []string{rootPrefix + lock.Name, rootPrefix + secretsIndex}
	paths = append(paths, statePrefix+d.Name+"/"+d.Environment+"/head.json") // also has what interrupted applies announced
	var out []lang.ReadRecord
	for _, path := range paths {
		out = append(out, p.recordFile(ctx, path))
	}
	return out
}

// recorder returns what records the present content of a path that a plan reads.
func (p *Project) recorder(ctx context.Context) (func(path string) lang.ReadRecord, error) {
	source, err := p.Config.CacheKeyReader()
	if err != nil {
		return nil, err
	}
	return func(path string) lang.ReadRecord {
		if strings.HasPrefix(path, statePrefix) || strings.HasPrefix(path, rootPrefix) {
			return p.recordFile(ctx, path)
		}
		if name, ok := strings.CutPrefix(path, artifactPrefix); ok {
			d, err := p.artifacts.Fingerprint(name)
			if err != nil {
				return lang.ReadRecord{Path: path}
			}
			return lang.ReadRecord{Path: path, Digest: d}
		}
		return source(path)
	}, nil
}

// recordFile records the present content of a file of the state or the root.
func (p *Project) recordFile(ctx context.Context, path string) lang.ReadRecord {
	var raw []byte
	var err error
	if file, ok := strings.CutPrefix(path, statePrefix); ok {
		raw, err = openfile.Read(ctx, filepath.Join(p.StateDir, filepath.FromSlash(file)), state.MaxFile)
	} else {
		raw, err = openfile.ReadBelow(ctx, p.Config.Root, strings.TrimPrefix(path, rootPrefix), openfile.Small)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return lang.ReadRecord{Path: path, Absent: true}
	case err != nil:
		return lang.ReadRecord{Path: path}
	}
	return lang.ReadRecord{Path: path, Digest: digest.Bytes(raw)}
}
