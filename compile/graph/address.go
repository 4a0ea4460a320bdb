package graph

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
)

// Address names a unit: [lib/]name[/member][#replica]. The machine is not part of it, so
// history, placement and protection survive a move. A host fact has its own form,
// host/kind/key@machine: Lib is HostLib, Name the kind, Member the key.
type Address struct {
	Lib     string // empty for what the entry file defines
	Name    string
	Member  string // of a group; empty otherwise
	Replica string // "0", "1", … or a name; empty if the functionality declares no replicas
	Machine string // set for host facts only
}

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
