// Package plan holds the desired units (Plan), the deployed units (Record) and the difference
// (ChangeSet).
//
// It knows digests and set subtraction. It refuses to know what a backend puts into a payload.
// Invariants: everything has one canonical encoding; no secret value can be in it, because the
// planning side never gets one.
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

// Payload is what a backend renders for one service, with tokens in place. Each part is
// canonical JSON in the backend's own format.
type Payload struct {
	Run    json.RawMessage `json:"run"`              // a change restarts
	Reload json.RawMessage `json:"reload,omitempty"` // a change of only this part reloads; nil unless the service can reload
	Meta   json.RawMessage `json:"meta,omitempty"`   // a change of only this part is recorded without touching the process
}

// Artifact is content that must be in a machine's store before a unit starts.
type Artifact struct {
	Digest digest.Digest `json:"digest"`
	Path   string        `json:"path"` // current path, relative to the root; not in any digest
	Kind   string        `json:"kind"` // "file": one file, which keeps its name; "tree": a directory; "tar": unpacked on the machine

	Content *Content `json:"-"` // nil: only the digest is known
}

// Traits are the order, protection and balancing of a unit. They are not in its digest: a unit, its
// place in a plan and its record have the same ones, and they are only ever copied as a whole.
type Traits struct {
	Requires []string `json:"requires,omitempty"` // addresses that must be ready first; sorted
	After    []string `json:"after,omitempty"`    // addresses that are changed first; sorted
	Protect  bool     `json:"protect,omitempty"`  // deletion needs consent
	Stateful bool     `json:"stateful,omitempty"` // it has its own data: a move and deletion need consent
	Follows  []string `json:"follows,omitempty"`  // of a module: services whose addresses it publishes; its inputs change with them
	Kept     []string `json:"kept,omitempty"`     // directories with its data, as they were declared; giving one up needs consent
	Identity string   `json:"identity,omitempty"` // name under which its user and volumes were made, if that is not its own: it was renamed since
	Drain    int      `json:"drain,omitempty"`    // of a module: seconds that the services it follows may finish requests before they are stopped, because it forwards traffic to them; 0 = none
}

// Equal reports whether two units have the same traits.
func (t Traits) Equal(o Traits) bool {
	return slices.Equal(t.Requires, o.Requires) && slices.Equal(t.After, o.After) && t.Protect == o.Protect && t.Stateful == o.Stateful &&
		slices.Equal(t.Follows, o.Follows) && t.Drain == o.Drain && slices.Equal(t.Kept, o.Kept) && t.Identity == o.Identity
}

// Unit is one service on one machine as rendered by its backend: the smallest thing that defx
// changes.
type Unit struct {
	Address  string        `json:"address"`
	Backend  string        `json:"backend"`         // in the digest
	Encoding int           `json:"encoding"`        // in the digest: version of the backend's payload
	Payload  Payload       `json:"payload"`         // in the digest
	Reads    []token.Token `json:"reads,omitempty"` // the refs in the payload, sorted, each once
	Traits
	Artifacts []Artifact      `json:"artifacts,omitempty"`
	AtOnce    int             `json:"atOnce,omitempty"`   // number of replicas that are updated at the same time; 0 = 1
	Graceful  bool            `json:"graceful,omitempty"` // a new version starts before the old one stops
	MinReady  int             `json:"suffice,omitempty"`  // number of ready replicas of its set that is enough for dependents; 0 = all
	Sensitive []string        `json:"hides,omitempty"`    // of a module: fields with sensitive values, as JSON pointers into spec
	Spec      json.RawMessage `json:"spec"`               // the normalized service, from which differences are shown; not in the digest
}

// Decode decodes the form that Canonical returns. This is the only place that decodes units.
func (u *Unit) Decode(raw []byte) error { return json.Unmarshal(raw, u) }

// Digest returns the digest of everything that changes what runs.
func (u *Unit) Digest() (digest.Digest, error) {
	raw, err := digest.CanonicalJSON(u.Payload.appendJSON(make([]byte, 0, len(u.Payload.Run)+len(u.Payload.Reload)+len(u.Payload.Meta)+40)))
	if err != nil {
		return "", err
	}
	out := digest.AppendText(append(make([]byte, 0, len(raw)+100), `{"backend":`...), u.Backend)
	out = strconv.AppendInt(append(out, `,"encoding":`...), int64(u.Encoding), 10)
	out = append(append(append(out, `,"payload":`...), raw...), '}')
	return digest.Named("unit/1", out), nil
}

// Instance returns the short digest of everything that needs a restart, including values. It is
// part of the unit's name on the machine, so that a name always stands for the same content.
// The names of refs are not part of it, so that a rename restarts no reader, nor are values
// that only reloadable files read.
func (u *Unit) Instance(v Values) (string, error) {
	d, err := digest.Of("version/1", map[string]any{"backend": u.Backend, "encoding": u.Encoding, "run": bindValues(u.Payload.Run, v)})
	return d.Short(), err
}

// bindValues returns canonical JSON in which refs with known values are replaced by their field
// and value. The result is only for comparison, because a backend may format the value
// differently.
func bindValues(raw json.RawMessage, v Values) json.RawMessage {
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

// appendPart appends encoded JSON.
func appendPart(out []byte, name string, raw json.RawMessage) []byte {
	out = append(append(out, name...), raw...)
	if raw == nil {
		out = append(out, "null"...)
	}
	return out
}

// appendJSON appends what encoding/json would write, except that fields are in canonical order
// and the parts keep their white space.
func (p Payload) appendJSON(out []byte) []byte {
	out = append(out, '{')
	if len(p.Meta) > 0 {
		out = append(appendPart(out, `"meta":`, p.Meta), ',')
	}
	if len(p.Reload) > 0 {
		out = append(appendPart(out, `"reload":`, p.Reload), ',')
	}
	return append(appendPart(out, `"run":`, p.Run), '}')
}

// Canonical returns the RFC 8785 form of a unit. The result is that of digest.Canonical, but
// the large parts are read only once.
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
		out = appendPart(out, name, raw)
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
	if u.Identity != "" {
		out = digest.AppendText(append(out, `,"identity":`...), u.Identity)
	}
	texts(`,"kept":`, u.Kept)
	out = u.Payload.appendJSON(append(out, `,"payload":`...))
	flag(`,"protect":`, u.Protect)
	rare(`,"reads":`, u.Reads, len(u.Reads))
	texts(`,"requires":`, u.Requires)
	out = appendPart(out, `,"spec":`, u.Spec)
	flag(`,"stateful":`, u.Stateful)
	number(`,"suffice":`, u.MinReady)
	if err != nil {
		return nil, err
	}
	return digest.CanonicalJSON(append(out, '}'))
}

// Reads returns the refs in a payload, sorted, without duplicates.
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

// tokensIn returns the refs in canonical JSON, by key.
func tokensIn(raw json.RawMessage) map[string]token.Token {
	out := map[string]token.Token{}
	for {
		// This cannot be part of a string, because its quotes would be escaped there.
		i := bytes.Index(raw, []byte(`{"$text":`))
		if i < 0 {
			return out
		}
		raw = raw[i:]
		end := listEnd(raw, len(`{"$text":`))
		var t token.Text
		if end >= len(raw) || raw[end] != '}' || t.UnmarshalJSON(raw[:end+1]) != nil {
			raw = raw[1:] // another object with a field of this name
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

// listEnd returns the offset after the list that starts at an offset of canonical JSON;
// len(raw) if it does not end.
func listEnd(raw []byte, at int) int {
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

// Values are the values of a unit's refs, by Key.
type Values map[string]string

// canonical appends the canonical form of the values.
func (v Values) canonical(out []byte) []byte {
	names := slices.Sorted(maps.Keys(v))
	for _, name := range names {
		for i := range len(name) {
			if name[i] >= 0x80 { // RFC 8785 sorts these differently
				raw, err := digest.Canonical(v)
				if err != nil {
					panic(err) // strings always encode
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

// Key returns the unique name of a resolved ref: "hydra/hydra-db.port(sql)".
func Key(t token.Token) string {
	if t.Kind != token.Ref {
		panic(fmt.Sprintf("a token of kind %s has no value at plan time", t.Kind))
	}
	return t.String()
}

// Digest returns the digest of the actual values of refs; "" if there are none.
func (v Values) Digest() (digest.Digest, error) {
	if len(v) == 0 {
		return "", nil
	}
	return digest.Of("inputs/1", v)
}
