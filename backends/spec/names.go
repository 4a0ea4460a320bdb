package spec

import (
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/digest"
)

// maxBase leaves room for ":migrate-VERSION.service" in the 255 bytes of a file name.
const maxBase = 200

// NamePart returns a name with "_" for "-", so that "-" can separate the parts of a longer name.
// Names consist of a-z, 0-9 and "-" only, so different names stay different. It also matters for
// slices: systemd derives their hierarchy from dashes.
func NamePart(name string) string { return strings.ReplaceAll(name, "-", "_") }

// NamePrefix returns the prefix of all names of a deployment on a machine.
func NamePrefix(environment, deployment string) string {
	return "defx-" + NamePart(environment) + "-" + NamePart(deployment)
}

// TargetUnit returns the content of the systemd target that starts and stops all units of a
// deployment. It is a shared file: every backend that owns it writes the same bytes.
func TargetUnit(environment, deployment string) string {
	return "[Unit]\nDescription=defx " + environment + "/" + deployment + "\n"
}

// BaseName returns the name of a service on a machine, without suffix:
// defx-ENV-DEPLOYMENT-LIB-NAME[-MEMBER][.REPLICA]. LIB is "_" for a service outside a library; no
// library has that name.
func BaseName(prefix string, a graph.Address) string {
	lib := "_"
	if a.Lib != "" {
		lib = NamePart(a.Lib)
	}
	name := prefix + "-" + lib + "-" + NamePart(a.Name)
	if a.Member != "" {
		name += "-" + NamePart(a.Member)
	}
	if a.Replica != "" {
		name += "." + NamePart(a.Replica)
	}
	return Shorten(name)
}

// Shorten truncates a name that is too long for a file name and appends a digest, so that different
// names stay different.
func Shorten(s string) string {
	if len(s) <= maxBase {
		return s
	}
	return strings.TrimRight(s[:maxBase-13], "-_.") + "_" + digest.Bytes([]byte(s)).Short()
}
