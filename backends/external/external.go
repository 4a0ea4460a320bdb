// Package external renders resources that a user's executables make. A provider is a folder with
// the executables create, check, destroy and optionally install, which read and write JSON.
//
// It knows the shape of such a resource. It refuses to know what the executables do. Invariant: a
// request is data, never text for a shell, and contains no secret value.
package external

import (
	"encoding/json"
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// Type is the type of resources that executables make.
const Type = "external.resource"

// Name is the name of this backend in plans.
const Name = "external"

// Request is the input of a provider's executables.
type Request struct {
	Provider  string          `json:"provider"`  // folder of the executables, relative to the entry file
	Address   string          `json:"address"`   // of the resource
	Arguments json.RawMessage `json:"arguments"` // refs filled in
}

type backend struct{}

// New returns the backend.
func New() backends.Infrastructure { return backend{} }

// Name returns the name of this backend in plans.
func (backend) Name() string { return Name }

// Encoding returns the version of the payload encoding.
func (backend) Encoding() int { return 1 }

// MakesType reports whether the backend makes resources of a type.
func (backend) MakesType(typ string) bool { return typ == Type }

// Render returns an error: executables make resources, not services.
func (backend) Render(in backends.Input) (plan.Payload, backends.Effects, diag.List) {
	return plan.Payload{}, backends.Effects{}, diag.List{diag.Errorf(in.Service.String(), "backend external makes resources, it cannot run services").
		At(append(slices.Clone(in.Service.Path), "backend")...).WithHint("backend: 'systemd'")}
}

// Realize returns an error: such a resource is on no machine.
func (backend) Realize(plan.Payload, string, func(token.Token) (string, bool)) (backends.Layout, error) {
	return backends.Layout{}, errors.New("an external resource has no files on a machine")
}

// Boot returns an error: the backend has no launch templates.
func (backend) Boot(_ *graph.Graph, s backends.Input, _ backends.Layout) *diag.Error {
	return diag.Errorf(s.Service.Address.String(), "backend external has no autoscaling groups")
}

// Modules returns one module for each resource.
func (backend) Modules(g *graph.Graph) (backends.Modules, diag.List) {
	out := backends.Modules{Output: func(t token.Token) (string, string, *diag.Error) {
		r := g.Resource(t.Name)
		if t.Field != "output" || t.Arg == "" {
			return "", "", diag.Errorf("", "%s has only outputs", r.Address).WithHint("read .output('name')")
		}
		return plan.Key(t), moduleAddress(r).String(), nil
	}}
	var errs diag.List
	for _, r := range g.Resources {
		if r.Type != Type {
			continue
		}
		fail := func(at []string, format string, args ...any) *diag.Error {
			e := diag.Errorf(r.Address.String(), format, args...).At(append(slices.Clone(r.Path), at...)...)
			errs = append(errs, e)
			return e
		}
		known := []string{"provider", "arguments", "protect"}
		for _, k := range sets.Keys(r.Fields) {
			if !slices.Contains(known, k) {
				e := fail([]string{k}, "%s has no field %q", Type, k)
				if e.WithHint("%s", diag.Suggest(k, known)); e.Hint == "" {
					e.WithHint("fields are provider, arguments, protect")
				}
			}
		}
		text, _ := r.Fields["provider"].(token.Text)
		folder, literal := text.Literal()
		folder = path.Clean(folder)
		if !literal || len(text) == 0 || path.IsAbs(folder) || folder == ".." || strings.HasPrefix(folder, "../") {
			fail(nil, "provider must be a folder below the entry file's").WithHint("provider: './providers/box'")
			continue
		}
		arguments := r.Fields["arguments"]
		if arguments == nil {
			arguments = map[string]any{}
		}
		if _, ok := arguments.(map[string]any); !ok {
			fail([]string{"arguments"}, "must be an object").WithHint("arguments: { … }")
			continue
		}
		before := len(errs)
		findSecrets(arguments, []string{"arguments"}, func(at []string) {
			fail(at, "a secret would be stored in the provider's state").WithHint("let the provider's executables read the secret themselves")
		})
		if len(errs) > before {
			continue
		}
		protect, _ := r.Fields["protect"].(bool)
		m := backends.Module{Address: moduleAddress(r), Sources: map[string][]string{r.Address.String(): r.Path}, Protect: protect}
		m.Needs = []graph.Need{{Kind: graph.NeedProgram, Value: folder, Field: append(slices.Clone(r.Path), "provider")}}
		var err error
		if m.Payload.Run, err = digest.Canonical(map[string]any{"provider": folder, "address": r.Address.String(), "arguments": arguments}); err == nil {
			m.Spec, err = digest.Canonical(map[string]any{r.Address.String(): r.Fields})
		}
		if err != nil {
			fail(nil, "%v", err)
		}
		out.List = append(out.List, m)
	}
	return out, errs.Sort()
}

// moduleAddress returns the address of the module of a resource.
func moduleAddress(r *graph.Resource) graph.Address {
	name := r.Address.Name
	if r.Address.Lib != "" {
		name = r.Address.Lib + "-" + name
	}
	return graph.Address{Lib: graph.ModuleLib, Name: name}
}

// findSecrets calls report with the path of every text that contains a token other than a ref.
func findSecrets(v any, at []string, report func([]string)) {
	switch v := v.(type) {
	case token.Text:
		if slices.ContainsFunc(v.Tokens(), func(t token.Token) bool { return t.Kind != token.Ref }) {
			report(at)
		}
	case []any:
		for i, x := range v {
			findSecrets(x, append(slices.Clone(at), strconv.Itoa(i)), report)
		}
	case map[string]any:
		for _, k := range sets.Keys(v) {
			findSecrets(v[k], append(slices.Clone(at), k), report)
		}
	}
}

// Realize returns the request of a payload, with refs replaced by their values.
func Realize(pl plan.Payload, value func(token.Token) (string, bool)) (*Request, error) {
	var doc struct {
		Provider, Address string
		Arguments         token.Doc
	}
	if err := json.Unmarshal(pl.Run, &doc); err != nil {
		return nil, err
	}
	var unbound error
	filled := doc.Arguments.Map(nil, func(_ []string, t token.Text, _ bool) []any {
		return []any{token.Lit(t.Fill(func(tok token.Token) string {
			v, ok := value(tok)
			if !ok {
				unbound = errors.New("the value of " + tok.String() + " is unknown")
			}
			return v
		}))}
	})
	if unbound != nil {
		return nil, unbound
	}
	raw, err := json.Marshal(filled)
	return &Request{Provider: doc.Provider, Address: doc.Address, Arguments: raw}, err
}
