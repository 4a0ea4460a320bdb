package apply

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/sets"
)

// done is an action that succeeded.
type done struct {
	action  *plan.Action
	old     *plan.Record // before it; nil: the unit did not exist
	now     plan.Record
	counted *int // where it was counted
}

// outcome is what became of a version that was started.
type outcome struct {
	done
	record *plan.Record // of the unit, if err is not nil
	err    error        // it has ended
	took   time.Duration

	restored bool // the previous version runs again
}

// watch asks the machine whether the version that an action started still runs: without a readiness
// check not before it should have run for a while. If it has ended, the previous version is
// restored; if there was none, the unit is removed.
func (r *run) watch(ctx context.Context, d done) outcome {
	m, err := r.dial(d.action.Machine)
	if err != nil {
		return outcome{done: d}
	}
	// Without an answer the check is not possible; the status of the unit shows what became of it.
	failures, _ := m.client.Settle(ctx, r.scope(), []string{d.action.Address})
	if failure := failures[d.action.Address]; failure != nil {
		return r.restore(ctx, d, failure)
	}
	return outcome{done: d}
}

// watchAll asks the machines once more, at the end of the apply, about all versions that were
// started and have not failed. It returns those that have ended, sorted by address.
func (r *run) watchAll(ctx context.Context, list []done, failed []string) []outcome {
	byMachine, actions := map[string][]string{}, map[string]done{}
	for _, d := range list {
		if !slices.Contains(failed, d.action.Address) {
			byMachine[d.action.Machine] = append(byMachine[d.action.Machine], d.action.Address)
			actions[d.action.Address] = d
		}
	}
	var mu sync.Mutex
	var out []outcome
	var all sync.WaitGroup
	for name, addresses := range byMachine {
		all.Go(func() {
			m, err := r.dial(name)
			if err != nil {
				return
			}
			failures, _ := m.client.Settle(ctx, r.scope(), addresses)
			for _, address := range sets.Keys(failures) {
				all.Go(func() {
					o := r.restore(ctx, actions[address], failures[address])
					mu.Lock()
					defer mu.Unlock()
					out = append(out, o)
				})
			}
		})
	}
	all.Wait()
	slices.SortFunc(out, func(a, b outcome) int { return strings.Compare(a.action.Address, b.action.Address) })
	return out
}

// recordEnded makes a failure of an action that had succeeded.
func (r *run) recordEnded(o outcome, byAddress map[string]plan.Record, res *Result) {
	address := o.action.Address
	delete(byAddress, address)
	if o.record != nil {
		byAddress[address] = *o.record
	}
	res.Failed = append(res.Failed, address)
	entry := outcomeOf(o.action, o.record, o.err)
	if o.restored {
		entry.Outcome = state.OutcomeRolledBack
	}
	res.Outcomes = append(res.Outcomes, entry)
	*o.counted--
	r.emit(Event{Outcome: Failed, Action: *o.action, Err: o.err, Took: o.took})
}

// restore restores the version before an action whose version has ended.
func (r *run) restore(ctx context.Context, d done, failure error) outcome {
	a, now, begin := d.action, d.now, time.Now()
	end := func(rec *plan.Record, err error, restored bool) outcome {
		return outcome{done: d, record: rec, err: withHint(err), took: time.Since(begin), restored: restored}
	}
	changed := d.old != nil && d.old.Digest != "" && (d.old.Digest != now.Digest || !maps.Equal(d.old.Values, now.Values))
	update := a.Op == plan.Update && a.PreviousAddress == "" && changed && d.old.Backend == now.Backend && !r.isRestart(a)
	if !update && a.Op != plan.Create {
		return end(&now, fmt.Errorf("%w\nit was left as it is", failure), false)
	}
	s := &stepLine{Op: plan.Update, Address: a.Address, Machine: a.Machine}
	var previous *plan.Placed
	text := "\nthe previous version runs again"
	if update {
		p := d.old.Placed()
		previous = &p
	} else {
		s.Op, text = plan.Delete, "\nit was removed again"
	}
	r.journal.write(journalLine{Begin: s})
	limited, cancel := context.WithTimeout(ctx, usualDeadline+r.patience(ctx, a, d.old))
	defer cancel()
	rec, err := r.applyUnit(limited, a.Address, a.Machine, previous, &now)
	if err != nil {
		s.Failed, failure = err.Error(), fmt.Errorf("%w; restoring the previous version failed too: %w", failure, err)
	} else {
		failure = fmt.Errorf("%w%s", failure, text)
	}
	if rec != nil && update && err == nil {
		rec.Rejected = &plan.Rejected{Digest: a.Digest, Reason: oneLine(failure), Generation: r.generation}
	}
	r.journal.write(journalLine{End: s})
	return end(rec, failure, update && err == nil)
}

// counter returns where an action is counted; a counter that nobody reads if nowhere.
func counter(c *state.Counts, a *plan.Action) *int {
	if len(a.Drift) > 0 && a.Digest == a.Before {
		return &c.Repaired
	}
	switch a.Op {
	case plan.Create:
		return &c.Created
	case plan.Update:
		return &c.Updated
	case plan.Replace:
		return &c.Replaced
	case plan.Move:
		return &c.Moved
	case plan.Delete:
		return &c.Deleted
	}
	return new(int)
}

type actionKey struct{}

// withAction returns a context whose waits are reported as those of an action.
func (r *run) withAction(ctx context.Context, a *plan.Action) context.Context {
	return agent.WithProgress(context.WithValue(ctx, actionKey{}, a), func(p agent.Progress) {
		r.emit(Event{Outcome: Waiting, Action: *a, Wait: &p})
	})
}

// whileWaiting runs f, and reports every second what the action of ctx waits for.
func (r *run) whileWaiting(ctx context.Context, what string, limit time.Duration, f func() error) error {
	a, _ := ctx.Value(actionKey{}).(*plan.Action)
	if a == nil {
		return f()
	}
	begin, stop := time.Now(), make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
			if since := time.Since(begin); since > 2*time.Second {
				r.emit(Event{Outcome: Waiting, Action: *a, Wait: &agent.Progress{What: what, Elapsed: since, Limit: limit}})
			}
		}
	})
	err := f()
	close(stop)
	watching.Wait()
	return err
}

// serialize returns an OnEvent that is called from one goroutine at a time.
func serialize(f func(Event)) func(Event) {
	if f == nil {
		return func(Event) {}
	}
	var mu sync.Mutex
	return func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		f(e)
	}
}
