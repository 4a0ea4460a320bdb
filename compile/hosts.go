package compile

import (
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// This file checks how machines are reached. A password in an address is refused, and nothing
// that may be one is printed.

var (
	labelRE   = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)
	numericRE = regexp.MustCompile(`^[0-9]+$`)
	sshUserRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
)

const connectHint = "use local, dir:FOLDER or ssh://user@host:port; user and port are optional"

// checkMachine checks the fields of a machine that say how it is reached. p is the machine's path.
func checkMachine(d *decoder, p []string, m Machine) {
	at := func(field string) []string { return append(slices.Clone(p), field) }
	if m.Address != "" {
		checkHost(d, at("address"), m.Address, false)
	}
	switch rest, isSSH := strings.CutPrefix(m.Connect, "ssh://"); {
	case m.Connect == "" || m.Connect == "local" || strings.HasPrefix(m.Connect, "dir:"):
	case isSSH:
		checkHop(d, at("connect"), rest, len(m.Made) > 0 && strings.HasSuffix(rest, "@"), connectHint)
	default:
		failHost(d, at("connect"), m.Connect, "is not a way to connect to a machine", connectHint)
	}
	if m.Via != "" {
		for hop := range strings.SplitSeq(m.Via, ",") {
			checkHop(d, at("via"), strings.TrimPrefix(hop, "ssh://"), false, "use ssh://user@host:port, and commas between several jump hosts; user and port are optional")
		}
	}
	if file, ok := strings.CutPrefix(m.Docker, "unix://"); m.Docker != "" && (!ok || !path.IsAbs(file)) {
		failHost(d, at("docker"), m.Docker, "is not the socket of a docker engine", "unix:///run/docker.sock is the usual one; a machine's engine is reached through its agent")
	}
}

// checkHop checks an address of the form user@host:port, without its scheme. Without a host it is
// valid only if a resource gives the host later.
func checkHop(d *decoder, at []string, s string, made bool, hint string) {
	user, hostPort := "", s
	if i := strings.LastIndex(s, "@"); i >= 0 {
		user, hostPort = s[:i], s[i+1:]
		switch {
		case strings.Contains(user, ":"):
			d.errorf(at, "the address must not have a password").WithHint("use keys: defx connects with OpenSSH's own client, its keys and its agent").Sensitive()
			return
		case !sshUserRE.MatchString(user):
			failHost(d, at, s, "does not begin with the name of a user", hint)
			return
		}
	}
	hostPort = strings.TrimSuffix(hostPort, "/")
	if made && hostPort == "" {
		return
	}
	host, port := hostPort, ""
	if inner, after, ok := strings.Cut(strings.TrimPrefix(hostPort, "["), "]"); ok && strings.HasPrefix(hostPort, "[") {
		host, port = inner, after
		if a, err := netip.ParseAddr(host); err != nil || !a.Is6() || port != "" && port[0] != ':' {
			failHost(d, at, s, "has no valid IPv6 address in brackets", hint)
			return
		}
		port = strings.TrimPrefix(port, ":")
		if after == ":" {
			port = "none"
		}
	} else if a, err := netip.ParseAddr(hostPort); err == nil && a.Is6() {
		failHost(d, at, s, "has an IPv6 address without brackets", "ssh://user@[fd00::11]:22")
		return
	} else if before, after, ok := strings.Cut(hostPort, ":"); ok {
		host, port = before, after
		if port == "" {
			port = "none"
		}
	}
	if n, err := strconv.Atoi(port); port != "" && (err != nil || n < 1 || n > 65535 || !numericRE.MatchString(port)) {
		failHost(d, at, s, "has no valid port", "a port is a number from 1 to 65535")
		return
	}
	if msg, _ := hostProblem(host); msg != "" {
		failHost(d, at, s, msg, hint)
	}
}

// checkHost refuses what is neither a host name nor an address. A host that is only connected to
// may also be the path of a socket.
func checkHost(d *decoder, at []string, host string, orSocket bool) {
	if orSocket && path.IsAbs(host) && !strings.ContainsAny(host, " \t\n\x00") && path.Clean(host) == host {
		return
	}
	if msg, hint := hostProblem(host); msg != "" {
		failHost(d, at, host, msg, hint)
	}
}

// hostProblem returns what is wrong with a host name or address, or "".
func hostProblem(host string) (msg, hint string) {
	hint = "a host name such as db.example.com, or an address such as 10.0.0.1 or fd00::11"
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return "has a zone, which has a meaning on one machine only", "use an address without %: a global or unique local one"
		}
		return "", ""
	}
	switch {
	case host == "":
		return "has no host", hint
	case strings.Contains(host, "://"):
		return "is a URL, but must be a host name or an address", "leave out the scheme; ports are in ports"
	case strings.ContainsAny(host, "[]"):
		return "has brackets, which belong to URLs", "write the address itself, as in fd00::11: defx adds brackets where a port follows"
	case strings.Contains(host, ":") && len(host) > 2:
		if _, port, _ := strings.Cut(host, ":"); numericRE.MatchString(port) {
			return "has a port, but must be a host name or an address", "ports are in ports"
		}
		return "is neither a host name nor an address", hint
	case len(host) > 253:
		return "is too long for a host name", hint
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	for _, l := range labels {
		if !labelRE.MatchString(l) {
			return "is neither a host name nor an address", hint
		}
	}
	if numericRE.MatchString(labels[len(labels)-1]) {
		return "is not a valid IPv4 address", "four numbers from 0 to 255: 10.0.0.1"
	}
	return "", ""
}

// failHost adds an error about an address as the user wrote it. If it may contain a password,
// neither that nor the source line is shown.
func failHost(d *decoder, at []string, written, msg, hint string) {
	secret := false
	scheme, rest, ok := strings.Cut(written, "://")
	if !ok {
		scheme, rest = "", written
	}
	if i := strings.LastIndex(rest, "@"); i >= 0 && strings.Contains(rest[:i], ":") {
		secret, rest = true, "…"+rest[i:]
	}
	if ok {
		rest = scheme + "://" + rest
	}
	e := d.errorf(at, "%q %s", rest, msg).WithHint("%s", hint)
	if secret {
		e.Sensitive()
	}
}
