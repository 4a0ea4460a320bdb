// Package session works on one environment of a deployment as the state
// records it: it finds the environment even if the entry file has an error,
// connects to its machines, and does what needs no plan: restart, garbage
// collection, rebuilding a lost state, and preparing a rollback or a destroy.
//
// It refuses to know flags, terminals and output formats. Invariant: a session
// is a snapshot; nothing in it changes after Open.
package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/lang"
)

// maxConnections limits how many machines are asked at once.
const maxConnections = 20

// Session is one environment of a deployment.
type Session struct {
	Project     *project.Project
	Deployment  string
	Environment string
	Desired     *project.Desired          // what the entry file asks for; nil if it has an error
	Generation  *state.Generation         // the newest one; never nil, its Number is 0 if nothing was applied yet
	Records     []plan.Record             // deployed units, on machines as they are named now
	Machines    map[string]*graph.Machine // declared machines, and those of the generation
}

// Open evaluates the entry file and reads the newest generation. If the entry
// file has an error, the state decides which deployment this is, provided that
// it has only one; environment chooses among several environments. So it does
// for an environment that was applied and is no longer declared. Warn is called
// with the error of the entry file, and with the consequence.
func Open(ctx context.Context, p *project.Project, environment string, warn func(error)) (*Session, error) {
	s := &Session{Project: p, Machines: map[string]*graph.Machine{}}
	if err := s.identify(ctx, environment, warn); err != nil {
		return nil, err
	}
	gen, _, err := state.Current(ctx, s.Store())
	if err != nil {
		return nil, err
	}
	if gen == nil {
		gen = &state.Generation{}
	}
	s.Generation, s.Records = gen, gen.Records
	for _, m := range slices.Concat(gen.Machines, s.DeclaredMachines()) {
		s.Machines[m.Name] = m
	}
	if s.Desired != nil {
		s.Records = apply.RenameMachines(gen.Records, gen.Machines, s.DeclaredMachines())
	}
	return s, nil
}

// identify sets the names of deployment and environment.
func (s *Session) identify(ctx context.Context, environment string, warn func(error)) error {
	d, err := s.Project.Plan(ctx) // names, machines and what is held are all that is needed
	if err == nil {
		s.Deployment, s.Environment, s.Desired = d.Name, d.Environment, d
		return nil
	}
	var damaged *state.Damaged
	var format *state.OtherFormat
	if errors.As(err, &damaged) || errors.As(err, &format) { // the state cannot decide
		return err
	}
	known := s.Project.Deployments()
	if ctx.Err() != nil || len(known) != 1 {
		return err
	}
	s.Deployment = slices.Collect(maps.Keys(known))[0]
	environments := known[s.Deployment]
	if diag.HasCode(err, lang.CodeEnvironment) && !slices.Contains(environments, environment) {
		return err // what is not declared can be chosen only if it was applied once
	}
	if s.Environment = environment; environment == "" && len(environments) == 1 {
		s.Environment = environments[0]
	}
	warn(err)
	if !slices.Contains(environments, s.Environment) {
		return diag.Errorf("", "the entry file has an error, and the state of %s has the environments %s", s.Deployment, strings.Join(environments, ", ")).
			WithHint("choose one with -e")
	}
	warn(&Fallback{s.Deployment, s.Environment})
	return nil
}

// Fallback is the warning that the entry file has an error and only the state is used.
type Fallback struct{ Deployment, Environment string }

func (f *Fallback) Error() string {
	return fmt.Sprintf("using only the recorded state of %s (%s)", f.Deployment, f.Environment)
}

// Store returns the state of the environment.
func (s *Session) Store() *state.Dir { return s.Project.Store(s.Deployment, s.Environment) }

// Scope returns the name of the environment on machines.
func (s *Session) Scope() string { return s.Environment + "/" + s.Deployment }

// DeclaredMachines returns the machines of the entry file, nil if it has an error.
func (s *Session) DeclaredMachines() []*graph.Machine {
	if s.Desired == nil {
		return nil
	}
	return s.Desired.Graph.Machines
}

// Names returns the names of the deployed units.
func (s *Session) Names() *graph.Names {
	names := graph.NamesOf()
	for _, r := range s.Records {
		names.Add(r.Address)
	}
	return names
}

// Unit returns the record of the unit that a person means with a name.
func (s *Session) Unit(name string) (plan.Record, error) {
	all, err := s.Units(name)
	if err != nil {
		return plan.Record{}, err
	}
	if len(all) > 1 {
		var addresses []string
		for _, r := range all {
			addresses = append(addresses, r.Address)
		}
		return plan.Record{}, plan.AmbiguousName(name, addresses)
	}
	return all[0], nil
}

// Units returns the records of the units that a person means with a name: that of a set or of a
// group means all of its units. It is never empty without an error.
func (s *Session) Units(name string) ([]plan.Record, error) {
	names := s.Names()
	addresses, candidates := names.FindAll(name)
	if len(candidates) > 0 {
		return nil, plan.AmbiguousName(name, candidates)
	}
	var out []plan.Record
	var texts []string
	for _, r := range s.Records {
		texts = append(texts, names.Text(r.Address))
	}
	for _, address := range addresses {
		for _, r := range s.Records {
			if r.Address == address {
				out = append(out, r)
			}
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	hint := diag.Suggest(name, texts)
	if hint == "" {
		hint = "defx status lists the deployed units"
	}
	return nil, diag.Errorf("", "nothing is deployed at %s in %s (%s)", name, s.Deployment, s.Environment).WithHint("%s", hint)
}

// UnknownMachine returns the error for a name that no machine has.
func (s *Session) UnknownMachine(name string) error {
	hint := diag.Suggest(name, s.MachineNames())
	if hint == "" {
		hint = "defx machine list lists the machines"
	}
	return diag.Errorf("", "unknown machine %q", name).WithHint("%s", hint)
}

// Dial connects to a machine.
func (s *Session) Dial(ctx context.Context, name string) (*agent.Client, error) {
	if name == "" {
		return nil, diag.Errorf("", "it is a module of resources and runs on no machine").WithHint("defx plan --refresh shows its state in the cloud")
	}
	m := s.Machines[name]
	if m == nil {
		return nil, s.UnknownMachine(name)
	}
	return s.Project.Dialer().Dial(ctx, m)
}

// MachineNames returns the names of all machines, sorted.
func (s *Session) MachineNames() []string { return sets.Keys(s.Machines) }

// UsedMachines returns the names of the machines with deployed units, sorted.
func (s *Session) UsedMachines() []string {
	names := map[string]bool{}
	for _, r := range s.Records {
		if r.Machine != "" { // modules are on no machine
			names[r.Machine] = true
		}
	}
	return sets.Keys(names)
}

// Visit connects to machines, several at once, and calls f for each. It returns
// the errors by machine.
func (s *Session) Visit(ctx context.Context, names []string, f func(name string, c *agent.Client) error) map[string]error {
	return ForEach(names, func(name string) error {
		c, err := s.Dial(ctx, name)
		if err != nil {
			return err
		}
		defer c.Close()
		return f(name, c)
	})
}

// ForEach calls f for each name, several at once, and returns the errors by name.
func ForEach(names []string, f func(name string) error) map[string]error {
	errs := make([]error, len(names))
	slots := make(chan struct{}, maxConnections)
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = f(name)
		})
	}
	all.Wait()
	failed := map[string]error{}
	for i, err := range errs {
		if err != nil {
			failed[names[i]] = err
		}
	}
	return failed
}
