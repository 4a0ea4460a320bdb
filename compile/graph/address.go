package graph

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Address names a unit: [lib/]name[/member]#replica. The machine is not part of it, so
// history, placement and protection survive a move. Every service has a replica, which is
// FirstReplica unless its functionality declares others, so that adding replicas renames
// nothing; an address without one names a set. A host fact has its own form,
// host/kind/key@machine: Lib is HostLib, Name the kind, Member the key.
type Address struct {
	Lib     string // empty for what the entry file defines
	Name    string
	Member  string // of a group; empty otherwise
	Replica string // "0", "1", …, a name, or with place.every that of the machine; empty for a set and for what has no replicas
	Machine string // set for host facts only
}

// FirstReplica is the replica of a service that declares none, and the first of a number.
const FirstReplica = "0"

// HostLib is the library part of the addresses of host facts. No library can have this name.
const HostLib = "host"

// ModuleLib is the library part of the addresses of resource modules: module/network. No
// library can have this name.
const ModuleLib = "module"

// String returns the textual form.
func (a Address) String() string {
	s := a.Set()
	if a.Replica != "" {
		s += "#" + a.Replica
	}
	if a.Machine != "" {
		s += "@" + a.Machine
	}
	return s
}

// Set returns the address without the replica, which names the set of all replicas.
func (a Address) Set() string {
	s := a.Name
	if a.Lib != "" {
		s = a.Lib + "/" + s
	}
	if a.Member != "" {
		s += "/" + a.Member
	}
	return s
}

// FileName returns the address as one readable part of a path, LIB-NAME[-MEMBER].REPLICA. LIB is
// "_" without a library; no library has that name. Names have "_" for "-", so that different
// addresses have different names, and no dot other than the one before REPLICA.
func (a Address) FileName() string {
	out := "_"
	if a.Lib != "" {
		out = NamePart(a.Lib)
	}
	out += "-" + NamePart(a.Name)
	if a.Member != "" {
		out += "-" + NamePart(a.Member)
	}
	if a.Replica != "" {
		out += "." + NamePart(a.Replica)
	}
	return out
}

// NamePart returns a name with "_" for "-", so that "-" can separate the parts of a longer name.
// Names consist of a-z, 0-9 and "-" only, so different names stay different.
func NamePart(name string) string { return strings.ReplaceAll(name, "-", "_") }

// WithReplica returns the current form of an address that a version of defx recorded in which a
// service had a replica only if several were declared.
func WithReplica(address string) string {
	a, err := ParseAddress(address)
	if err != nil || a.Lib == HostLib || a.Lib == ModuleLib || a.Replica != "" {
		return address
	}
	a.Replica = FirstReplica
	return a.String()
}

// Functionality returns lib/name, the name that libraries define and overrides use.
func (a Address) Functionality() string { return Address{Lib: a.Lib, Name: a.Name}.Set() }

// MarshalText returns the form of String.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText parses the form of String.
func (a *Address) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAddress(string(b))
	return err
}

// Compare orders addresses by library, name, member, then replica (numbers numerically).
func (a Address) Compare(b Address) int {
	return cmp.Or(strings.Compare(a.Lib, b.Lib), strings.Compare(a.Name, b.Name), strings.Compare(a.Member, b.Member),
		cmp.Compare(numberLen(a.Replica), numberLen(b.Replica)), strings.Compare(a.Replica, b.Replica), strings.Compare(a.Machine, b.Machine))
}

// numberLen returns the number of digits of a numeric replica, so that 9 sorts before 10. It
// returns 0 for a name: alpha sorts before beta, whatever their lengths.
func numberLen(replica string) int {
	if strings.Trim(replica, "0123456789") != "" {
		return 0
	}
	return len(replica)
}

// keyRE matches valid names of packages, kernel settings, modules and users.
var keyRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+:~*/-]{0,127}$`)

// ValidKey reports whether s can name a host fact.
func ValidKey(s string) bool {
	return keyRE.MatchString(s) && !strings.Contains(s, "//") && !strings.Contains(s, "..")
}

// ValidName reports whether s can name a library, functionality, member, replica, machine or
// environment: [a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?
func ValidName(s string) bool {
	if s == "" || len(s) > 42 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// ParseAddress parses the form of String. Before #, one part is name, two are lib/name and
// three are lib/name/member.
func ParseAddress(s string) (Address, error) {
	if rest, ok := strings.CutPrefix(s, HostLib+"/"); ok {
		kind, rest, _ := strings.Cut(rest, "/")
		key, machine, placed := rest, "", false
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			key, machine, placed = rest[:at], rest[at+1:], true
		}
		if !ValidName(kind) || !ValidKey(key) || placed && !ValidName(machine) {
			return Address{}, fmt.Errorf("%q is not an address (host/kind/key@machine)", s)
		}
		return Address{Lib: HostLib, Name: kind, Member: key, Machine: machine}, nil
	}
	rest, replica, has := strings.Cut(s, "#")
	parts := strings.Split(rest, "/")
	bad := len(parts) > 3 || has && !ValidName(replica)
	for _, p := range parts {
		bad = bad || !ValidName(p)
	}
	if bad {
		return Address{}, fmt.Errorf("%q is not an address ([lib/]name[/member][#replica])", s)
	}
	a := Address{Replica: replica}
	switch len(parts) {
	case 1:
		a.Name = parts[0]
	case 2:
		a.Lib, a.Name = parts[0], parts[1]
	case 3:
		a.Lib, a.Name, a.Member = parts[0], parts[1], parts[2]
	}
	return a, nil
}

// Names writes the addresses of a deployment for people, and reads what people type.
type Names struct {
	all  map[string]bool
	sets map[string][]string // set → its addresses
}

// NamesOf returns the names of the units at some addresses.
func NamesOf(addresses ...string) *Names {
	n := &Names{all: map[string]bool{}, sets: map[string][]string{}}
	for _, a := range addresses {
		n.Add(a)
	}
	return n
}

// Add adds the address of a unit.
func (n *Names) Add(address string) {
	if !n.all[address] {
		n.all[address] = true
		set, _, _ := strings.Cut(address, "#")
		n.sets[set] = append(n.sets[set], address)
	}
}

// Text returns an address as people read it: without #0 if its set has no other member. A nil
// *Names knows no sets and returns the address.
func (n *Names) Text(address string) string {
	set, ok := strings.CutSuffix(address, "#"+FirstReplica)
	if !ok || n == nil || len(n.sets[set]) != 1 || n.sets[set][0] != address {
		return address
	}
	return set
}

// FindAll returns the addresses that a person means: an address, all replicas of the name of a
// set, all members of the name of a group, or the same for a name that is the end of only one of
// those. It returns no address and the candidates if it is the end of several, sorted.
func (n *Names) FindAll(typed string) (addresses, candidates []string) {
	if n.all[typed] {
		return []string{typed}, nil
	}
	meant := map[string][]string{} // full name → its addresses
	for address := range n.all {
		forms := []string{address}
		if set, _, has := strings.Cut(address, "#"); has {
			forms = append(forms, set)
		}
		if a, err := ParseAddress(address); err == nil && a.Member != "" && a.Lib != HostLib {
			forms = append(forms, a.Functionality())
		}
		for _, form := range forms {
			if form == typed || strings.HasSuffix(form, "/"+typed) {
				meant[form] = append(meant[form], address)
			}
		}
	}
	found := meant[typed]
	if found == nil && len(meant) == 1 {
		for _, all := range meant {
			found = all
		}
	}
	if found == nil {
		return nil, slices.Sorted(maps.Keys(meant))
	}
	slices.SortFunc(found, compareAddresses)
	return found, nil
}

// compareAddresses orders addresses by Address.Compare.
func compareAddresses(a, b string) int {
	x, errX := ParseAddress(a)
	y, errY := ParseAddress(b)
	if errX != nil || errY != nil {
		return strings.Compare(a, b)
	}
	return x.Compare(y)
}

// Sets returns the names that stand for several units: of sets with several replicas, sorted.
func (n *Names) Sets() []string {
	var out []string
	for set, members := range n.sets {
		if len(members) > 1 {
			out = append(out, set)
		}
	}
	slices.Sort(out)
	return out
}

// Full returns the address that a person typed, which is an address or the name of a set with
// one member, or what was typed if it is neither.
func (n *Names) Full(typed string) string {
	if set := n.sets[typed]; !n.all[typed] && len(set) == 1 {
		return set[0]
	}
	return typed
}
