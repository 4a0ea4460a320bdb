package systemd

import (
	"strings"

	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/digest"
)

// names holds all names of one unit on a machine.
type names struct {
	target  string // of the deployment
	slice   string // of the deployment, or of the replica of a group
	base    string // of the service, without a suffix
	version string
}

// A name has no colon, because systemd-analyze verify reads FILE:ALIAS. In
// BASE.REPLICA.INSTANCE.service no part has a dot, so that different units have different names.

// namesOf returns the names of a service (see spec.BaseName) or of a fact:
// defx-ENV-DEPLOYMENT-host-KIND-KEY.
func namesOf(environment, deployment string, a graph.Address, version string) names {
	prefix := spec.NamePrefix(environment, deployment)
	n := names{target: prefix + ".target", slice: prefix + ".slice", version: version}
	if a.Lib == graph.HostLib {
		n.base = spec.Shorten(prefix + "-host-" + a.Name + "-" + keyFileName(a.Member))
		return n
	}
	if a.Member != "" {
		group := a
		group.Member = ""
		n.slice = spec.BaseName(prefix, group) + ".slice"
	}
	n.base = spec.BaseName(prefix, a)
	return n
}

func (n names) alias() string   { return n.base + ".service" }
func (n names) unit() string    { return n.base + "." + n.version + ".service" }
func (n names) init() string    { return n.base + ".init.service" }
func (n names) migrate() string { return n.base + ".migrate-" + n.version + ".service" }
func (n names) timer() string   { return n.base + ".timer" }
func (n names) socket() string  { return n.base + ".socket" }

func (n names) initDone() string    { return doneDir + "/" + n.base + ".init" }
func (n names) migrateDone() string { return doneDir + "/" + n.base + ".migrate-" + n.version }

// dynamicUser returns the user that a service and its scripts share: at most 31 characters, a
// readable beginning and a digest.
func dynamicUser(identity string) string {
	short, _, _ := strings.Cut(identity, ".")
	short = strings.ReplaceAll(short[strings.LastIndexByte(short, '-')+1:], "_", "-")
	short = strings.Trim(short[:min(len(short), 18)], "-")
	return "dx-" + short + "-" + digest.Bytes([]byte(identity)).Brief()
}

// userUnit returns the unit that creates a named user, shared by all services that run as it.
func userUnit(user string) string { return "defx-user." + user + ".service" }
