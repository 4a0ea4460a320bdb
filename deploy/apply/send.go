package apply

import (
	"context"
	"errors"
	"io"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
)

// artifacts sends what a unit needs and the machine lacks.
func (r *run) artifacts(ctx context.Context, m *machine, unit []byte) error {
	var u plan.Unit
	if err := u.Decode(unit); err != nil || len(u.Artifacts) == 0 {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sent == nil {
		m.sent = map[digest.Digest]bool{}
	}
	var ask []digest.Digest
	for _, a := range u.Artifacts {
		if !m.sent[a.Digest] {
			ask = append(ask, a.Digest)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	missing, err := m.client.Missing(ctx, ask)
	if err != nil {
		return err
	}
	for _, a := range u.Artifacts {
		if offset, lacks := missing[a.Digest]; lacks {
			err := r.put(ctx, m, a, offset)
			if err != nil && offset > 0 { // the beginning may have come from something else
				err = r.put(ctx, m, a, 0)
			}
			if err != nil {
				return err
			}
		}
		m.sent[a.Digest] = true
	}
	return nil
}

// put sends an artifact, but not the bytes that are there from an earlier time.
func (r *run) put(ctx context.Context, m *machine, a plan.Artifact, offset int64) error {
	in, err := r.w.Artifact(a)
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := io.CopyN(io.Discard, in, offset); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return m.client.Put(ctx, a, offset, in)
}

func count(c *state.Counts, op plan.Op) {
	switch op {
	case plan.Create:
		c.Created++
	case plan.Update:
		c.Updated++
	case plan.Replace:
		c.Replaced++
	case plan.Move:
		c.Moved++
	case plan.Delete:
		c.Deleted++
	}
}
