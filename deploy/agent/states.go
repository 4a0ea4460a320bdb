package agent

import (
	"context"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/defx-dev/defx/deploy/engine"
)

// maxQueries limits how many properties systemd is asked for at once.
const maxQueries = 16

// States returns the states of units: one question for all of them, and for each loaded one what
// that answer lacks.
func (s *systemd) States(ctx context.Context, units []string) (map[string]SupervisorState, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	list, err := c.ListUnitsByNamesContext(ctx, units)
	if err != nil {
		return nil, err
	}
	out := make(map[string]SupervisorState, len(list))
	var mu sync.Mutex
	var first error
	slots := make(chan struct{}, maxQueries)
	var all sync.WaitGroup
	for i, u := range list {
		name := u.Name
		if len(list) == len(units) { // in the order of the names; the name of an alias is that of its unit
			name = units[i]
		}
		st := SupervisorState{Load: u.LoadState, Active: u.ActiveState, Sub: u.SubState}
		if st.Load != "loaded" {
			mu.Lock()
			out[name] = st
			mu.Unlock()
			continue
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			st, err := s.complete(ctx, c, name, st)
			mu.Lock()
			defer mu.Unlock()
			if out[name] = st; err != nil && first == nil {
				first = err
			}
		})
	}
	all.Wait()
	return out, first
}

// complete adds to the state of a unit what is needed to judge it.
func (s *systemd) complete(ctx context.Context, c *dbus.Conn, unit string, st SupervisorState) (SupervisorState, error) {
	if st.Active != "active" && st.Active != "inactive" || st.Sub == "auto-restart" { // the reason is needed too
		full, err := s.State(ctx, unit)
		if err != nil {
			return st, err
		}
		st = full
	} else {
		p, err := c.GetUnitPropertyContext(ctx, unit, "StateChangeTimestamp")
		if err != nil {
			return st, err
		}
		st.Since = usecTime(p.Value.Value())
	}
	if p, err := c.GetUnitPropertyContext(ctx, unit, "NeedDaemonReload"); err == nil {
		st.Stale, _ = p.Value.Value().(bool)
	}
	if !strings.HasSuffix(unit, ".service") || st.Active != "active" {
		return st, nil
	}
	if p, err := c.GetUnitPropertyContext(ctx, unit, "FreezerState"); err == nil { // systemd 246
		text, _ := p.Value.Value().(string)
		st.Frozen = text == "frozen" || text == "freezing"
	}
	if p, err := c.GetUnitTypePropertyContext(ctx, unit, "Service", "NRestarts"); err == nil {
		if n, ok := p.Value.Value().(uint32); ok {
			st.Restarts = int(n)
		}
	}
	return st, nil
}

func (b *multiSupervisor) States(ctx context.Context, units []string) (map[string]SupervisorState, error) {
	return b.systemd.States(ctx, units)
}

func (b *multiSupervisor) Differences(ctx context.Context, units []string) (map[string]engine.Comparison, error) {
	return b.engine.Differences(ctx, units)
}

func (b *multiSupervisor) VolumeDir(ctx context.Context, name string) (string, error) {
	return b.engine.VolumeDir(ctx, name)
}

func (b *multiSupervisor) ScopeContainers(ctx context.Context, scope string) ([]engine.ScopeContainer, error) {
	if b.check(ctx, true) != nil {
		return nil, nil
	}
	return b.engine.ScopeContainers(ctx, scope)
}

// Thaw lets frozen units run again.
func (b *multiSupervisor) Thaw(ctx context.Context, unit string) error {
	if isContainer(unit) {
		return nil // starting it does that
	}
	c, err := b.systemd.connect(ctx)
	if err != nil {
		return err
	}
	return c.ThawUnit(ctx, unit)
}
