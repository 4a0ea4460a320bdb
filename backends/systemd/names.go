package systemd

import (
	"regexp"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/lang/digest"
)

var (
	versionRE = regexp.MustCompile(`^[0-9a-f]{12}$`)
	userRE    = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`)
	envRE     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// maxBase leaves room for ":migrate-VERSION.service" in the 255 bytes of a unit's name.
const maxBase = 200

// part writes one name so that "-" is free to separate parts: names are made
// of a-z, 0-9 and "-" only, so two names never become one. It also keeps the
// hierarchy of slices, which systemd reads from dashes, to whole parts.
func part(name string) string { return strings.ReplaceAll(name, "-", "_") }

// names are all the names of one unit on a machine.
type names struct {
	target  string // of the deployment
	slice   string // of the deployment, or of the replica of a group
	base    string // of the service, without a suffix
	version string
}

// namesOf derives the names: defx-ENV-DEPLOYMENT-LIB-NAME[-MEMBER][.REPLICA],
// and of a fact defx-ENV-DEPLOYMENT-host-KIND-KEY.
// A service without a library has "_" in its place, which no name can become.
func namesOf(environment, deployment string, a graph.Address, version string) names {
	home := "defx-" + part(environment) + "-" + part(deployment)
	lib := "_"
	if a.Lib != "" {
		lib = part(a.Lib)
	}
	replica := ""
	if a.Replica != "" {
		replica = "." + part(a.Replica)
	}
	whole := home + "-" + lib + "-" + part(a.Name)
	if a.Lib == graph.HostLib {
		whole, a.Member = home+"-host-"+a.Name+"-"+fileName(a.Member), ""
	}
	n := names{target: home + ".target", slice: home + ".slice", version: version}
	if a.Member != "" {
		n.slice = shorten(whole+replica) + ".slice"
		whole += "-" + part(a.Member)
	}
	n.base = shorten(whole + replica)
	return n
}

// shorten cuts a name that is too long for a file and lets a digest tell it
// from others with the same beginning.
func shorten(s string) string {
	if len(s) <= maxBase {
		return s
	}
	return strings.TrimRight(s[:maxBase-13], "-_.") + "_" + digest.Bytes([]byte(s)).Short()
}

func (n names) alias() string   { return n.base + ".service" }
func (n names) unit() string    { return n.base + ":" + n.version + ".service" }
func (n names) init() string    { return n.base + ":init.service" }
func (n names) migrate() string { return n.base + ":migrate-" + n.version + ".service" }
func (n names) timer() string   { return n.base + ".timer" }
func (n names) socket() string  { return n.base + ".socket" }

func (n names) initDone() string    { return doneDir + "/" + n.base + ".init" }
func (n names) migrateDone() string { return doneDir + "/" + n.base + ".migrate-" + n.version }

// dynamicUser is the user that the service and its scripts share: at most 31
// characters, the beginning for people, the digest for uniqueness.
func (n names) dynamicUser(a graph.Address) string {
	short := a.Name
	if a.Member != "" {
		short = a.Member
	}
	short = strings.Trim(short[:min(len(short), 18)], "-")
	return "dx-" + short + "-" + digest.Bytes([]byte(n.base)).Brief()
}

// userUnit makes a user that is named, once for all services that run as it.
func userUnit(user string) string { return "defx:user-" + user + ".service" }
