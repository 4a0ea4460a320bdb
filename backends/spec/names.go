package spec

import (
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/digest"
)

// maxBase leaves room for ".REPLICA.migrate-VERSION.service" in the 255 bytes of a file name.
const maxBase = 160

// NamePrefix returns the prefix of all names of a deployment on a machine. systemd derives the
// hierarchy of slices from its dashes.
func NamePrefix(environment, deployment string) string {
	return "defx-" + graph.NamePart(environment) + "-" + graph.NamePart(deployment)
}

// TargetUnit returns the content of the systemd target that starts and stops all units of a
// deployment. It is a shared file: every backend that owns it writes the same bytes.
func TargetUnit(environment, deployment string) string {
	return "[Unit]\nDescription=defx " + environment + "/" + deployment + "\n"
}

// BaseName returns the name of a service on a machine, without suffix:
// defx-ENV-DEPLOYMENT-LIB-NAME[-MEMBER].REPLICA (see graph.Address.FileName).
func BaseName(prefix string, a graph.Address) string {
	replica := a.Replica
	a.Replica = ""
	name := Shorten(prefix + "-" + a.FileName())
	if replica != "" {
		name += "." + graph.NamePart(replica)
	}
	return name
}

// Shorten truncates a name that is too long for a file name and appends a digest, so that different
// names stay different.
func Shorten(s string) string {
	if len(s) <= maxBase {
		return s
	}
	return strings.TrimRight(s[:maxBase-13], "-_.") + "_" + digest.Bytes([]byte(s)).Short()
}
