package systemd

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
)

// A named user is created by systemd-sysusers. The file and the unit that applies it are shared by all
// services of all deployments that run as the user, so they must not depend on the service that writes
// them. The unit runs at every boot, because systemd-sysusers.service runs only after an update of
// /usr, which never happens in an image.

func sysusersPath(user string) string { return "/etc/sysusers.d/defx-" + user + ".conf" }

func sysusers(user string) backends.File {
	return backends.File{Path: sysusersPath(user), Content: []byte("u " + user + " - \"defx service user\"\n"),
		Mode: 0o644, Shared: true}
}

// sysusersField encodes a field of a line of sysusers.d. There are no escapes that work in all
// versions, so what would need one is refused.
func sysusersField(s string) (string, error) {
	switch {
	case sysusersRE.MatchString(s):
		return s, nil
	case strings.TrimFunc(s, func(r rune) bool { return r == ' ' || sysusersRE.MatchString(string(r)) }) == "" && s != "":
		return `"` + s + `"`, nil
	}
	return "", fmt.Errorf("%q contains a character that is not possible in sysusers.d", s)
}

// sysusersRE matches fields that need no quotes: no specifiers (%), escapes, quotes, or separators of
// /etc/passwd (:).
var sysusersRE = regexp.MustCompile(`^[A-Za-z0-9_./=@,+~-]+$`)

// declareUser returns the lines of sysusers.d of a user that a machine must have.
func declareUser(name string, u graph.User) (string, error) {
	id := "-"
	if u.UID != 0 {
		id = strconv.Itoa(u.UID)
	}
	var out strings.Builder
	var bad error
	line := func(fields ...string) {
		for i, s := range fields {
			field, err := sysusersField(s)
			if bad == nil {
				bad = err
			}
			if i > 0 {
				out.WriteByte(' ')
			}
			out.WriteString(field)
		}
		out.WriteByte('\n')
	}
	for _, p := range []string{u.Home, u.Shell} {
		if problem, _ := graph.CheckHome(p); problem != "" {
			return "", errors.New(problem)
		}
	}
	line("u", name, id, "defx user", cmp.Or(u.Home, "-"), cmp.Or(u.Shell, "-"))
	for _, g := range u.Groups {
		if problem, _ := graph.CheckGroup(g); problem != "" {
			return "", errors.New(problem)
		}
		line("m", name, g)
	}
	return out.String(), bad
}

func userService(user string) []byte {
	var u unitText
	u.section("Unit")
	u.set("Description", "defx user "+user)
	u.set("DefaultDependencies", "no")
	u.set("After", "systemd-remount-fs.service systemd-sysusers.service")
	u.set("Before", "shutdown.target")
	u.set("Conflicts", "shutdown.target")
	u.section("Service")
	u.set("Type", "oneshot")
	u.set("RemainAfterExit", "yes")
	u.set("ExecStart", "systemd-sysusers "+sysusersPath(user))
	return u.bytes()
}
