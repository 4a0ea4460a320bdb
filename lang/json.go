package lang

import (
	"encoding/json"
	"errors"
	"fmt"
)

// What evaluation gives is JSON as go-jsonnet writes it: it need not be proved
// anew each time that it changes hands.

// deepest is how many brackets inside each other encoding/json reads.
const deepest = 10000

// compact takes the white space out of a value.
func compact(in string) ([]byte, error) {
	out := make([]byte, 0, len(in)*3/4)
	depth := 0
	for at := 0; at < len(in); {
		switch c := in[at]; c {
		case ' ', '\n':
			at++
			continue
		case '"':
			end := textEnd(in, at)
			if end < 0 {
				return nil, errors.New("a text without an end")
			}
			out = append(out, in[at:end]...)
			at = end
			continue
		case '{', '[':
			if depth++; depth > deepest {
				return nil, fmt.Errorf("more than %d brackets inside each other", deepest)
			}
		case '}', ']':
			depth--
		}
		out = append(out, in[at])
		at++
	}
	return out, nil
}

// textEnd gives the end of a text that begins at an offset; -1 if there is none.
func textEnd[T string | []byte](in T, at int) int {
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

// member is a field of an object.
type member struct {
	name  string
	value json.RawMessage
}

// members parts a compact object into its fields, in their order.
func members(raw []byte) ([]member, error) {
	torn := errors.New("an object without an end")
	if len(raw) < 2 || raw[0] != '{' || raw[len(raw)-1] != '}' {
		return nil, torn
	}
	var out []member
	for raw = raw[1:]; raw[0] != '}'; {
		if len(out) > 0 && raw[0] == ',' {
			raw = raw[1:]
		}
		if raw[0] != '"' {
			return nil, torn
		}
		end := textEnd(raw, 0)
		if end < 0 || end >= len(raw) || raw[end] != ':' {
			return nil, torn
		}
		m := member{}
		if err := json.Unmarshal(raw[:end], &m.name); err != nil {
			return nil, err
		}
		raw = raw[end+1:]
		n := length(raw)
		if n <= 0 || n >= len(raw) {
			return nil, torn
		}
		m.value, raw = raw[:n:n], raw[n:]
		out = append(out, m)
	}
	return out, nil
}

// length is how long the value is that raw begins with.
func length(raw []byte) int {
	depth := 0
	for at := 0; at < len(raw); at++ {
		switch raw[at] {
		case '"':
			end := textEnd(raw, at)
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
