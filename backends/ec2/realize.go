package ec2

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/token"
)

// Module is the Terraform input of a payload.
type Module struct {
	JSON           []byte            // main.tf.json
	Outputs        map[string]string // output → key in plan.Values
	Addresses      map[string]string // Terraform address → address in the graph
	Protected      []string          // Terraform addresses that are deleted only with --allow-delete
	OrphanOnDelete []string          // Terraform addresses that are removed from the state instead of deleted
	Providers      string            // what `terraform init` depends on
	Sources        []string          // of the providers, sorted
}

// Realize returns the module of a payload, with refs replaced by their values.
func Realize(pl plan.Payload, value func(token.Token) (string, bool)) (*Module, error) {
	var p payload
	if err := json.Unmarshal(pl.Run, &p); err != nil {
		return nil, fmt.Errorf("payload of a module: %w", err)
	}
	required, providers := map[string]any{}, map[string]any{}
	for local, pr := range p.Providers {
		r := map[string]any{"source": pr.Source}
		if pr.Version != "" {
			r["version"] = pr.Version
		}
		required[local] = r
		if pr.Config != nil {
			providers[local] = pr.Config
		}
	}
	doc := map[string]any{
		"terraform": map[string]any{"required_version": ">= " + MinVersion, "required_providers": required},
	}
	if len(providers) > 0 {
		doc["provider"] = providers
	}
	if len(p.Resources) > 0 {
		doc["resource"] = p.Resources
	}
	out := &Module{Outputs: map[string]string{}, Addresses: p.Addresses, Protected: p.Protected, OrphanOnDelete: p.OrphanOnDelete}
	outputs := map[string]any{}
	for name, o := range p.Outputs {
		outputs[name] = map[string]any{"value": "${" + o.Value + "}"}
		out.Outputs[name] = o.Key
	}
	if len(outputs) > 0 {
		doc["output"] = outputs
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	var document token.Doc
	if err := json.Unmarshal(raw, &document); err != nil {
		return nil, fmt.Errorf("payload of a module: %w", err)
	}
	var unbound error
	document = document.Map(nil, func(_ []string, t token.Text, _ bool) []any {
		filled := token.Text{}
		before := ""
		for i, s := range t {
			if s.Token == nil {
				filled, before = append(filled, s), before+s.Lit
				continue
			}
			v, ok := value(*s.Token)
			if !ok {
				unbound = fmt.Errorf("the value of %s is unknown", s.Token)
			}
			v = token.InBrackets(before, v, t[i+1:])
			filled, before = append(filled, token.Segment{Lit: escape(v, i+1 < len(t))}), before+v
		}
		return []any{mergeLiterals(filled)}
	})
	if unbound != nil {
		return nil, unbound
	}
	if out.JSON, err = json.MarshalIndent(document.V, "", "  "); err != nil {
		return nil, err
	}
	for _, pr := range p.Providers {
		out.Sources = append(out.Sources, pr.Source)
	}
	slices.Sort(out.Sources)
	out.Sources = slices.Compact(out.Sources)
	init, err := json.Marshal(required)
	out.Providers = string(init)
	return out, err
}

// IsProtected reports whether a resource is deleted only with --allow-delete.
func (m *Module) IsProtected(id string) bool { return slices.Contains(m.Protected, id) }
