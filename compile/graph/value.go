package graph

import (
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// Value is what a resolved ref stands for as reader must see it: on the same
// machine the loopback address, across machines the other machine's address.
func (g *Graph) Value(reader *Service, t token.Token) (string, *diag.Error) {
	target := reader
	if t.Of != "me" {
		if e := g.Externals[t.Name]; e != nil {
			return e.value(t)
		}
		a, err := ParseAddress(t.Name)
		if err != nil {
			return "", diag.Errorf(reader.Address.String(), "%v", err)
		}
		if target = g.one(a); target == nil {
			return "", diag.Errorf(reader.Address.String(), "reads %s, of which there is none", t.Name).At(reader.SpecPath...)
		}
	}
	switch t.Field {
	case "host", "address":
		// One service reads another on its own machine by the loopback. What is said of a set, or of
		// itself, must be the same for all who read it: there it is the machine's address, if it has one.
		shared := t.Field == "address" || t.Of == "me"
		m := g.Machine(target.Machine)
		if target.Machine == reader.Machine && (!shared || m == nil || m.Address == "") {
			return "127.0.0.1", nil
		}
		if i := slices.IndexFunc(g.PreviousMachines, func(f *Machine) bool { return f.Name == target.Machine }); m == nil && i >= 0 {
			m = g.PreviousMachines[i]
		}
		if m == nil || m.Address == "" {
			return "", diag.Errorf("machine "+target.Machine, "%s on %s reads its address, and it has none",
				reader.Address, reader.Machine).At("machines", target.Machine).WithHint("add address: '…' to the machine")
		}
		return m.Address, nil
	case "port":
		return strconv.Itoa(target.Spec.Ports[t.Arg].Port), nil
	case "machine":
		return target.Machine, nil
	case "name":
		if target.Address.Replica != "" {
			return target.Address.Name + "-" + target.Address.Replica, nil
		}
		return target.Address.Name, nil
	case "index":
		return strconv.Itoa(target.Index), nil
	case "label":
		return target.Spec.Labels[t.Arg], nil
	case "dir":
		d := target.Spec.Dirs
		return map[string]string{"state": "/var/lib/" + d.State, "cache": "/var/cache/" + d.Cache,
			"logs": "/var/log/" + d.Logs, "runtime": "/run/" + d.Runtime}[t.Arg], nil
	}
	return "", diag.Errorf(reader.Address.String(), "nothing to read by .%s", t.Field).At(reader.SpecPath...)
}

// Target is the service that a resolved ref is about; nil if it is about none of this graph.
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
	return g.one(a)
}

// Reads is the machine whose address a ref gives, as reader sees it; nil if it gives none.
func (g *Graph) Reads(reader *Service, t token.Token) *Machine {
	target := reader
	if t.Of != "me" {
		a, err := ParseAddress(t.Name)
		if err != nil || g.Externals[t.Name] != nil {
			return nil
		}
		if target = g.one(a); target == nil {
			return nil
		}
	}
	shared := t.Field == "address" || t.Of == "me"
	if t.Field != "host" && t.Field != "address" || target.Machine == reader.Machine && !shared {
		return nil
	}
	return g.Machine(target.Machine)
}

// value is what a ref to what stands already gives.
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
	return "", diag.Errorf(t.Name, "nothing to read by .%s of what stands without defx", t.Field)
}

// one finds the single service of a set; of a group it gives a member, since
// all members of one replica stand on one machine.
func (g *Graph) one(set Address) *Service {
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
	for _, replica := range []string{"", "0"} {
		a := set
		a.Replica = replica
		if s := g.Find(a); s != nil {
			return s
		}
	}
	if set.Member == "" {
		for _, s := range g.Services {
			if s.Address.Lib == set.Lib && s.Address.Name == set.Name {
				return s
			}
		}
	}
	return nil
}
