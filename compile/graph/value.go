package graph

import (
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// Value returns the value of a resolved ref as reader sees it: on the same machine the loopback
// address, otherwise the other machine's address.
func (g *Graph) Value(reader *Service, t token.Token) (string, *diag.Error) {
	target := reader
	if t.Of != "me" {
		if e := g.Externals[t.Name]; e != nil {
			return e.value(t)
		}
		a, err := ParseAddress(t.Name)
		if err != nil {
			return "", diag.Errorf(reader.String(), "%v", err)
		}
		if target = g.single(a); target == nil {
			return "", diag.Errorf(reader.String(), "reads %s, which does not exist", t.Name).At(reader.SpecPath...)
		}
	}
	switch t.Field {
	case "host", "address":
		// A service reaches another one on its own machine over loopback. Expressions over a
		// set, and references to itself, must be the same for all readers: they use the
		// machine's address, if it has one.
		shared := t.Field == "address" || t.Of == "me"
		m := g.Machine(target.Machine)
		if target.Machine == reader.Machine && (!shared || m == nil || m.Address == "") {
			return "127.0.0.1", nil
		}
		if i := slices.IndexFunc(g.PreviousMachines, func(f *Machine) bool { return f.Name == target.Machine }); m == nil && i >= 0 {
			m = g.PreviousMachines[i]
		}
		if m == nil || m.Address == "" {
			return "", diag.Errorf("machine "+target.Machine, "%s on %s reads its address, but it has none",
				reader.Address, reader.Machine).At("machines", target.Machine).WithHint("add address: '…' to the machine")
		}
		return m.Address, nil
	case "port":
		return strconv.Itoa(target.Spec.Ports[t.Arg].Port), nil
	case "machine":
		return target.Machine, nil
	case "name":
		// With its replica even if there is no other, so that its name stays the same when
		// others are added.
		return target.Address.Name + "-" + target.Address.Replica, nil
	case "index":
		return strconv.Itoa(target.Index), nil
	case "label":
		return target.Spec.Labels[t.Arg], nil
	case "dir":
		owner := g.DirOwner(target, t.Arg)
		if owner == nil {
			return "", diag.Errorf(reader.String(), "reads the directory %q of %s, which is not known", t.Arg, target).At(reader.SpecPath...)
		}
		return DirPath(g.Environment, g.Name, owner.Address, t.Arg, *owner.Spec.Dirs.Kind(t.Arg)), nil
	}
	return "", diag.Errorf(reader.String(), "there is no field .%s to read", t.Field).At(reader.SpecPath...)
}

// Target returns the service that a resolved ref reads; nil if it is not a service of this
// graph.
func (g *Graph) Target(reader *Service, t token.Token) *Service {
	if t.Of == "me" {
		return reader
	}
	if g.Externals[t.Name] != nil {
		return nil
	}
	a, err := ParseAddress(t.Name)
	if err != nil {
		return nil
	}
	return g.single(a)
}

// Reads returns the machine whose address a ref reads, as seen by reader; nil if it reads none.
func (g *Graph) Reads(reader *Service, t token.Token) *Machine {
	target := reader
	if t.Of != "me" {
		a, err := ParseAddress(t.Name)
		if err != nil || g.Externals[t.Name] != nil {
			return nil
		}
		if target = g.single(a); target == nil {
			return nil
		}
	}
	shared := t.Field == "address" || t.Of == "me"
	if t.Field != "host" && t.Field != "address" || target.Machine == reader.Machine && !shared {
		return nil
	}
	return g.Machine(target.Machine)
}

// value returns the value of a ref to an external endpoint.
func (e *External) value(t token.Token) (string, *diag.Error) {
	switch t.Field {
	case "host", "address":
		return e.Host, nil
	case "port":
		return strconv.Itoa(e.Ports[t.Arg].Port), nil
	case "label":
		return e.Labels[t.Arg], nil
	case "index":
		return "0", nil
	case "name":
		return t.Name[strings.LastIndexByte(t.Name, '/')+1:], nil
	}
	return "", diag.Errorf(t.Name, "there is no field .%s to read of an external endpoint", t.Field)
}

// single returns the only service of a set. For a group it returns any member, because all
// members of a replica run on the same machine.
func (g *Graph) single(set Address) *Service {
	if set.Replica != "" {
		if s := g.Find(set); s != nil || set.Member != "" {
			return s
		}
		for _, s := range g.Services {
			if s.Address.Functionality() == set.Functionality() && s.Address.Replica == set.Replica {
				return s
			}
		}
		return nil
	}
	a := set
	a.Replica = FirstReplica
	if s := g.Find(a); s != nil {
		return s
	}
	for _, s := range g.Services {
		if s.Address.Lib == set.Lib && s.Address.Name == set.Name && (set.Member == "" || s.Address.Member == set.Member) {
			return s
		}
	}
	return nil
}
