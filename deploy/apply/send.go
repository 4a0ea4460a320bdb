package apply

import (
	"context"
	"encoding/json"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/lang/digest"
)

// artifacts sends what a unit needs and the machine lacks.
func (r *run) artifacts(ctx context.Context, m *machine, unit []byte) error {
	var u plan.Unit
	if err := json.Unmarshal(unit, &u); err != nil || len(u.Artifacts) == 0 {
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
	lacks := map[digest.Digest]bool{}
	for _, d := range missing {
		lacks[d] = true
	}
	for _, a := range u.Artifacts {
		if lacks[a.Digest] {
			in, err := r.w.Artifact(a)
			if err != nil {
				return err
			}
			err = m.client.Put(ctx, a, in)
			in.Close()
			if err != nil {
				return err
			}
		}
		m.sent[a.Digest] = true
	}
	return nil
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
