package lang

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/internal/diag"
)

// If a child process exceeds a limit, what it had evaluated until then is kept. What it may have
// been evaluating at that moment is suspect and evaluated alone, after everything else, in shares
// of the time that is left: what is at fault is named, and the rest still has its value.

// isolation evaluates libraries, some of which may exceed a limit.
type isolation struct {
	c        Config
	b        *budget
	done     map[string]Library
	reads    [][]ReadRecord
	suspects []suspect
	exceeded bool // some child exceeded a limit, so that there are errors without positions
}

// suspect is a library that was being evaluated when a child exceeded a limit.
type suspect struct {
	name  string
	limit *childLimitError
}

func newIsolation(ctx context.Context, c Config) *isolation {
	return &isolation{c: c, b: budgetOf(ctx, c.Limits), done: map[string]Library{}}
}

// share returns the part of the time that is left.
func (i *isolation) share(part float64) time.Duration {
	return max(time.Duration(part*float64(i.b.left(false))), 1)
}

// batchShare is the part of the time that is left that many libraries together may take. What is
// left after that is for those at fault.
const batchShare = 0.6

// collect adds the libraries of a response, which may be incomplete.
func (i *isolation) collect(a *response) {
	if a == nil || a.Result == nil {
		return
	}
	i.reads = append(i.reads, a.Result.Reads)
	for _, l := range a.Result.Libraries {
		if l.Name == "" { // it was not sent
			continue
		}
		i.done[l.Name] = l
		i.reads = append(i.reads, l.Reads)
	}
}

// suspectFirst makes those libraries suspects that the child with names was evaluating: libraries
// are evaluated in their order, one on each core.
func (i *isolation) suspectFirst(names []string, limit *childLimitError) {
	found := 0
	for _, name := range names {
		if _, done := i.done[name]; !done && found < runtime.GOMAXPROCS(0) {
			i.suspects = append(i.suspects, suspect{name, limit})
			found++
		}
	}
}

// pending returns the names that are neither done nor suspect.
func (i *isolation) pending(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, done := i.done[name]
		return done || slices.ContainsFunc(i.suspects, func(s suspect) bool { return s.name == name })
	})
}

// evaluate evaluates the libraries that are not done. Each has a value or an error afterwards.
func (i *isolation) evaluate(ctx context.Context, names []string) error {
	for pending := i.pending(names); len(pending) > 0; pending = i.pending(names) {
		part := pending[:min(batchSize, len(pending))]
		a, err := runChild(ctx, request{Config: i.c, Evaluation: &evaluationRequest{Some: part}, share: i.share(batchShare)})
		limit, exceeded := errors.AsType[*childLimitError](err)
		i.exceeded = i.exceeded || exceeded
		switch {
		case err != nil && !exceeded:
			return err
		case exceeded && limit.spent:
			for _, name := range pending {
				i.done[name] = Library{Name: name, Err: limit.errorAbout("library "+name, "libs", name)}
			}
			continue
		case !exceeded && len(a.Errors) > 0:
			return a.Errors.Sort()
		}
		if i.collect(a); exceeded {
			i.suspectFirst(part, limit)
		} else if slices.ContainsFunc(part, func(name string) bool { _, done := i.done[name]; return !done }) {
			return errors.New("the evaluation process sent a response without all libraries")
		}
	}
	for n, s := range i.suspects {
		l, err := i.library(ctx, s, i.share(1/float64(len(i.suspects)-n)))
		if err != nil {
			return err
		}
		i.done[s.name] = l
	}
	i.suspects = nil
	return nil
}

// library evaluates one library alone and, if that exceeds a limit, its functionalities one after
// the other.
func (i *isolation) library(ctx context.Context, s suspect, share time.Duration) (Library, error) {
	out := Library{Name: s.name}
	until := i.b.left(false) - share
	rest := func(part float64) time.Duration { return max(time.Duration(part*float64(i.b.left(false)-until)), 1) }
	fail := func(limit *childLimitError) (Library, error) {
		if limit.time {
			i.b.blame("library " + s.name)
		}
		out.Err = limit.errorAbout("library "+s.name, "libs", s.name)
		return out, nil
	}
	// The names come first: a library that exceeds a limit when it is merely read does so here, once.
	names, err := runChild(ctx, request{Config: i.c, Evaluation: &evaluationRequest{Only: s.name, Names: true}, share: rest(1)})
	if limit, is := errors.AsType[*childLimitError](err); is {
		return fail(limit)
	}
	if err != nil {
		return out, err
	}
	if len(names.Errors) > 0 {
		out.Err = names.Errors[0]
		return out, nil
	}
	if !s.limit.time { // alone it may need no more memory than it has
		a, err := runChild(ctx, request{Config: i.c, Evaluation: &evaluationRequest{Only: s.name}, share: rest(0.5)})
		if _, exceeded := errors.AsType[*childLimitError](err); !exceeded {
			if err != nil {
				return out, err
			}
			if len(a.Errors) > 0 {
				out.Err = a.Errors[0]
				return out, nil
			}
			i.collect(a)
			return a.Result.Libraries[0], nil
		}
	}
	return out, i.functionalities(ctx, &out, names.Names, rest)
}

// minShare is the least time that one functionality has, as far as there is time.
const minShare = time.Second

// functionalities evaluates the functionalities of a library in one child process after the other,
// each of which ends with the first one at fault. rest returns a part of the time for them.
func (i *isolation) functionalities(ctx context.Context, out *Library, names []string, rest func(float64) time.Duration) error {
	for todo := names; len(todo) > 0; {
		share := min(max(rest(0.5), minShare), rest(1))
		a, err := runChild(ctx, request{Config: i.c, Evaluation: &evaluationRequest{Only: out.Name, Funcs: todo}, share: share})
		limit, exceeded := errors.AsType[*childLimitError](err)
		switch {
		case err != nil && !exceeded:
			return err
		case !exceeded && len(a.Errors) > 0:
			for _, name := range todo {
				out.Functionalities = append(out.Functionalities, Functionality{Name: name, Err: a.Errors[0]})
			}
			return nil
		}
		finished := 0
		if a != nil && a.Result != nil {
			for _, l := range a.Result.Libraries {
				if finished == len(todo) || len(l.Functionalities) != 1 || l.Functionalities[0].Name != todo[finished] {
					break
				}
				out.Functionalities = append(out.Functionalities, l.Functionalities[0])
				finished++
			}
			i.reads = append(i.reads, a.Result.Reads)
		}
		if todo = todo[finished:]; !exceeded && len(todo) > 0 {
			return errors.New("the evaluation process sent a response without all functionalities")
		}
		if len(todo) == 0 || finished > 0 && !limit.spent {
			continue // the next one had no share or memory of its own yet
		}
		subject := out.Name + "/" + todo[0]
		if limit.time {
			i.b.blame(subject)
		}
		out.Functionalities = append(out.Functionalities, Functionality{Name: todo[0], Err: limit.errorAbout(subject, "libs", out.Name, todo[0])})
		todo = todo[1:]
	}
	slices.SortFunc(out.Functionalities, func(a, b Functionality) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// attachPositions sets the position of errors that only have a path. For a
// library that cannot even be read, only the entry file is searched.
func attachPositions(ctx context.Context, c Config, list []Library) {
	var libs, funcs []*diag.Error
	for _, l := range list {
		if l.Err != nil && !l.Err.Pos.Known() {
			libs = append(libs, l.Err)
		}
		for _, f := range l.Functionalities {
			if f.Err != nil && !f.Err.Pos.Known() {
				funcs = append(funcs, f.Err)
			}
		}
	}
	for _, group := range []struct {
		errs    []*diag.Error
		shallow bool
	}{{libs, true}, {funcs, len(libs) > 0}} {
		if len(group.errs) == 0 {
			continue
		}
		paths := make([][]string, len(group.errs))
		for i, e := range group.errs {
			paths[i] = e.Path
		}
		if found, err := locateInChild(ctx, c, locateRequest{Paths: paths, Shallow: group.shallow}); err == nil {
			for i, e := range group.errs {
				e.Pos = found[i]
			}
		}
	}
}
