package apply

import (
	"context"
	"errors"
	"io"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
)

// sendArtifacts sends the artifacts of a unit that the machine does not have.
func (r *run) sendArtifacts(ctx context.Context, m *machine, unit []byte) error {
	var u plan.Unit
	if err := u.Decode(unit); err != nil || len(u.Artifacts) == 0 {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sent == nil {
		m.sent = map[digest.Digest]bool{}
	}
	var needed []digest.Digest
	for _, a := range u.Artifacts {
		if !m.sent[a.Digest] {
			needed = append(needed, a.Digest)
		}
	}
	if len(needed) == 0 {
		return nil
	}
	missing, err := m.client.Missing(ctx, needed)
	if err != nil {
		return err
	}
	for _, a := range u.Artifacts {
		if offset, lacks := missing[a.Digest]; lacks {
			err := r.sendArtifact(ctx, m, a, offset)
			if err != nil && offset > 0 { // the partial content may have been of another artifact
				err = r.sendArtifact(ctx, m, a, 0)
			}
			if err != nil {
				return err
			}
		}
		m.sent[a.Digest] = true
	}
	return nil
}

// sendArtifact sends an artifact from offset on; the machine has the bytes before it.
func (r *run) sendArtifact(ctx context.Context, m *machine, a plan.Artifact, offset int64) error {
	in, err := r.req.Artifact(ctx, a)
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := io.CopyN(io.Discard, in, offset); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return m.client.Put(ctx, a, offset, in)
}
