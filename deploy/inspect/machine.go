package inspect

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/session"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/deploy/transport"
	"github.com/defx-dev/defx/internal/sets"
)

// machineTimeout limits the questions to one machine.
const machineTimeout = time.Minute

// Machine is one machine of an environment, as it is recorded.
type Machine struct {
	*graph.Machine
	Units    int  `json:"units"`    // deployed there
	Declared bool `json:"declared"` // by the entry file
}

// Machines lists the machines of an environment by name. None is contacted.
func Machines(s *session.Session) []Machine {
	count := map[string]int{}
	for _, r := range s.Records {
		count[r.Machine]++
	}
	list := []Machine{}
	for _, name := range s.MachineNames() {
		declared := slices.ContainsFunc(s.DeclaredMachines(), func(m *graph.Machine) bool { return m.Name == name })
		list = append(list, Machine{s.Machines[name], count[name], declared || s.Desired == nil})
	}
	return list
}

// AskMachine asks a machine for its description and the status of the units of
// the environment, which is never nil.
func AskMachine(ctx context.Context, s *session.Session, name string) (*agent.Info, map[string]*agent.UnitStatus, error) {
	c, err := s.Dial(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, machineTimeout)
	defer cancel()
	info, err := c.Info(ctx)
	if err != nil {
		return nil, nil, err
	}
	units, err := c.Status(ctx, s.Scope())
	if units == nil {
		units = map[string]*agent.UnitStatus{}
	}
	return info, units, err
}

// States of a host key.
const (
	KeyPinned   = "pinned"
	KeyDiffers  = "other"    // than the pinned one
	KeyUnpinned = "unpinned" // hostKey is not set
	KeySilent   = "silent"   // the machine is unreachable
	KeyNone     = "none"     // the machine is not reached over ssh
)

// HostKey is the ssh host key of a machine.
type HostKey struct {
	Machine     string `json:"machine"`
	Key         string `json:"hostKey,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	State       string `json:"state"`
}

// ScanHostKeys asks machines for their host keys and compares them with the
// pinned ones. The errors of machines that could not be asked come by name.
func ScanHostKeys(ctx context.Context, s *session.Session, names []string) ([]HostKey, map[string]error, error) {
	keys, at := make([]HostKey, len(names)), map[string]int{}
	for i, name := range names {
		if s.Machines[name] == nil {
			return nil, nil, s.UnknownMachine(name)
		}
		keys[i].Machine, at[name] = name, i
	}
	errs := session.ForEach(sets.Keys(at), func(name string) error {
		m, k := s.Machines[name], &keys[at[name]]
		var err error
		if k.Key, err = s.Project.Dialer().HostKey(ctx, m); err != nil {
			k.State = KeySilent
			return err
		}
		switch {
		case k.Key == "":
			k.State = KeyNone
			return nil
		case m.HostKey == "":
			k.State = KeyUnpinned
		case transport.SameKey(m.HostKey, k.Key):
			k.State = KeyPinned
		default:
			k.State = KeyDiffers
		}
		k.Fingerprint = transport.Fingerprint(k.Key)
		return nil
	})
	for i, k := range keys { // a name may be given twice
		keys[i] = keys[at[k.Machine]]
	}
	return keys, errs, nil
}

// MachineChange is what one generation changed on a machine.
type MachineChange struct {
	Generation int       `json:"generation"`
	Applied    time.Time `json:"applied"`
	By         string    `json:"by"`
	Verb       string    `json:"verb"`
	Came       []string  `json:"came,omitempty"`    // addresses of new units
	Changed    []string  `json:"changed,omitempty"` // addresses of units with another version
	Went       []string  `json:"went,omitempty"`    // addresses of deleted units
}

// MachineHistory lists the generations that changed something on a machine,
// newest first. With since > 0, generations before that one were deleted by gc.
func MachineHistory(ctx context.Context, s *session.Session, name string) (changes []MachineChange, since int, err error) {
	store := s.Store()
	history, err := state.History(ctx, store, 0)
	if err != nil {
		return nil, 0, err
	}
	changes = []MachineChange{}
	known := s.Machines[name] != nil
	oldest := OldestKept(history)
	reader := state.NewReader(store)
	for i, gen := range history {
		var before *state.Generation
		if i+1 < len(history) {
			before = history[i+1]
		}
		newer, older, err := reader.Changed(ctx, gen, before)
		if err != nil {
			return nil, 0, err
		}
		now, was := recordsOn(name, newer), recordsOn(name, older)
		if gen == oldest { // its changes are unknown
			known = known || len(now) > 0
			since = gen.Number
			break
		}
		c := MachineChange{Generation: gen.Number, Applied: gen.Applied, By: gen.By, Verb: gen.Verb}
		for _, a := range sets.Keys(now) {
			switch old, deployed := was[a]; {
			case !deployed:
				c.Came = append(c.Came, a)
			case old.Digest != now[a].Digest || !maps.Equal(old.Values, now[a].Values):
				c.Changed = append(c.Changed, a)
			}
		}
		for _, a := range sets.Keys(was) {
			if _, deployed := now[a]; !deployed {
				c.Went = append(c.Went, a)
			}
		}
		if len(c.Came)+len(c.Changed)+len(c.Went) > 0 {
			known, changes = true, append(changes, c)
		}
	}
	if !known {
		return nil, 0, s.UnknownMachine(name)
	}
	return changes, since, nil
}
