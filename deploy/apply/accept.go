package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
)

// ErrUnknownApply is the cause of a refusal: a machine was changed by an apply that
// is neither in the history of the state nor announced in its head. The state is
// an old copy, or a copy that went another way, or another state.
type ErrUnknownApply struct {
	Machine    string
	Address    string // the unit that the apply changed; "" = it is the last apply on the machine
	Apply      string
	Last       agent.LastApply // of the machine
	Lineage    string          // of the state
	Generation int             // of the state
}

func (e *ErrUnknownApply) Error() string {
	what := "it was last changed by"
	if e.Address != "" {
		what = e.Address + " there was changed by"
	}
	by := ""
	if e.Apply == e.Last.Apply && e.Last.By != "" {
		by = fmt.Sprintf(" (%s, %s, %s)", e.Last.Verb, e.Last.By, ago(e.Last.At))
	}
	return fmt.Sprintf("%s apply %s%s, which state %s at generation %d does not know: that state is a copy that fell behind, or another state",
		what, short(e.Apply), by, short(e.Lineage), e.Generation)
}

// ErrOtherState is the cause of a refusal: the units on a machine belong to another state.
type ErrOtherState struct {
	Machine string
	Theirs  string // lineage of the state that they belong to
	Last    agent.LastApply
	Units   int
	Lineage string // of this state
}

func (e *ErrOtherState) Error() string {
	by := ""
	if e.Last.By != "" {
		by = fmt.Sprintf(" (last %s by %s, %s)", e.Last.Verb, e.Last.By, ago(e.Last.At))
	}
	units := "1 unit"
	if e.Units != 1 {
		units = fmt.Sprintf("%d units", e.Units)
	}
	return fmt.Sprintf("it has %s of state %s%s, and this is state %s: the state was lost, or it is not the state of this environment", units, short(e.Theirs), by, short(e.Lineage))
}

// short returns the beginning of an ID, for people.
func short(id string) string {
	if id == "" {
		return "(new)"
	}
	return id[:min(len(id), 8)]
}

// ago writes how long ago something was.
func ago(t time.Time) string {
	switch d := time.Since(t); {
	case t.IsZero():
		return "some time ago"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
}

// now returns the time with the precision of records.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// acceptance is what decides whether a state may be used on a machine. It does not
// change, so late answers of machines do no harm.
type acceptance struct {
	environment string
	ancestry    *state.Ancestry
	generation  int                    // the newest one of the state
	token       int64                  // of the lease; 0 = it is not held yet
	recorded    map[string]plan.Record // address → its record
	interrupted map[string]bool        // addresses that interrupted applies may have changed
}

// newAcceptance returns what the recorded state accepts.
func newAcceptance(req *Request, b *base, token int64) *acceptance {
	a := &acceptance{environment: req.Plan.Environment, ancestry: state.NewAncestry(req.Store, b.head, b.gen), generation: b.head.Generation, token: token,
		recorded: map[string]plan.Record{}, interrupted: map[string]bool{}}
	for _, rec := range b.records {
		a.recorded[rec.Address] = rec
	}
	if b.unfinished != nil {
		for address := range b.unfinished.Units {
			a.interrupted[address] = true
		}
	}
	return a
}

// refuse returns the error that the state must not be used on a machine.
func (a *acceptance) refuse(machine string, cause error) error {
	e := diag.Errorf("machine "+machine, "%v", cause).
		WithHint("nothing was changed; defx state pull -e %s --from dir:PATH takes over the state that knows it; if that state is lost, defx state rebuild -e %s makes a new one from the machines", a.environment, a.environment)
	return &stateMismatch{e}
}

// check returns a *stateMismatch if the state is not the one that a machine
// knows: if what is there was made by an apply that the state has never heard of.
// It decides by the ancestry of applies alone, so it decides the same however
// often it is asked. A refusal changes nothing.
func (a *acceptance) check(ctx context.Context, name string, s *agent.Scope) error {
	lineage, err := a.ancestry.Lineage(ctx)
	if err != nil {
		return err
	}
	switch {
	case len(s.Units) == 0 && s.Lineage != lineage:
		return nil // an empty machine belongs to nobody
	case s.Lineage == "":
		return a.checkFormat1(name, s)
	case s.Lineage != lineage:
		return a.refuse(name, &ErrOtherState{name, s.Lineage, s.Last, len(s.Units), lineage})
	}
	unknown := func(address, apply string) error {
		known, err := a.ancestry.Knows(ctx, apply)
		if err != nil || known {
			return err
		}
		return a.refuse(name, &ErrUnknownApply{name, address, apply, s.Last, lineage, a.generation})
	}
	if err := unknown("", s.Last.Apply); err != nil {
		return err
	}
	for _, address := range sets.Keys(s.Units) {
		if apply := s.Units[address].Apply; apply != "" { // else it was made by the version before
			if err := unknown(address, apply); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkFormat1 decides about a machine that only the version before has changed:
// it knows no applies. It is taken over if it has exactly what the records say.
func (a *acceptance) checkFormat1(name string, s *agent.Scope) error {
	fail := func(format string, args ...any) error {
		return &stateMismatch{diag.Errorf("machine "+name, "it was last changed by an older version of defx, and %s: the state is a copy that fell behind, or another state", fmt.Sprintf(format, args...)).
			WithHint("nothing was changed; defx state pull -e %s --from dir:PATH takes over the state that knows it", a.environment)}
	}
	if a.token > 0 && s.Last.Token >= a.token && len(s.Units) > 0 {
		return fail("it remembers token %d, and this state is at %d", s.Last.Token, a.token)
	}
	for _, address := range sets.Keys(s.Units) {
		e := s.Units[address]
		rec, known := a.recorded[address]
		if e.Digest == "" || a.interrupted[address] || known && rec.Digest == "" {
			continue
		}
		if !known || rec.Machine != name || rec.Digest != e.Digest {
			return fail("it has another version of %s than the records say", address)
		}
		if s.Old && rec.Stateful {
			return &stateMismatch{diag.Errorf("machine "+name, "it was last changed by an older version of defx, which kept the data of %s in a directory or volume of another name: it would start without its data", address).
				WithHint("nothing was changed; with a copy of defx of that version, remove it from the machine: its data stays there and can be copied to the new directory")}
		}
	}
	return nil
}

// acceptAnswers fails if the state is not the one that a machine knows which has
// answered a refresh.
func (req *Request) acceptAnswers(ctx context.Context, b *base) error {
	a := newAcceptance(req, b, 0)
	for _, name := range sets.Keys(req.Refreshed.Answers) {
		answer := req.Refreshed.Answers[name]
		if answer.Scope == nil {
			continue
		}
		s := *answer.Scope
		s.Units = map[string]*agent.Entry{}
		for address, u := range answer.Units {
			s.Units[address] = u.Entry
		}
		err := a.check(ctx, name, &s)
		if m, is := errors.AsType[*stateMismatch](err); is {
			return m.err
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stateMismatch is an error that stops the whole apply: the state must not be used
// on a machine.
type stateMismatch struct{ err *diag.Error }

func (m *stateMismatch) Error() string { return m.err.Error() }
func (m *stateMismatch) Unwrap() error { return m.err }
