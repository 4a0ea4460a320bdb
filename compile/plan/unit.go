// Package plan holds what should be (Plan), what stands (Record) and what lies
// between (ChangeSet).
//
// It knows digests and set subtraction. It refuses to know what a backend
// puts into a payload. Invariants: everything here has one canonical encoding;
// no secret value can be in it, because none ever reaches this side.
package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// Payload is what a backend makes of one service, with tokens in place. Each
// part is canonical JSON of the backend's own shape.
type Payload struct {
	Run    json.RawMessage `json:"run"`              // a change restarts
	Reload json.RawMessage `json:"reload,omitempty"` // a change alone reloads; nil unless the service can reload
	Meta   json.RawMessage `json:"meta,omitempty"`   // a change alone is taken over without touching the process
}

// Artifact is content that must lie in a machine's store before a unit starts.
type Artifact struct {
	Digest digest.Digest `json:"digest"`
	Path   string        `json:"path"` // where it is now, relative to the root; not in any digest
	Kind   string        `json:"kind"` // "file": one file, which keeps its name; "tree": a folder; "tar": unpacked there
}

// Unit is what one backend makes of one service on one machine: the grain of change.
type Unit struct {
	Address   string          `json:"address"`
	Backend   string          `json:"backend"`            // in the digest
	Encoding  int             `json:"encoding"`           // in the digest: version of the backend's payload
	Payload   Payload         `json:"payload"`            // in the digest
	Reads     []token.Token   `json:"reads,omitempty"`    // the refs in the payload, sorted, each once
	Requires  []string        `json:"requires,omitempty"` // addresses that must be ready first; sorted
	After     []string        `json:"after,omitempty"`    // addresses that go first if they change too; sorted
	Artifacts []Artifact      `json:"artifacts,omitempty"`
	Protect   bool            `json:"protect,omitempty"`
	AtOnce    int             `json:"atOnce,omitempty"`   // replicas that change at the same time; 0 = 1
	Graceful  bool            `json:"graceful,omitempty"` // a new version starts before the old one stops
	MinReady  int             `json:"suffice,omitempty"`  // replicas of its set that suffice for what requires it; 0 = all
	Stateful  bool            `json:"stateful,omitempty"` // has data of its own: a move needs consent
	Follows   []string        `json:"follows,omitempty"`  // of a module: services whose places it tells others; its inputs change with them
	Drain     int             `json:"drain,omitempty"`    // of a module: it leads users to what it follows, which may go on for so many seconds before it is stopped
	Sensitive []string        `json:"hides,omitempty"`    // of a module: fields, as pointers into spec, whose values are not shown
	Spec      json.RawMessage `json:"spec"`               // the normalized service: what differences are shown of; not in the digest
}

// Digest covers everything that would change what runs.
func (u *Unit) Digest() (digest.Digest, error) {
	raw, err := digest.CanonicalJSON(u.Payload.json(make([]byte, 0, len(u.Payload.Run)+len(u.Payload.Reload)+len(u.Payload.Meta)+40)))
	if err != nil {
		return "", err
	}
	out := digest.AppendText(append(make([]byte, 0, len(raw)+100), `{"backend":`...), u.Backend)
	out = strconv.AppendInt(append(out, `,"encoding":`...), int64(u.Encoding), 10)
	out = append(append(append(out, `,"payload":`...), raw...), '}')
	return digest.Named("unit/1", out), nil
}

// Instance is the short name of what a restart is needed for, with the values
// it runs with; it is in the unit's name on the machine, where the same name
// always stands for the same bytes. Neither the names of what is read count,
// so that a rename restarts no reader, nor values that only reloadable files read.
func (u *Unit) Instance(v Values) (string, error) {
	d, err := digest.Of("version/1", map[string]any{"backend": u.Backend, "encoding": u.Encoding, "run": bound(u.Payload.Run, v)})
	return d.Short(), err
}

// bound is canonical JSON with each ref whose value is known replaced by its
// field and the value. It is for comparison alone, and no text: a backend may
// write the value of a port otherwise than the same letters.
func bound(raw json.RawMessage, v Values) json.RawMessage {
	if len(v) == 0 || !bytes.Contains(raw, []byte(`"$text"`)) {
		return raw
	}
	var value any
	if json.Unmarshal(raw, &value) != nil {
		return raw
	}
	out, err := digest.Canonical(bind(value, v))
	if err != nil {
		return raw
	}
	return out
}

func bind(value any, v Values) any {
	switch value := value.(type) {
	case []any:
		for i := range value {
			value[i] = bind(value[i], v)
		}
	case map[string]any:
		parts, ok := value["$text"].([]any)
		if !ok || len(value) != 1 {
			for k := range value {
				value[k] = bind(value[k], v)
			}
			return value
		}
		for i, p := range parts {
			raw, err := json.Marshal(p)
			var t token.Token
			if _, isToken := p.(map[string]any); !isToken || err != nil || json.Unmarshal(raw, &t) != nil || t.Kind != token.Ref {
				continue
			}
			if known, ok := v[Key(t)]; ok {
				parts[i] = map[string]any{"field": t.Field, "value": known}
			}
		}
	}
	return value
}

// part appends JSON that is there already.
func part(out []byte, name string, raw json.RawMessage) []byte {
	out = append(append(out, name...), raw...)
	if raw == nil {
		out = append(out, "null"...)
	}
	return out
}

// json appends what encoding/json would write, but for the order of fields, which
// is the canonical one, and what the parts may have of white space.
func (p Payload) json(out []byte) []byte {
	out = append(out, '{')
	if len(p.Meta) > 0 {
		out = append(part(out, `"meta":`, p.Meta), ',')
	}
	if len(p.Reload) > 0 {
		out = append(part(out, `"reload":`, p.Reload), ',')
	}
	return append(part(out, `"run":`, p.Run), '}')
}

// Canonical is the RFC 8785 form of a unit: what digest.Canonical gives, without
// reading its great parts more often than once.
func (u *Unit) Canonical() ([]byte, error) {
	out := digest.AppendText(append(make([]byte, 0, len(u.Payload.Run)+len(u.Payload.Reload)+len(u.Payload.Meta)+len(u.Spec)+1024), `{"address":`...), u.Address)
	number := func(name string, n int) {
		if n != 0 {
			out = strconv.AppendInt(append(out, name...), int64(n), 10)
		}
	}
	flag := func(name string, is bool) {
		if is {
			out = append(append(out, name...), "true"...)
		}
	}
	texts := func(name string, list []string) {
		for i, s := range list {
			if i == 0 {
				out = append(append(out, name...), '[')
			} else {
				out = append(out, ',')
			}
			out = digest.AppendText(out, s)
		}
		if len(list) > 0 {
			out = append(out, ']')
		}
	}
	var err error
	rare := func(name string, v any, n int) {
		if n == 0 || err != nil {
			return
		}
		var raw []byte
		raw, err = json.Marshal(v)
		out = part(out, name, raw)
	}
	texts(`,"after":`, u.After)
	rare(`,"artifacts":`, u.Artifacts, len(u.Artifacts))
	number(`,"atOnce":`, u.AtOnce)
	out = digest.AppendText(append(out, `,"backend":`...), u.Backend)
	number(`,"drain":`, u.Drain)
	out = strconv.AppendInt(append(out, `,"encoding":`...), int64(u.Encoding), 10)
	texts(`,"follows":`, u.Follows)
	flag(`,"graceful":`, u.Graceful)
	texts(`,"hides":`, u.Sensitive)
	out = u.Payload.json(append(out, `,"payload":`...))
	flag(`,"protect":`, u.Protect)
	rare(`,"reads":`, u.Reads, len(u.Reads))
	texts(`,"requires":`, u.Requires)
	out = part(out, `,"spec":`, u.Spec)
	flag(`,"stateful":`, u.Stateful)
	number(`,"suffice":`, u.MinReady)
	if err != nil {
		return nil, err
	}
	return digest.CanonicalJSON(append(out, '}'))
}

// Reads lists the refs in a payload, sorted, each once.
func (p Payload) Reads() []token.Token {
	all := map[string]token.Token{}
	for _, part := range []json.RawMessage{p.Run, p.Reload, p.Meta} {
		maps.Copy(all, tokensIn(part))
	}
	var out []token.Token
	for _, key := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[key])
	}
	return out
}

// tokensIn finds the refs in canonical JSON, by key.
func tokensIn(raw json.RawMessage) map[string]token.Token {
	out := map[string]token.Token{}
	for {
		// No text can hold these signs: its quotes would be written otherwise.
		i := bytes.Index(raw, []byte(`{"$text":`))
		if i < 0 {
			return out
		}
		raw = raw[i:]
		end := list(raw, len(`{"$text":`))
		var t token.Text
		if end >= len(raw) || raw[end] != '}' || t.UnmarshalJSON(raw[:end+1]) != nil {
			raw = raw[1:] // some object that has a field of this name
			continue
		}
		for _, tok := range t.Tokens() {
			if tok.Kind == token.Ref {
				out[Key(tok)] = tok
			}
		}
		raw = raw[end:]
	}
}

// list gives the end of the list that begins at an offset of canonical JSON; that of raw if none does.
func list(raw []byte, at int) int {
	depth, quoted := 0, false
	for ; at < len(raw); at++ {
		switch c := raw[at]; {
		case quoted && c == '\\':
			at++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[':
			depth++
		case c == ']':
			if depth--; depth == 0 {
				return at + 1
			}
		}
		if depth == 0 {
			break
		}
	}
	return len(raw)
}

// walkTexts calls f for every text with tokens in a JSON value.
func walkTexts(v any, path []string, f func(path []string, t token.Text)) {
	switch v := v.(type) {
	case map[string]any:
		if _, ok := v["$text"]; ok && len(v) == 1 {
			raw, _ := json.Marshal(v)
			var t token.Text
			if json.Unmarshal(raw, &t) == nil {
				f(path, t)
				return
			}
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			walkTexts(v[k], append(slices.Clone(path), k), f)
		}
	case []any:
		for i, x := range v {
			walkTexts(x, append(slices.Clone(path), strconv.Itoa(i)), f)
		}
	}
}

// Values are what the refs of a unit stand for, keyed by Key.
type Values map[string]string

// canonical appends the canonical form of values.
func (v Values) canonical(out []byte) []byte {
	names := slices.Sorted(maps.Keys(v))
	for _, name := range names {
		for i := range len(name) {
			if name[i] >= 0x80 { // they sort in another order then
				raw, err := digest.Canonical(v)
				if err != nil {
					panic(err) // texts always encode
				}
				return append(out, raw...)
			}
		}
	}
	for i, name := range names {
		before := byte(',')
		if i == 0 {
			before = '{'
		}
		out = digest.AppendText(append(out, before), name)
		out = digest.AppendText(append(out, ':'), v[name])
	}
	return append(out, '}')
}

// Key is the one name of a resolved ref: "hydra/hydra-db.port(sql)".
func Key(t token.Token) string {
	if t.Kind != token.Ref {
		panic(fmt.Sprintf("a %s has no value at this side", t.Kind))
	}
	return t.String()
}

// Digest covers the values that refs really had. It is empty for no values.
func (v Values) Digest() (digest.Digest, error) {
	if len(v) == 0 {
		return "", nil
	}
	return digest.Of("inputs/1", v)
}
