package lang

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Evaluation produces JSON in the form that go-jsonnet writes. The functions in
// this file rely on that form, so that values are not validated again each time
// they are passed on.

// maxDepth is the nesting depth up to which encoding/json decodes a value.
const maxDepth = 10000

// compact removes the white space from a value that go-jsonnet wrote.
func compact(in string) ([]byte, error) {
	out := make([]byte, 0, len(in)*3/4)
	depth := 0
	for at := 0; at < len(in); {
		switch c := in[at]; c {
		case ' ', '\n':
			at++
			continue
		case '"':
			end := stringEnd(in, at)
			if end < 0 {
				return nil, errors.New("a string is not terminated")
			}
			out = append(out, in[at:end]...)
			at = end
			continue
		case '{', '[':
			if depth++; depth > maxDepth {
				return nil, fmt.Errorf("brackets are nested more than %d deep", maxDepth)
			}
		case '}', ']':
			depth--
		}
		out = append(out, in[at])
		at++
	}
	return out, nil
}

// stringEnd returns the offset after the string that begins at an offset, or -1
// if the string is not terminated.
func stringEnd[T string | []byte](in T, at int) int {
	for at++; at < len(in); at++ {
		switch in[at] {
		case '\\':
			at++
		case '"':
			return at + 1
		}
	}
	return -1
}

// member is one field of an object.
type member struct {
	name  string
	value json.RawMessage
}

// splitObject splits a compact object into its fields, in their order.
func splitObject(raw []byte) ([]member, error) {
	malformed := errors.New("an object is malformed")
	if len(raw) < 2 || raw[0] != '{' || raw[len(raw)-1] != '}' {
		return nil, malformed
	}
	var out []member
	for raw = raw[1:]; raw[0] != '}'; {
		if len(out) > 0 && raw[0] == ',' {
			raw = raw[1:]
		}
		if raw[0] != '"' {
			return nil, malformed
		}
		end := stringEnd(raw, 0)
		if end < 0 || end >= len(raw) || raw[end] != ':' {
			return nil, malformed
		}
		m := member{}
		if err := json.Unmarshal(raw[:end], &m.name); err != nil {
			return nil, err
		}
		raw = raw[end+1:]
		n := valueLength(raw)
		if n <= 0 || n >= len(raw) {
			return nil, malformed
		}
		m.value, raw = raw[:n:n], raw[n:]
		out = append(out, m)
	}
	return out, nil
}

// valueLength returns the length of the value that raw begins with, or -1.
func valueLength(raw []byte) int {
	depth := 0
	for at := 0; at < len(raw); at++ {
		switch raw[at] {
		case '"':
			end := stringEnd(raw, at)
			if end < 0 {
				return -1
			}
			at = end - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return at
			}
			depth--
		case ',':
			if depth == 0 {
				return at
			}
		}
	}
	return -1
}
