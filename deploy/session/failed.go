package session

import (
	"context"
	"slices"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// LogSource is where the logs of a unit are.
type LogSource struct {
	Address string
	Machine string
	Entry   *agent.Entry // of a unit that could not be created: what its log lines are found by
}

// LogSources returns where the logs of the units with a name are: of those that are deployed, and of
// one whose creation failed.
func (s *Session) LogSources(ctx context.Context, name string) ([]LogSource, error) {
	units, err := s.Units(name)
	var out []LogSource
	for _, r := range units {
		out = append(out, LogSource{Address: r.Address, Machine: r.Machine})
	}
	if err == nil {
		return out, nil
	}
	names := graph.NamesOf()
	for _, o := range s.Generation.Outcomes {
		names.Add(o.Address)
	}
	addresses, _ := names.FindAll(name)
	for _, address := range addresses {
		i := slices.IndexFunc(s.Generation.Outcomes, func(o state.Outcome) bool { return o.Address == address && o.Digest != "" })
		if i < 0 {
			continue
		}
		source, serr := s.failedSource(ctx, s.Generation.Outcomes[i])
		if serr != nil {
			return nil, serr
		}
		out = append(out, source)
	}
	if len(out) == 0 {
		return nil, err
	}
	return out, nil
}

// failedSource returns where the logs of a unit are that could not be created.
func (s *Session) failedSource(ctx context.Context, o state.Outcome) (LogSource, error) {
	p, err := state.LoadPlan(ctx, s.Store(), s.Generation)
	if err != nil {
		return LogSource{}, err
	}
	placed := p.Find(o.Address)
	if placed == nil || placed.Object == "" {
		return LogSource{}, diag.Errorf(o.Address, "it was never started: %s", o.Reason)
	}
	e, err := s.entryOf(ctx, placed)
	return LogSource{o.Address, o.Machine, e}, err
}

// entryOf returns the names that a unit would have on its machine.
func (s *Session) entryOf(ctx context.Context, p *plan.Placed) (*agent.Entry, error) {
	var u plan.Unit
	if err := state.Load(ctx, s.Store(), p.Object, &u); err != nil {
		return nil, err
	}
	b := s.Project.Backends[u.Backend]
	if b == nil {
		return nil, diag.Errorf(p.Address, "this program has no backend %q", u.Backend)
	}
	instance, err := u.Instance(p.Values)
	if err != nil {
		return nil, err
	}
	l, err := b.Realize(u.Payload, instance, func(t token.Token) (string, bool) { v, ok := p.Values[plan.Key(t)]; return v, ok })
	if err != nil {
		return nil, err
	}
	return &agent.Entry{Backend: u.Backend, Digest: p.Digest, Instance: instance, Name: l.Name, Unit: l.Unit, Start: l.Start, Files: []string{}}, nil
}
