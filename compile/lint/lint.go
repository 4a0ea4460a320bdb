// Package lint finds mistakes in a compiled deployment that are valid but probably
// not intended: secrets in plain text, images that may change, services without
// a readiness check, and exceptions for machines that do not exist.
//
// It knows the graph. It refuses to know source positions: a finding has the path
// of its value, and its position is found later. Invariant: the same graph has
// the same findings in the same order.
package lint

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// Input is what Graph checks.
type Input struct {
	Graph      *graph.Graph
	Deployment json.RawMessage // the entry's own value: its defaults apply to every service
}

// Graph checks every service once, not each of its replicas.
func Graph(in Input) diag.List {
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
			l.checkService(s)
		}
	}
	slices.SortStableFunc(l.found, func(a, b *diag.Error) int { return slices.Compare(a.Path, b.Path) })
	return l.found
}

// linter collects the findings of one graph.
type linter struct {
	in       Input
	machines []string
	required map[string]bool
	found    diag.List
}

// report adds a finding about a service, at a path in parts.
func (l *linter) report(s *graph.Service, f *diag.Error, path ...[]string) {
	f.Subject, f.Path = s.Address.Set(), slices.Concat(path...)
	l.found = append(l.found, f)
}

// checkService checks one service.
func (l *linter) checkService(s *graph.Service) {
	l.checkEnv(s, s.Spec.Env, "env")
	for i, v := range s.Spec.Command {
		l.checkText(s, v, []string{"command", strconv.Itoa(i)})
	}
	for i, v := range s.Spec.Args {
		l.checkText(s, v, []string{"args", strconv.Itoa(i)})
	}
	for field, files := range map[string]map[string]graph.File{"files": s.Spec.Files, "hostFiles": s.Spec.HostFiles} {
		for name, f := range files {
			l.checkText(s, f.Text, []string{field, name})
			l.checkEnv(s, f.Env, field, name, "env")
			if d := f.Doc(); d != nil {
				d.Map([]string{field, name, f.Kind()}, func(at []string, t token.Text, _ bool) []any {
					l.checkText(s, t, at)
					return []any{t}
				})
			}
		}
	}
	if i := s.Spec.Image; i != "" && !strings.Contains(i, "@sha256:") {
		l.report(s, diag.Warningf("image-by-tag", "", "the image %q may change without a change in the configuration", i).
			WithHint("add its digest (NAME@sha256:…), or run defx lock --update"), s.SpecPath, []string{"image"})
	}
	if s.Spec.Ready == nil && s.Spec.Schedule == nil {
		switch hint := "ready: { tcp: true }, { http: '/path' }, { exec: […] } or { notify: true }"; {
		case l.required[s.Address.Set()]:
			l.report(s, diag.Warningf("no-readiness", "", "it has no readiness check: services that require it start immediately").WithHint("%s", hint), s.SpecPath)
		case len(s.Spec.Ports) > 0:
			l.report(s, diag.Warningf("no-readiness", "", "it has ports but no readiness check: an apply cannot detect that it fails").WithHint("%s", hint), s.SpecPath)
		}
	}
	l.placeExceptions(s)
}

// checkEnv checks variables: those of the service, or those in a file.
func (l *linter) checkEnv(s *graph.Service, env map[string]token.Text, field ...string) {
	for _, name := range sets.Keys(env) {
		at := append(slices.Clone(field), name)
		if text, ok := env[name].Literal(); ok && isSecretName(name) && looksSecret(text) {
			l.secretInClear(s, fmt.Sprintf("%s is a secret by its name, and its value is in plain text", name), at)
			continue
		}
		l.checkText(s, env[name], at)
	}
}

// placeExceptions checks that the machines in place.except exist. The list may
// come from the entry's defaults.
func (l *linter) placeExceptions(s *graph.Service) {
	var entry struct {
		Defaults struct {
			Place struct {
				Except []string `json:"except"`
			} `json:"place"`
		} `json:"defaults"`
	}
	json.Unmarshal(l.in.Deployment, &entry) // it was decoded before without errors
	for i, name := range s.Place.Except {
		if slices.Contains(l.machines, name) {
			continue
		}
		hint := diag.Suggest(name, l.machines)
		if hint == "" {
			hint = "the machines are " + strings.Join(l.machines, ", ")
		}
		base := slices.Clone(s.Path)
		if len(base) > 3 { // a member is placed with its group
			base = base[:3]
		}
		if slices.Equal(s.Place.Except, entry.Defaults.Place.Except) {
			base = []string{"defaults"}
		}
		l.report(s, diag.Errorf("", "there is no machine %q: the exception has no effect", name).WithCode("unknown-machine").WithHint("%s", hint),
			base, []string{"place", "except", strconv.Itoa(i)})
	}
}

// secretInClear reports a secret in plain text.
func (l *linter) secretInClear(s *graph.Service, message string, at []string) {
	l.report(s, diag.Errorf("", "%s", message).WithCode("secret-in-clear").Sensitive().
		WithHint("secrets: { NAME: defx.secret('name') }: the service reads it from the file $NAME_FILE"), s.SpecPath, at)
}

// secretName matches names of variables that hold secrets.
var secretName = regexp.MustCompile(`(?i)(^|_)(pgpassword|password|passwd|pwd|passphrase|secret|token|credentials?|(api|access|private|secret|encryption|signing)_?key)(_|$)`)

// isSecretName reports whether a variable holds a secret by its name. A suffix
// such as _FILE or _TTL means that it holds a location or a property instead.
func isSecretName(name string) bool {
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

// harmlessValue matches values that are no secrets: numbers, switches, paths.
var harmlessValue = regexp.MustCompile(`^(|[0-9.]+|true|false|yes|no|on|off|null|none|/.*)$`)

// looksSecret reports whether a value may be a secret.
func looksSecret(value string) bool { return !harmlessValue.MatchString(strings.ToLower(value)) }

// secretPatterns match secrets by their form.
var secretPatterns = []struct {
	re   *regexp.Regexp
	what string
}{
	{regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY`), "a private key"},
	{regexp.MustCompile(`\b(AKIA|ASIA)[0-9A-Z]{16}\b`), "an AWS access key"},
	{regexp.MustCompile(`\b(ghp|gho|ghs|ghr)_[A-Za-z0-9]{36}\b|\bgithub_pat_[A-Za-z0-9_]{40,}`), "a GitHub token"},
	{regexp.MustCompile(`\bxox[abprs]-[A-Za-z0-9-]{10,}`), "a Slack token"},
	{regexp.MustCompile(`[a-z]://[^\s:/@]+:[^\s:/@]+@`), "a URL with a password"},
}

// checkText checks the literal parts of a text: a token is never a secret in plain text.
func (l *linter) checkText(s *graph.Service, t token.Text, at []string) {
	var b strings.Builder
	for _, seg := range t {
		if seg.Token != nil {
			b.WriteString("/") // a password that is a token does not match
		} else {
			b.WriteString(seg.Lit)
		}
	}
	for _, p := range secretPatterns {
		if p.re.MatchString(b.String()) {
			l.secretInClear(s, p.what+" is in plain text", at)
		}
	}
}
