package graph

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
)

// Address names a unit: [lib/]name[/member][#replica]. The machine is not part
// of it, so that history, stickiness and protection survive a move. A fact of a
// machine has an address of its own form, host/kind/key@machine: Lib is
// HostLib, Name its kind, Member its key.
type Address struct {
	Lib     string // empty for what the central file itself defines
	Name    string
	Member  string // of a group; else empty
	Replica string // "0", "1", … or a name; empty if the functionality does not declare replicas
	Machine string // of a fact alone
}

// HostLib stands in the place of a library in addresses of facts. No library has this name.
const HostLib = "host"

// ModuleLib stands in the place of a library in addresses of modules of resources: module/network.
const ModuleLib = "module"

// String gives the written form.
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

// Set is the address without the replica: the name of the set of all replicas.
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

// Functionality is lib/name: what libraries define and overrides name.
func (a Address) Functionality() string { return Address{Lib: a.Lib, Name: a.Name}.Set() }

// MarshalText writes the form of String.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads the form of String.
func (a *Address) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAddress(string(b))
	return err
}

// Compare orders by library, name, member, then replica (numbers by size).
func (a Address) Compare(b Address) int {
	return cmp.Or(strings.Compare(a.Lib, b.Lib), strings.Compare(a.Name, b.Name), strings.Compare(a.Member, b.Member),
		cmp.Compare(digits(a.Replica), digits(b.Replica)), strings.Compare(a.Replica, b.Replica), strings.Compare(a.Machine, b.Machine))
}

// digits is how long a replica's number is, which puts 9 before 10. A name has
// none: alpha comes before beta, however long.
func digits(replica string) int {
	if strings.Trim(replica, "0123456789") != "" {
		return 0
	}
	return len(replica)
}

// keyRE is what packages, settings, modules and users may be called.
var keyRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+:~*/-]{0,127}$`)

// ValidKey tells whether s may name a fact of a machine.
func ValidKey(s string) bool {
	return keyRE.MatchString(s) && !strings.Contains(s, "//") && !strings.Contains(s, "..")
}

// ValidName tells whether s may name a library, functionality, member, replica,
// machine or environment: [a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?
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

// ParseAddress reads the form of String. One or two parts before # are name and
// lib/name; three are lib/name/member.
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
