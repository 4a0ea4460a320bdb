package compile

import (
	"encoding/json"
	"reflect"
	"strings"
)

// Decode decodes raw as the compiler does, without resolving anything.
func Decode(raw json.RawMessage, out any) error {
	d := &decoder{}
	d.decodeJSON(raw, out, nil)
	return d.errs.Err()
}

// DecodesItself reports whether a type has its own decoding.
func DecodesItself(t reflect.Type) bool {
	return customDecoders[t] != nil || reflect.PointerTo(t).Implements(reflect.TypeFor[valueDecoder]())
}

// DroppedKeys returns the paths of the keys that after has lost, joined with dots.
func DroppedKeys(before, after string) []string {
	out := []string{}
	droppedKeys(json.RawMessage(before), json.RawMessage(after), func(where []string, key string) {
		out = append(out, strings.Join(append(where, key), "."))
	})
	return out
}
