package plan

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// TestPlanDigest_IsThatOfCanonicalJSON uses random names and values.
func TestPlanDigest_IsThatOfCanonicalJSON(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	chars := []string{"a", "b", "/", "#", "\"", "\\", "\n", "\x01", "\x7f", "ü", "\u2028", "\U0001f600", "<", "&", "\ue000", "\xff"}
	text := func() string {
		s := ""
		for range r.IntN(5) {
			s += chars[r.IntN(len(chars))]
		}
		return s
	}
	for range 2000 {
		p := &Plan{Deployment: text(), Environment: text()}
		units := []map[string]any{}
		for range r.IntN(4) {
			u := Placed{Address: text(), Machine: text(), Digest: digest.Bytes([]byte(text()))}
			one := map[string]any{"address": u.Address, "machine": u.Machine, "digest": u.Digest}
			if n := r.IntN(4); n > 0 {
				u.Values = Values{}
				for i := range n {
					u.Values[fmt.Sprint(text(), i)] = text()
				}
				one["values"] = u.Values
			}
			p.Units, units = append(p.Units, u), append(units, one)
		}
		got, err := p.Digest()
		want, other := digest.Of("plan/1", map[string]any{"deployment": p.Deployment, "environment": p.Environment, "units": units})
		if got != want || (err == nil) != (other == nil) {
			t.Fatalf("%+v: %s %v, not %s %v", p, got, err, want, other)
		}
	}
}

// TestUnitCanonical_MatchesEncodingJSON compares the hand-written encoder with
// digest.Canonical, with random values of every field.
func TestUnitCanonical_MatchesEncodingJSON(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	text := func() string { return []string{"", "a", "<\u2028\"", "ü", "z/z#1"}[r.IntN(5)] }
	raw := func() json.RawMessage {
		return []json.RawMessage{nil, json.RawMessage(`{}`), json.RawMessage(`{"a":[1,"<"],"b":null}`), json.RawMessage(`{ "b" : 1.50, "a": "\u003c" }`), json.RawMessage(`{"torn`)}[r.IntN(50)/12]
	}
	set := map[string]bool{}
	for range 5000 {
		u := &Unit{}
		v := reflect.ValueOf(u).Elem()
		for _, field := range reflect.VisibleFields(v.Type()) {
			if field.Anonymous || r.IntN(2) == 0 {
				continue
			}
			f := v.FieldByIndex(field.Index)
			switch p := f.Addr().Interface().(type) {
			case *string:
				*p = text()
			case *int:
				*p = r.IntN(20) - 5
			case *bool:
				*p = true
			case *[]string:
				*p = []string{text(), text()}[:r.IntN(3)]
			case *[]token.Token:
				*p = []token.Token{{Kind: token.Ref, Of: "set", Name: text(), Field: "host", Here: true}, {Kind: token.Secret, Name: text()}}[:r.IntN(3)]
			case *[]Artifact:
				*p = []Artifact{{Digest: digest.Bytes([]byte(text())), Path: text(), Kind: "file"}}[:r.IntN(2)]
			case *json.RawMessage:
				*p = raw()
			case *Payload:
				*p = Payload{Run: raw(), Reload: raw(), Meta: raw()}
			default:
				t.Fatalf("no random value for type %T", p)
			}
			set[field.Name] = set[field.Name] || !f.IsZero()
		}
		got, err := u.Canonical()
		want, other := digest.Canonical(u)
		if string(got) != string(want) || (err == nil) != (other == nil) {
			t.Fatalf("%+v:\n%s %v, not\n%s %v", u, got, err, want, other)
		}
	}
	if len(set) != len(reflect.VisibleFields(reflect.TypeFor[Unit]()))-1 { // Traits itself
		t.Errorf("only %v were set", set)
	}
}

// TestTraits_RecordKeepsAll checks that what a unit has is in its record, in the record's place in a
// plan and in their JSON, and that a difference in any trait is a difference.
func TestTraits_RecordKeepsAll(t *testing.T) {
	all := Traits{Requires: []string{"a"}, After: []string{"b"}, Protect: true, Stateful: true, Follows: []string{"c"}, Kept: []string{"db"}, Identity: "i", Drain: 7}
	v := reflect.ValueOf(all)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Fatalf("%s has no value in this test", v.Type().Field(i).Name)
		}
		other := all
		reflect.ValueOf(&other).Elem().Field(i).SetZero()
		if all.Equal(other) || !other.Equal(other) {
			t.Errorf("Equal ignores %s", v.Type().Field(i).Name)
		}
	}
	if got := (Record{Traits: all}).Placed(); !got.Traits.Equal(all) {
		t.Errorf("a record's place in a plan has %+v", got.Traits)
	}
	unit := &Unit{Address: "x/y", Traits: all, Payload: Payload{Run: json.RawMessage(`{}`)}, Spec: json.RawMessage(`{}`)}
	raw, err := unit.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	var decoded Unit
	if err := decoded.Decode(raw); err != nil || !decoded.Traits.Equal(all) {
		t.Errorf("decoded: %+v, %v", decoded, err)
	}
	for _, v := range []any{Record{Traits: all}, Placed{Traits: all}} {
		raw, err := json.Marshal(v)
		if want := `"requires":["a"],"after":["b"],"protect":true,"stateful":true,"follows":["c"],"kept":["db"],"identity":"i","drain":7`; err != nil || !strings.Contains(string(raw), want) {
			t.Errorf("%T is written %s, %v", v, raw, err)
		}
	}
}
