package ec2

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// LoadSchema reads a schema from a lock file, which people may edit.
func LoadSchema(raw []byte) (*Schema, error) {
	s := &Schema{}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, err
	}
	for name, r := range s.Resources {
		if r == nil {
			continue
		}
		if err := r.Block.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return s, nil
}

// check returns an error for blocks that no provider has.
func (b *schemaBlock) check() error {
	if b == nil {
		return errors.New("a block is missing")
	}
	for name, a := range b.Attributes {
		if a == nil || !validType(a.Type) {
			return fmt.Errorf("attribute %s has no type", name)
		}
	}
	for name, n := range b.Blocks {
		if n == nil {
			return fmt.Errorf("block %s is missing", name)
		}
		if err := n.Block.check(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// validType reports whether t is a type of Terraform: a name, or the name of a collection and what
// it consists of.
func validType(t any) bool {
	list, ok := t.([]any)
	if !ok {
		_, ok = t.(string)
		return ok
	}
	if len(list) < 2 {
		return false
	}
	inner := []any{list[1]}
	switch list[0] {
	case "object":
		of, ok := list[1].(map[string]any)
		if !ok {
			return false
		}
		inner = slices.Collect(maps.Values(of))
	case "tuple":
		if inner, ok = list[1].([]any); !ok {
			return false
		}
	case "list", "set", "map":
	default:
		return false
	}
	return !slices.ContainsFunc(inner, func(t any) bool { return !validType(t) })
}
