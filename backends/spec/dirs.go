package spec

import (
	"strconv"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
)

// Dir is a directory of a service, of its own or shared.
type Dir struct {
	Kind   string `json:"kind"`             // state, cache, logs or runtime
	Name   string `json:"name,omitempty"`   // as its owner declares it; empty for a literal path
	Path   string `json:"path"`             // as the program sees it
	Home   string `json:"home,omitempty"`   // identity under which a backend that has volumes keeps it; empty for a literal path
	Shared bool   `json:"shared,omitempty"` // it belongs to another service
}

// Variable returns the environment variable with the path of a kind of directory.
func (d Dir) Variable() string {
	return map[string]string{"state": "STATE_DIRECTORY", "cache": "CACHE_DIRECTORY", "logs": "LOGS_DIRECTORY", "runtime": "RUNTIME_DIRECTORY"}[d.Kind]
}

// At returns the path of its field in the spec.
func (d Dir) At() []string { return At("dirs", d.Kind) }

// Identity returns the name under which the user and the volumes of a service are made: its own name
// on the machine, or the one that it had before it was renamed.
func (r *Reader) Identity(s *graph.Service) string {
	if s.Identity != "" {
		return s.Identity
	}
	return BaseName(NamePrefix(r.In.Environment, r.In.Deployment), s.Address)
}

// Dirs reads the directories of a service. It also returns the identity of its dynamic user: that of
// the service whose directories it shares, or its own, for which it returns "" if that is its name.
func (r *Reader) Dirs() (dirs []Dir, identity string) {
	s := r.In.Service
	sharesWith := ""
	for _, kind := range graph.DirKinds {
		d, owner := *s.Spec.Dirs.Kind(kind), s
		if d == (graph.Dir{}) {
			continue
		}
		if d.Of != "" {
			if owner = r.In.Owners[kind]; owner == nil {
				r.Fail(At("dirs", kind, "of"), "%s has no such directory on this machine", d.Of)
				continue
			}
			d = *owner.Spec.Dirs.Kind(kind)
			if owner.Backend != s.Backend && d.Path == "" {
				r.Fail(At("dirs", kind, "of"), "%s runs with backend %s, which keeps its directories elsewhere", owner, owner.Backend).
					WithHint("use the same backend, or a literal path: { path: '/srv/data' }")
			}
			switch id := r.Identity(owner); {
			case s.Spec.User != "":
			case sharesWith != "" && sharesWith != id:
				r.Fail(At("dirs", kind, "of"), "the directories that it shares belong to different users").WithHint("give both owners the same user")
			default:
				sharesWith = id
			}
		}
		out := Dir{Kind: kind, Name: d.Name, Path: graph.DirPath(r.In.Environment, r.In.Deployment, owner.Address, kind, d), Shared: owner != s}
		if d.Path == "" {
			out.Home = r.Identity(owner)
		}
		dirs = append(dirs, out)
	}
	if sharesWith != "" {
		return dirs, sharesWith
	}
	return dirs, s.Identity
}

// Moves returns the directories that follow a service when it is renamed.
func Moves(dirs []Dir) []backends.Dir {
	var out []backends.Dir
	for _, d := range dirs {
		if d.Name != "" && !d.Shared && d.Kind != "runtime" {
			out = append(out, backends.Dir{Kind: d.Kind, Name: d.Name, Path: d.Path})
		}
	}
	return out
}

// DataPaths returns the directories that hold the data of a service.
func DataPaths(dirs []Dir) []string {
	for _, d := range dirs {
		if d.Kind == "state" && !d.Shared {
			return []string{d.Path}
		}
	}
	return nil
}

// PortText returns a port as plans show it: tcp/8080, or tcp/127.0.0.1:8080.
func PortText(protocol, address string, port int) string {
	c := PortClaim(protocol, address, port, nil)
	_, text, _ := strings.Cut(c.String(), " ")
	return text
}

// PortClaim returns the claim of a port. An empty address means all.
func PortClaim(protocol, address string, port int, field []string) plan.Claim {
	if protocol == "" {
		protocol = "tcp"
	}
	if address == "" {
		address = "0.0.0.0"
	}
	return plan.Claim{Kind: plan.ClaimPort, Key: protocol + "/" + address + ":" + strconv.Itoa(port), Field: field}
}
