// Package lint finds in a compiled deployment what is legal and wrong: secrets
// in clear, images that may change, services nobody can wait for, and
// exceptions for machines that are not there.
//
// It knows the graph. It refuses to know where things are written: a finding
// has the path to its value, and its position is found later. Invariant: same
// graph, same findings in the same order.
package lint

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang/lint"
)

// Input is what is looked at.
type Input struct {
	Graph      *graph.Graph
	Deployment json.RawMessage // the entry's own value: its defaults reach every service
}

// Graph looks at every service once, replicas together.
func Graph(in Input) []lint.Finding {
	l := &linter{in: in, required: map[string]bool{}}
	for _, m := range in.Graph.Machines {
		l.machines = append(l.machines, m.Name)
	}
	for _, s := range in.Graph.Services {
		for _, e := range s.Requires {
			l.required[e.Set] = true
		}
	}
	seen := map[string]bool{}
	for _, s := range in.Graph.Services {
		if set := s.Address.Set(); !seen[set] && !s.Held && s.Fact == nil {
			seen[set] = true
			l.service(s)
		}
	}
	slices.SortStableFunc(l.found, func(a, b lint.Finding) int { return slices.Compare(a.Path, b.Path) })
	return l.found
}

type linter struct {
	in       Input
	machines []string
	required map[string]bool
	found    []lint.Finding
}

func (l *linter) add(s *graph.Service, rule, level, message, hint string, path ...[]string) {
	l.found = append(l.found, lint.Finding{Rule: rule, Level: level, Subject: s.Address.Set(), Path: slices.Concat(path...), Message: message, Hint: hint})
}

func (l *linter) service(s *graph.Service) {
	l.env(s, s.Spec.Env, "env")
	for i, v := range s.Spec.Command {
		l.text(s, v, []string{"command", strconv.Itoa(i)})
	}
	for i, v := range s.Spec.Args {
		l.text(s, v, []string{"args", strconv.Itoa(i)})
	}
	for field, files := range map[string]map[string]graph.File{"files": s.Spec.Files, "hostFiles": s.Spec.HostFiles} {
		for name, f := range files {
			l.text(s, f.Text, []string{field, name})
			l.env(s, f.Env, field, name, "env")
			if d := f.Doc(); d != nil {
				d.Map([]string{field, name, f.Kind()}, func(at []string, t token.Text, _ bool) []any {
					l.text(s, t, at)
					return []any{t}
				})
			}
		}
	}
	if i := s.Spec.Image; i != "" && !strings.Contains(i, "@sha256:") {
		l.add(s, "image-by-tag", lint.Warning, fmt.Sprintf("the image %q may become another without a change here", i),
			"name it with its digest (NAME@sha256:…), or let defx lock --update keep it", s.SpecPath, []string{"image"})
	}
	if s.Spec.Ready == nil && s.Spec.Schedule == nil {
		if l.required[s.Address.Set()] {
			l.add(s, "no-readiness", lint.Warning, "others require it, and nothing tells when it serves: they start at once",
				"ready: { tcp: true }, { http: '/path' }, { exec: […] } or { notify: true }", s.SpecPath)
		} else if len(s.Spec.Ports) > 0 {
			l.add(s, "no-readiness", lint.Warning, "it listens, and nothing tells when it serves: an apply cannot see it fail",
				"ready: { tcp: true }, { http: '/path' }, { exec: […] } or { notify: true }", s.SpecPath)
		}
	}
	l.except(s)
}

// env looks at variables: of the service, or of a file of them.
func (l *linter) env(s *graph.Service, env map[string]token.Text, field ...string) {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		at := append(slices.Clone(field), name)
		if text, ok := env[name].Literal(); ok && named(name) && secretive(text) {
			l.clear(s, fmt.Sprintf("%s is a secret by its name, and its value stands here in clear", name), at)
			continue
		}
		l.text(s, env[name], at)
	}
}

// except looks for exceptions of machines that are not there. What the
// functionality leaves open comes from the entry's defaults.
func (l *linter) except(s *graph.Service) {
	var entry struct {
		Defaults struct {
			Place struct {
				Except []string `json:"except"`
			} `json:"place"`
		} `json:"defaults"`
	}
	json.Unmarshal(l.in.Deployment, &entry) // it was decoded before
	for i, name := range s.Place.Except {
		if slices.Contains(l.machines, name) {
			continue
		}
		hint := diag.Suggest(name, l.machines)
		if hint == "" {
			hint = "there is " + strings.Join(l.machines, ", ")
		}
		base := slices.Clone(s.Path)
		if len(base) > 3 { // a member is placed with its group
			base = base[:3]
		}
		if slices.Equal(s.Place.Except, entry.Defaults.Place.Except) {
			base = []string{"defaults"}
		}
		l.add(s, "unknown-machine", lint.Error, fmt.Sprintf("no machine is called %q: nothing is kept away from it", name), hint,
			base, []string{"place", "except", strconv.Itoa(i)})
	}
}

func (l *linter) clear(s *graph.Service, message string, at []string) {
	l.add(s, "secret-in-clear", lint.Error, message, "secrets: { NAME: defx.secret('name') }: the service reads it from the file $NAME_FILE", s.SpecPath, at)
}

var secretName = regexp.MustCompile(`(?i)(^|_)(pgpassword|password|passwd|pwd|passphrase|secret|token|credentials?|(api|access|private|secret|encryption|signing)_?key)(_|$)`)

// named tells whether a variable holds a secret by its name. What ends like
// these holds where one is, or about how many.
func named(name string) bool {
	if !secretName.MatchString(name) {
		return false
	}
	for _, end := range []string{"_FILE", "_PATH", "_DIR", "_URL", "_URI", "_NAME", "_ID", "_TTL", "_LENGTH", "_TIMEOUT", "_EXPIRY", "CLUSTER_TOKEN" /* etcd: a name, no secret */} {
		if strings.HasSuffix(strings.ToUpper(name), end) {
			return false
		}
	}
	return true
}

var harmless = regexp.MustCompile(`^(|[0-9.]+|true|false|yes|no|on|off|null|none|/.*)$`)

func secretive(value string) bool { return !harmless.MatchString(strings.ToLower(value)) }

var patterns = []struct {
	re   *regexp.Regexp
	what string
}{
	{regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY`), "a private key"},
	{regexp.MustCompile(`\b(AKIA|ASIA)[0-9A-Z]{16}\b`), "an access key of AWS"},
	{regexp.MustCompile(`\b(ghp|gho|ghs|ghr)_[A-Za-z0-9]{36}\b|\bgithub_pat_[A-Za-z0-9_]{40,}`), "a token of GitHub"},
	{regexp.MustCompile(`\bxox[abprs]-[A-Za-z0-9-]{10,}`), "a token of Slack"},
	{regexp.MustCompile(`[a-z]://[^\s:/@]+:[^\s:/@]+@`), "an address with a password"},
}

// text looks at what is literal in a text: a token cannot be a secret in clear.
func (l *linter) text(s *graph.Service, t token.Text, at []string) {
	var b strings.Builder
	for _, seg := range t {
		if seg.Token != nil {
			b.WriteString("/") // a password that is a token is none in clear
		} else {
			b.WriteString(seg.Lit)
		}
	}
	for _, p := range patterns {
		if p.re.MatchString(b.String()) {
			l.clear(s, p.what+" stands here in clear", at)
		}
	}
}
