package graph

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// This file has the grammar of host settings: which names and values the programs that read them
// (apt, systemd-sysusers, systemd-sysctl, modprobe) take for exactly one thing. Everything else is
// refused, because it would mean something else to them than what the plan shows. Each function
// returns what is wrong and what to write instead, or two empty strings.

var (
	// Debian Policy, 5.6.7 and 5.6.12, with an architecture as dpkg accepts it.
	packageRE = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*[a-z0-9+.](:[a-z0-9]+(-[a-z0-9]+)*)?$`)
	versionRE = regexp.MustCompile(`^([0-9]+:)?[0-9]([A-Za-z0-9.+~:-]*[A-Za-z0-9.~])?$`)
	// The strict mode of systemd, which is also what useradd accepts.
	userRE    = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`)
	moduleRE  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,54}$`) // MODULE_NAME_LEN of the kernel
	settingRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_:+-]*([./][A-Za-z0-9_:+-]+)+$`)
	homeRE    = regexp.MustCompile(`^(/|(/[A-Za-z0-9_.+@-]+)+)$`)
)

// UserHint describes valid names of users and groups.
const UserHint = "a-z, 0-9, _ and -, at most 31 characters; the first is a letter or _"

// ValidUser reports whether s can be the name of a user or a group.
func ValidUser(s string) bool { return userRE.MatchString(s) }

// CheckPackage checks a package: NAME or NAME=VERSION.
func CheckPackage(s string) (problem, hint string) {
	name, version, pinned := strings.Cut(s, "=")
	switch last := strings.TrimSuffix(name, "++"); {
	case strings.HasSuffix(name, "-"):
		return strconv.Quote(s) + " is not a package: apt reads a - at the end as remove", "a name, or a name and a version: nginx=1.22.1-9"
	case strings.HasSuffix(name, "+") && (last == name || strings.HasSuffix(last, "+")):
		return strconv.Quote(s) + " is not a package: apt reads a + at the end as install", "name its architecture: " + name + ":amd64"
	case !packageRE.MatchString(name):
		return strconv.Quote(name) + " is not the name of a Debian package", "lower-case letters, digits and + - . only, at least two characters"
	case pinned && !versionRE.MatchString(version):
		return strconv.Quote(version) + " is not a version of a Debian package", "as apt-cache policy prints it: nginx=1.22.1-9"
	}
	return "", ""
}

// CheckModule checks the name of a kernel module.
func CheckModule(s string) (problem, hint string) {
	if !moduleRE.MatchString(s) {
		return strconv.Quote(s) + " is not the name of a kernel module", "letters, digits, _ and -, at most 55 characters, without options"
	}
	return "", ""
}

// CheckSetting checks the name of a kernel setting.
func CheckSetting(s string) (problem, hint string) {
	if !settingRE.MatchString(s) || len(s) > 128 {
		return strconv.Quote(s) + " is not the name of a kernel setting", "as sysctl prints it: net.ipv4.ip_forward"
	}
	return "", ""
}

// CheckSettingValue checks the value of a kernel setting, which is the rest of a line.
func CheckSettingValue(s string) (problem, hint string) {
	switch {
	case s == "":
		return "the value is empty", "a number or a text"
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }):
		return strconv.Quote(s) + " contains a character that is not possible in a kernel setting", "one line of text"
	case strings.TrimSpace(s) != s:
		return strconv.Quote(s) + " begins or ends with a space, which systemd-sysctl would drop", "remove it"
	case len(s) > 4000:
		return "the value is longer than 4000 bytes", "the kernel reads at most one page"
	}
	return "", ""
}

// CheckGroup checks the name of a group of a user.
func CheckGroup(s string) (problem, hint string) {
	if !ValidUser(s) {
		return strconv.Quote(s) + " is not a valid group name", UserHint
	}
	return "", ""
}

// CheckHome checks the home directory or the shell of a user.
func CheckHome(s string) (problem, hint string) {
	if s != "" && (!homeRE.MatchString(s) || path.Clean(s) != s || len(s) > 255) {
		return strconv.Quote(s) + " is not a clean absolute path", "it must begin with / and contain no //, . or .., and only letters, digits and _ . + @ -"
	}
	return "", ""
}

// systemUsers are the users of Debian's base-passwd and of its usual daemons, other than root.
// www-data is not among them: it is there for services.
var systemUsers = []string{"_apt", "_chrony", "_rpc", "avahi", "backup", "bin", "colord", "daemon", "dnsmasq", "games", "geoclue", "gnats", "irc", "list", "lp", "mail",
	"man", "messagebus", "news", "nobody", "nogroup", "ntp", "ntpsec", "polkitd", "proxy", "rtkit", "sshd", "statd", "sync", "sys", "syslog", "tcpdump", "tss", "usbmux", "uucp", "uuidd"}

// SystemUser reports whether a user belongs to the operating system, so that it can neither be
// declared nor be the user of a service.
func SystemUser(name string) bool {
	return slices.Contains(systemUsers, name) || strings.HasPrefix(name, "systemd-")
}

// CheckUser checks the name of a user that a machine must have.
func CheckUser(s string) (problem, hint string) {
	switch {
	case !ValidUser(s):
		return strconv.Quote(s) + " is not a valid user name", UserHint
	case s == "root" || s == "www-data" || SystemUser(s):
		return strconv.Quote(s) + " is a user of the operating system", "choose another name"
	}
	return "", ""
}
