package systemd

import (
	"encoding/json"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// PrivatePath is the code of the findings of Lint.
const PrivatePath = "private-path"

var (
	// writeRE matches what shells and common tools write to.
	writeRE = regexp.MustCompile(`(?:>>?\s*|\b(?:tee(?:\s+-a)?|touch|truncate|mkdir(?:\s+-p)?|dd\s.*\bof=)\s*|\s(?:-o|--out(?:put)?|--log-?file|--pid-?file)[=\s]\s*)(/[A-Za-z0-9_./-]+)`)
	// writeOptionRE matches options whose value is written to, as arguments of their own or with it.
	writeOptionRE = regexp.MustCompile(`^(?:-o|--out(?:put)?|--log-?file|--pid-?file)(?:=(/.*))?$`)
)

// Lint returns warnings about commands that write where the default hardening makes the result
// private, temporary or impossible. Only what a command says itself is found.
func (backend) Lint(s *graph.Service) diag.List {
	if s.Fact != nil || len(s.Spec.Command) == 0 {
		return nil
	}
	active := activeHardening(s.Options)
	var out diag.List
	check := func(list []token.Text, field ...string) {
		for i, t := range list {
			text, ok := t.Literal()
			if !ok {
				continue
			}
			var written []string
			for _, m := range writeRE.FindAllStringSubmatch(text, -1) {
				written = append(written, m[1])
			}
			if i > 0 {
				if before, _ := list[i-1].Literal(); writeOptionRE.MatchString(before) && strings.HasPrefix(text, "/") {
					written = append(written, text)
				}
				if m := writeOptionRE.FindStringSubmatch(text); m != nil && m[1] != "" {
					written = append(written, m[1])
				}
			}
			for _, p := range written {
				if msg, hint := hidden(path.Clean(p), s.Spec, active); msg != "" {
					out = append(out, diag.Warningf(PrivatePath, s.Address.Set(), "%q %s", p, msg).WithHint("%s", hint).
						At(slices.Concat(s.SpecPath, field, []string{strconv.Itoa(i)})...))
				}
			}
		}
	}
	check(s.Spec.Command, "command")
	check(s.Spec.Args, "args")
	check(s.Spec.Initializer, "initializer")
	check(s.Spec.Migrate, "migrate")
	return out
}

// activeHardening returns the directives of the default hardening that options leave as they are.
func activeHardening(options json.RawMessage) map[string]bool {
	var o struct {
		Hardening json.RawMessage            `json:"hardening"`
		Service   map[string]json.RawMessage `json:"service"`
	}
	json.Unmarshal(options, &o) // rendering reports its errors
	active := map[string]bool{}
	if string(o.Hardening) == "false" {
		return active
	}
	var changed map[string]json.RawMessage
	json.Unmarshal(o.Hardening, &changed)
	for _, d := range hardeningDirectives {
		_, inHardening := changed[d.directive]
		_, inService := o.Service[d.directive]
		active[d.directive] = !inHardening && !inService
	}
	for _, d := range []string{"ReadWritePaths", "BindPaths", "TemporaryFileSystem"} { // the user has thought about it
		if o.Service[d] != nil || changed[d] != nil {
			active["ProtectSystem"], active["ProtectHome"] = false, false
		}
	}
	return active
}

// hidden returns why what a service writes at a path is not to be found there; "" if it is.
func hidden(p string, s graph.Spec, active map[string]bool) (msg, hint string) {
	below := func(dirs ...string) bool {
		return slices.ContainsFunc(dirs, func(d string) bool { return p == d || strings.HasPrefix(p, d+"/") })
	}
	const keep = "dirs: { state: 'NAME' } is a folder of its own, whose path is in $STATE_DIRECTORY; systemd: { hardening: { %s: 'no' } } lifts the restriction"
	switch {
	case below("/dev", "/proc", "/sys"):
	case active["PrivateTmp"] && below("/tmp", "/var/tmp"):
		return "is private to the service: nobody else sees what it writes there, and it is removed when the service stops", strings.Replace(keep, "%s", "PrivateTmp", 1)
	case active["ProtectHome"] && below("/home", "/root", "/run/user"):
		return "is an empty folder of its own for the service, and is removed when it stops", strings.Replace(keep, "%s", "ProtectHome", 1)
	case active["ProtectSystem"] && !below("/tmp", "/var/tmp", "/home", "/root", "/run/user") && !below(ownDirs(s)...):
		return "cannot be written by the service", strings.Replace(keep, "%s", "ProtectSystem", 1)
	}
	return "", ""
}

// ownDirs returns the directories that systemd makes writable for a service.
func ownDirs(s graph.Spec) []string {
	var out []string
	for _, kind := range graph.DirKinds {
		switch d := s.Dirs.Kind(kind); {
		case d.Path != "":
			out = append(out, d.Path)
		case *d != graph.Dir{}:
			out = append(out, graph.DirRoot(kind)) // which folder below it, the service learns at run time
		}
	}
	return out
}

// HiddenPaths describes for people what the default hardening hides from a service, with the
// user's changes applied.
func HiddenPaths(options json.RawMessage) []string {
	active := activeHardening(options)
	var out []string
	for _, d := range []struct{ directive, text string }{
		{"PrivateTmp", "/tmp and /var/tmp are its own, and are removed when it stops"},
		{"ProtectHome", "/home, /root and /run/user are empty"},
		{"ProtectSystem", "everything but its dirs is read-only"},
		{"PrivateDevices", "/dev has no devices of the machine"},
	} {
		if active[d.directive] {
			out = append(out, d.text)
		}
	}
	return out
}
