package plan

import (
	"net/netip"
	"slices"
	"strings"
)

// Claim is something that a unit takes on its machine and that another unit could want. A backend
// computes the claims of a unit when it renders it; they are in no digest.
type Claim struct {
	Kind   string   `json:"kind"`
	Key    string   `json:"key"`              // such as tcp/0.0.0.0:5432 or /srv/data
	Shared bool     `json:"shared,omitempty"` // it may be claimed by others too
	Value  string   `json:"value,omitempty"`  // of a setting: equal settings do not conflict
	Field  []string `json:"-"`                // path of the field in the entry's value that claims it
}

// Kinds of claims.
const (
	ClaimUnit      = "unit"      // name of a systemd unit, without its extension
	ClaimContainer = "container" // name of a container, without its version
	ClaimNetwork   = "network"   // name of a docker network
	ClaimVolume    = "volume"    // name of a docker volume
	ClaimPort      = "port"      // PROTOCOL/ADDRESS:PORT
	ClaimPath      = "path"      // file, or directory with all that is below it
	ClaimSocket    = "socket"    // path of a unix socket
	ClaimUser      = "user"      // name of a user
	ClaimSetting   = "sysctl"    // name of a kernel setting
	ClaimModule    = "module"    // name of a kernel module
	ClaimPackage   = "package"   // name of a package
)

// String returns a claim as people read it: port tcp/5432, directory /srv/data.
func (c Claim) String() string {
	if c.Kind == ClaimPort {
		protocol, address, port := c.port()
		if wildcard(address) {
			return "port " + protocol + "/" + port
		}
		return "port " + protocol + "/" + address + ":" + port
	}
	if c.Kind == ClaimSetting {
		return "kernel setting " + c.Key
	}
	return c.Kind + " " + c.Key
}

// port splits the key of a port.
func (c Claim) port() (protocol, address, port string) {
	protocol, rest, _ := strings.Cut(c.Key, "/")
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return protocol, "", rest
	}
	return protocol, strings.Trim(rest[:i], "[]"), rest[i+1:]
}

// wildcard reports whether a listener on an address gets the connections to all addresses.
func wildcard(address string) bool {
	a, err := netip.ParseAddr(address)
	return err != nil || a.IsUnspecified()
}

// isPath reports whether a claim is a path, with what is below it.
func (c Claim) isPath() bool { return c.Kind == ClaimPath || c.Kind == ClaimSocket }

// Conflicts reports whether two units on a machine cannot both have their claim. It is symmetric.
func (c Claim) Conflicts(o Claim) bool {
	switch {
	case c.Shared || o.Shared:
		return false
	case c.isPath() && o.isPath():
		return c.Key == o.Key || strings.HasPrefix(c.Key, o.Key+"/") || strings.HasPrefix(o.Key, c.Key+"/")
	case c.Kind != o.Kind:
		return false
	case c.Kind == ClaimPort:
		protocol, address, port := c.port()
		otherProtocol, otherAddress, otherPort := o.port()
		return protocol == otherProtocol && port == otherPort && (wildcard(address) || wildcard(otherAddress) || sameAddress(address, otherAddress))
	}
	return c.Key == o.Key && (c.Value == "" || c.Value != o.Value)
}

func sameAddress(a, b string) bool {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return errX == nil && errY == nil && x.Unmap() == y.Unmap()
}

// Owner is a unit with its claims on a machine.
type Owner struct {
	Address string
	Machine string
	Claims  []Claim
}

// Conflict is two claims of different units that cannot both hold. The units are in the order in
// which they were given.
type Conflict struct {
	Machine           string
	First, Second     string // addresses
	OfFirst, OfSecond Claim
}

// Conflicts returns the conflicts among the claims of units, for each pair of units the first one.
func Conflicts(owners []Owner) []Conflict {
	type entry struct{ owner, claim int }
	index := map[string][]entry{}
	var out []Conflict
	seen := map[[2]int]bool{}
	compare := func(i, j int, others []entry) {
		for _, o := range others {
			pair := [2]int{o.owner, i}
			a, b := owners[o.owner].Claims[o.claim], owners[i].Claims[j]
			if o.owner == i || seen[pair] || !a.Conflicts(b) {
				continue
			}
			seen[pair] = true
			out = append(out, Conflict{Machine: owners[i].Machine, First: owners[o.owner].Address, Second: owners[i].Address, OfFirst: a, OfSecond: b})
		}
	}
	for i, o := range owners {
		for j, c := range o.Claims {
			if c.Shared {
				continue
			}
			key := o.Machine + "\x00" + c.Kind + "\x00" + c.Key
			switch {
			case c.isPath():
				// What is above it and what is below it: each path is also listed at the
				// directories above it.
				at := o.Machine + "\x00at\x00"
				compare(i, j, index[o.Machine+"\x00below\x00"+c.Key])
				for p := c.Key; p != ""; p = p[:max(0, strings.LastIndexByte(p, '/'))] {
					compare(i, j, index[at+p])
				}
				for p := c.Key; p != ""; {
					if p = p[:max(0, strings.LastIndexByte(p, '/'))]; p != "" {
						below := o.Machine + "\x00below\x00" + p
						index[below] = append(index[below], entry{i, j})
					}
				}
				key = at + c.Key
			case c.Kind == ClaimPort:
				protocol, _, port := c.port()
				key = o.Machine + "\x00port\x00" + protocol + port
				compare(i, j, index[key])
			default:
				compare(i, j, index[key])
			}
			index[key] = append(index[key], entry{i, j})
		}
	}
	slices.SortStableFunc(out, func(a, b Conflict) int {
		return strings.Compare(a.First+"\x00"+a.Second, b.First+"\x00"+b.Second)
	})
	return out
}
