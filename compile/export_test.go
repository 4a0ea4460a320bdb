package compile

import (
	"encoding/json"
	"reflect"
)

// Decode decodes as the compiler does and nothing else.
func Decode(raw json.RawMessage, out any) error {
	d := &decoder{}
	d.decodeJSON(raw, out, nil)
	return d.errs.Err()
}

// DecodesItself tells whether a type is decoded in its own way.
func DecodesItself(t reflect.Type) bool {
	return foreign[t] != nil || reflect.PointerTo(t).Implements(reflect.TypeFor[selfDecoder]())
}
