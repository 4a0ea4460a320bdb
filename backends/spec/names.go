package spec

import (
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/digest"
)

// maxBase leaves room for ":migrate-VERSION.service" in the 255 bytes of a unit's name.
const maxBase = 200

// NamePart writes one name so that "-" is free to separate parts: names are made
// of a-z, 0-9 and "-" only, so two names never become one. It also keeps the
// hierarchy of slices, which systemd reads from dashes, to whole parts.
func NamePart(name string) string { return strings.ReplaceAll(name, "-", "_") }

// NamePrefix is the beginning of all names of a deployment on a machine.
func NamePrefix(environment, deployment string) string {
	return "defx-" + NamePart(environment) + "-" + NamePart(deployment)
}

// TargetUnit is the unit that starts and stops all that systemd runs of a deployment.
// Whatever has a unit of it writes the same bytes.
func TargetUnit(environment, deployment string) string {
	return "[Unit]\nDescription=defx " + environment + "/" + deployment + "\n"
}

// BaseName is the name of a service on a machine, without a suffix:
// defx-ENV-DEPLOYMENT-LIB-NAME[-MEMBER][.REPLICA]. Without a library there is
// "_" in its place, which no name can become.
func BaseName(home string, a graph.Address) string {
	lib := "_"
	if a.Lib != "" {
		lib = NamePart(a.Lib)
	}
	whole := home + "-" + lib + "-" + NamePart(a.Name)
	if a.Member != "" {
		whole += "-" + NamePart(a.Member)
	}
	if a.Replica != "" {
		whole += "." + NamePart(a.Replica)
	}
	return Shorten(whole)
}

// Shorten cuts a name that is too long for a file and lets a digest tell it
// from others with the same beginning.
func Shorten(s string) string {
	if len(s) <= maxBase {
		return s
	}
	return strings.TrimRight(s[:maxBase-13], "-_.") + "_" + digest.Bytes([]byte(s)).Short()
}
