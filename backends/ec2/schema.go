package ec2

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/defx-dev/defx/internal/sets"
)

// schemaGz is the schema of the AWS provider, from the provider's own source. It has facts that
// `terraform providers schema` leaves out: which changes replace a resource, and which arguments
// exclude each other.
//
//go:embed facts.json.gz
var schemaGz []byte

// Schema describes the resources of one provider.
type Schema struct {
	Provider  string                     `json:"provider"` // hashicorp/aws
	Version   string                     `json:"version,omitempty"`
	Resources map[string]*resourceSchema `json:"resources"` // nil: the provider has the type, but it was left out
}

// resourceSchema describes one type of resource.
type resourceSchema struct {
	Block      *schemaBlock        `json:"block"`
	ForceNew   []string            `json:"forceNew,omitempty"`   // attributes whose change replaces the resource
	Conflicts  map[string][]string `json:"conflicts,omitempty"`  // attribute → attributes that exclude it
	ExactlyOne map[string][]string `json:"exactlyOne,omitempty"` // attribute → set of which exactly one is required
	AtLeastOne map[string][]string `json:"atLeastOne,omitempty"`
}

// schemaBlock describes the contents of a block.
type schemaBlock struct {
	Attributes map[string]*attribute   `json:"attributes,omitempty"`
	Blocks     map[string]*nestedBlock `json:"blocks,omitempty"`
}

type attribute struct {
	Type       any  `json:"type"` // "string", ["list", "string"], ["object", {…}]
	Required   bool `json:"required,omitempty"`
	Optional   bool `json:"optional,omitempty"`
	Computed   bool `json:"computed,omitempty"`
	Sensitive  bool `json:"sensitive,omitempty"`
	Deprecated bool `json:"deprecated,omitempty"`
}

// nestedBlock describes a block inside another.
type nestedBlock struct {
	Block   *schemaBlock `json:"block"`
	Nesting string       `json:"nesting"` // single, list or set
	Min     int          `json:"min,omitempty"`
	Max     int          `json:"max,omitempty"`
}

// Only returns the schema with the given resource types. Of the others it keeps the names.
func (s *Schema) Only(types []string) *Schema {
	out := &Schema{Provider: s.Provider, Version: s.Version, Resources: map[string]*resourceSchema{}}
	for name, r := range s.Resources {
		if out.Resources[name] = nil; slices.Contains(types, name) {
			out.Resources[name] = r
		}
	}
	return out
}

// Has reports whether the schema describes all of the resource types, or shows that the provider
// does not have them.
func (s *Schema) Has(types []string) bool {
	return !slices.ContainsFunc(types, func(name string) bool { r, known := s.Resources[name]; return known && r == nil })
}

// scalar reports whether the value is a single string, number or boolean.
func (a *attribute) scalar() bool { _, ok := a.Type.(string); return ok }

// settable returns what users can set in a block, sorted.
func (b *schemaBlock) settable() []string {
	var out []string
	for n, a := range b.Attributes {
		if a.Required || a.Optional {
			out = append(out, n)
		}
	}
	for n := range b.Blocks {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

var builtInSchema = sync.OnceValue(func() *Schema {
	z, err := gzip.NewReader(bytes.NewReader(schemaGz))
	if err != nil {
		panic(fmt.Sprintf("embedded provider schema: %v", err))
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		panic(fmt.Sprintf("embedded provider schema: %v", err))
	}
	s := &Schema{}
	if err := json.Unmarshal(raw, s); err != nil {
		panic(fmt.Sprintf("embedded provider schema: %v", err))
	}
	return s
})

// ParseSchema reads the schema of one provider from the output of `terraform providers schema
// -json`.
func ParseSchema(raw []byte, provider string) (*Schema, error) {
	type providerBlock struct {
		Attributes map[string]*attribute `json:"attributes"`
		BlockTypes map[string]struct {
			Block    json.RawMessage `json:"block"`
			Nesting  string          `json:"nesting_mode"`
			MinItems int             `json:"min_items"`
			MaxItems int             `json:"max_items"`
		} `json:"block_types"`
	}
	var doc struct {
		Providers map[string]struct {
			Resources map[string]struct {
				Block json.RawMessage `json:"block"`
			} `json:"resource_schemas"`
		} `json:"provider_schemas"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	var convert func(json.RawMessage) (*schemaBlock, error)
	convert = func(raw json.RawMessage) (*schemaBlock, error) {
		var b providerBlock
		if err := json.Unmarshal(raw, &b); err != nil {
			return nil, err
		}
		out := &schemaBlock{Attributes: b.Attributes, Blocks: map[string]*nestedBlock{}}
		if out.Attributes == nil {
			out.Attributes = map[string]*attribute{}
		}
		for n, a := range out.Attributes {
			if a.Type == nil { // nested attributes of protocol 6: Terraform checks their type
				a.Type = "any"
			}
			out.Attributes[n] = a
		}
		for n, t := range b.BlockTypes {
			inner, err := convert(t.Block)
			if err != nil {
				return nil, err
			}
			out.Blocks[n] = &nestedBlock{Block: inner, Nesting: t.Nesting, Min: t.MinItems, Max: t.MaxItems}
		}
		return out, nil
	}
	for source, p := range doc.Providers {
		if !strings.HasSuffix(source, "/"+provider) {
			continue
		}
		s := &Schema{Provider: provider, Resources: map[string]*resourceSchema{}}
		for _, name := range sets.Keys(p.Resources) {
			b, err := convert(p.Resources[name].Block)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			s.Resources[name] = &resourceSchema{Block: b}
		}
		return s, nil
	}
	return nil, fmt.Errorf("the output has no schema of provider %s", provider)
}
