package ec2

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
)

// schemaGz are what the provider's own schema says of its resources, with what
// `terraform providers schema` leaves out: which changes replace, and what excludes what.
//
//go:embed facts.json.gz
var schemaGz []byte

// Schema is what is known of the resources of one provider.
type Schema struct {
	Provider  string                     `json:"provider"` // hashicorp/aws
	Version   string                     `json:"version"`
	Resources map[string]*resourceSchema `json:"resources"`
}

// resourceSchema is one type of resource.
type resourceSchema struct {
	Block      *schemaBlock        `json:"block"`
	ForceNew   []string            `json:"forceNew"`   // attributes whose change replaces
	Conflicts  map[string][]string `json:"conflicts"`  // attribute → those that exclude it
	ExactlyOne map[string][]string `json:"exactlyOne"` // attribute → the set of which one is needed
	AtLeastOne map[string][]string `json:"atLeastOne"`
}

type schemaBlock struct {
	Attributes map[string]*attribute   `json:"attributes"`
	Blocks     map[string]*nestedBlock `json:"blocks"`
}

type attribute struct {
	Type       any  `json:"type"` // "string", ["list", "string"], ["object", {…}]
	Required   bool `json:"required"`
	Optional   bool `json:"optional"`
	Computed   bool `json:"computed"`
	Sensitive  bool `json:"sensitive"`
	Deprecated bool `json:"deprecated"`
}

type nestedBlock struct {
	Block   *schemaBlock `json:"block"`
	Nesting string       `json:"nesting"` // single, list or set
	Min     int          `json:"min"`
	Max     int          `json:"max"`
}

// scalar tells whether its value is one text, number or boolean.
func (a *attribute) scalar() bool { _, ok := a.Type.(string); return ok }

// settable lists what a user may write in a block.
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
		panic(fmt.Sprintf("embedded facts: %v", err))
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		panic(fmt.Sprintf("embedded facts: %v", err))
	}
	s := &Schema{}
	if err := json.Unmarshal(raw, s); err != nil {
		panic(fmt.Sprintf("embedded facts: %v", err))
	}
	return s
})

// ParseSchema reads one provider of what `terraform providers schema -json` prints.
func ParseSchema(raw []byte, provider string) (*Schema, error) {
	type theirBlock struct {
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
	var ours func(json.RawMessage) (*schemaBlock, error)
	ours = func(raw json.RawMessage) (*schemaBlock, error) {
		var b theirBlock
		if err := json.Unmarshal(raw, &b); err != nil {
			return nil, err
		}
		out := &schemaBlock{Attributes: b.Attributes, Blocks: map[string]*nestedBlock{}}
		if out.Attributes == nil {
			out.Attributes = map[string]*attribute{}
		}
		for n, a := range out.Attributes {
			if a.Type == nil { // nested attributes of the newer protocol: their shape is left to terraform
				a.Type = "any"
			}
			out.Attributes[n] = a
		}
		for n, t := range b.BlockTypes {
			inner, err := ours(t.Block)
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
		for _, name := range slices.Sorted(maps.Keys(p.Resources)) {
			b, err := ours(p.Resources[name].Block)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			s.Resources[name] = &resourceSchema{Block: b}
		}
		return s, nil
	}
	return nil, fmt.Errorf("provider %s is not in it", provider)
}
