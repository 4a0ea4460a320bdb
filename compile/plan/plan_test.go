package plan

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/defx-dev/defx/lang/digest"
)

// The digest of a plan is that of its canonical JSON, whatever names and values hold.
func TestThePlansDigestIsThatOfItsCanonicalJSON(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	signs := []string{"a", "b", "/", "#", "\"", "\\", "\n", "\x01", "\x7f", "ü", "\u2028", "\U0001f600", "<", "&", "\ue000", "\xff"}
	text := func() string {
		s := ""
		for range r.IntN(5) {
			s += signs[r.IntN(len(signs))]
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
