package backends

import (
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
)

// This file compares what units ask for with what the entry file allows. Libraries and transforms
// have no part in it.

// notAllowed returns an error for each need of a unit that is refused unless the entry file allows
// it. The needs of a fact are those of each functionality that requires it.
func notAllowed(g *graph.Graph, svc *graph.Service, needs []graph.Need) diag.List {
	var out diag.List
	for _, f := range functionalities(svc) {
		var missing []graph.NeedKind
		for _, n := range needs {
			if n.Kind.Rule().Denied && !g.Allows(f, n.Kind) {
				missing = append(missing, n.Kind)
			}
		}
		for _, n := range needs {
			if !slices.Contains(missing, n.Kind) {
				continue
			}
			subject := svc.String()
			if svc.Fact != nil {
				subject = f
			}
			out = append(out, diag.Errorf(subject, "needs %s, which the entry file does not allow", n).At(n.Field...).
				WithHint("if it may have that, write in the entry file, next to libs: %s", g.AllowLine(f, missing...)))
		}
	}
	return out
}

// functionalities returns the functionalities that a service is part of, or that require a fact.
func functionalities(svc *graph.Service) []string {
	if svc.Fact == nil || len(svc.Fact.AskedBy) == 0 {
		return []string{svc.Address.Functionality()}
	}
	var out []string
	for f := range svc.Fact.AskedBy {
		out = append(out, f)
	}
	slices.Sort(out)
	return out
}

// foreignSecrets returns the secrets of a service whose names do not begin with that of its library.
func foreignSecrets(svc *graph.Service) []graph.Need {
	var out []graph.Need
	for k, text := range svc.Spec.Secrets {
		for _, t := range text.Tokens() {
			if lib, _, has := strings.Cut(t.Name, "/"); has && lib != svc.Address.Lib {
				out = append(out, graph.Need{Kind: graph.NeedSecretOfOther, Value: t.Name, Field: append(slices.Clone(svc.SpecPath), "secrets", k)})
			}
		}
	}
	return out
}

// known returns needs without the secrets that no library has: the first part of their name is that
// of none.
func known(g *graph.Graph, needs []graph.Need) []graph.Need {
	return slices.DeleteFunc(slices.Clone(needs), func(n graph.Need) bool {
		lib, _, _ := strings.Cut(n.Value, "/")
		return n.Kind == graph.NeedSecretOfOther && !g.HasLibrary(lib)
	})
}

// LintNeeds returns a warning for each need with effects on others that the entry file does not
// allow. Units of one set are checked once.
func LintNeeds(g *graph.Graph, p *plan.Plan) diag.List {
	var out diag.List
	seen := map[string]bool{}
	for _, u := range p.Units {
		a, err := graph.ParseAddress(u.Address)
		if err != nil || u.Held {
			continue
		}
		subject := a.Set()
		if a.Lib == graph.ModuleLib || a.Lib == graph.HostLib {
			subject = u.Address
		}
		for _, n := range u.Needs {
			f := a.Functionality()
			if len(n.Field) > 2 && n.Field[0] == "libs" { // of a resource: its module may have resources of several
				f = n.Field[1] + "/" + n.Field[2]
			}
			key := subject + " " + n.String()
			if !n.Warned() || g.Allows(f, n.Kind) || seen[key] {
				continue
			}
			seen[key] = true
			out = append(out, diag.Warningf("needs", subject, "needs %s", n).At(n.Field...).
				WithHint("if that is intended, write in the entry file, next to libs: %s", g.AllowLine(f, n.Kind)))
		}
	}
	return out
}
