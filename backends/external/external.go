// Package external renders resources that a user's executables make. A provider is a folder with
// the executables create, check, destroy and optionally install, which read and write JSON.
//
// It knows the shape of such a resource. It refuses to know what the executables do. Invariant: a
// request is data, never text for a shell, and contains no secret value.
package external

import (
	"encoding/json"
	"errors"
	"maps"
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

// Backend renders resources that executables make.
type Backend struct {
	// Folder returns the digest of a provider's folder, which becomes part of the units: another
	// executable may do another thing. Nil leaves it out.
	Folder func(provider string) (digest.Digest, *diag.Error)
}

// New returns the backend.
func New() *Backend { return &Backend{} }

// Name returns the name of this backend in plans.
func (*Backend) Name() string { return Name }

// Encoding returns the version of the payload encoding.
func (*Backend) Encoding() int { return 1 }

// MakesType reports whether the backend makes resources of a type.
func (*Backend) MakesType(typ string) bool { return typ == Type }

// Render returns an error: executables make resources, not services.
func (*Backend) Render(in backends.Input) (plan.Payload, backends.Effects, diag.List) {
	return plan.Payload{}, backends.Effects{}, diag.List{diag.Errorf(in.Service.String(), "backend external makes resources, it cannot run services").
		At(append(slices.Clone(in.Service.Path), "backend")...).WithHint("backend: 'systemd'")}
}

// Realize returns an error: such a resource is on no machine.
func (*Backend) Realize(plan.Payload, string, func(token.Token) (string, bool)) (backends.Layout, error) {
	return backends.Layout{}, errors.New("an external resource has no files on a machine")
}

// Boot returns an error: the backend has no launch templates.
func (*Backend) Boot(_ *graph.Graph, s backends.Input, _ backends.Layout) *diag.Error {
	return diag.Errorf(s.Service.Address.String(), "backend external has no autoscaling groups")
}

// Modules returns one module for each resource.
func (b *Backend) Modules(g *graph.Graph) (backends.Modules, diag.List) {
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
		folder, ok := providerFolder(r)
		if !ok {
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
		fields := maps.Clone(r.Fields)
		run := map[string]any{"provider": folder, "address": r.Address.String(), "arguments": arguments}
		if b.Folder != nil {
			d, bad := b.Folder(folder)
			if bad != nil {
				bad.Subject = r.Address.String()
				errs = append(errs, bad.At(append(slices.Clone(r.Path), "provider")...))
				continue
			}
			run["digest"], fields["digest"] = d, token.Lit(d.Brief())
		}
		protect, _ := r.Fields["protect"].(bool)
		m := backends.Module{Address: moduleAddress(r), Sources: map[string][]string{r.Address.String(): r.Path}, Protect: protect}
		m.Needs = []graph.Need{{Kind: graph.NeedProgram, Value: folder, Field: append(slices.Clone(r.Path), "provider")}}
		var err error
		if m.Payload.Run, err = digest.Canonical(run); err == nil {
			m.Spec, err = digest.Canonical(map[string]any{r.Address.String(): fields})
		}
		if err != nil {
			fail(nil, "%v", err)
		}
		out.List = append(out.List, m)
	}
	return out, errs.Sort()
}

// Providers returns the folders of the providers of a graph, sorted.
func Providers(g *graph.Graph) []string {
	var out []string
	for _, r := range g.Resources {
		if folder, ok := providerFolder(r); ok && r.Type == Type {
			out = append(out, folder)
		}
	}
	return sets.Union(out)
}

// providerFolder returns the folder of a resource's provider; ok is false if it is none below the
// entry file's.
func providerFolder(r *graph.Resource) (folder string, ok bool) {
	text, _ := r.Fields["provider"].(token.Text)
	folder, literal := text.Literal()
	folder = path.Clean(folder)
	return folder, literal && len(text) > 0 && !path.IsAbs(folder) && folder != ".." && !strings.HasPrefix(folder, "../")
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
