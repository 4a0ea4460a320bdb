package systemd

import (
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/size"
)

func TestNamesOf_Addresses(t *testing.T) {
	for _, c := range []struct{ address, base, slice string }{
		{"hydra/hydra-web", "defx-dev_1-zalora-hydra-hydra_web", "defx-dev_1-zalora.slice"},
		{"hydra/hydra-web#0", "defx-dev_1-zalora-hydra-hydra_web.0", "defx-dev_1-zalora.slice"},
		{"hydra/web/side-car", "defx-dev_1-zalora-hydra-web-side_car", "defx-dev_1-zalora-hydra-web.slice"},
		{"hydra/web/app#a-b", "defx-dev_1-zalora-hydra-web-app.a_b", "defx-dev_1-zalora-hydra-web.a_b.slice"},
		{"central", "defx-dev_1-zalora-_-central", "defx-dev_1-zalora.slice"},
	} {
		a, err := graph.ParseAddress(c.address)
		if err != nil {
			t.Fatal(err)
		}
		if n := namesOf("dev-1", "zalora", a, version); n.base != c.base || n.slice != c.slice || n.target != "defx-dev_1-zalora.target" {
			t.Errorf("%s: %+v", c.address, n)
		}
	}
}

// TestNamesOf_Unique checks that similar addresses have different names.
func TestNamesOf_Unique(t *testing.T) {
	seen := map[string]string{}
	parts := []string{"a", "b", "a-b", "b-a", "0", strings.Repeat("x", 42), strings.Repeat("x", 41) + "y"}
	for _, env := range parts {
		for _, lib := range append(parts, "") {
			for _, name := range parts {
				for _, member := range append(parts, "") {
					for _, replica := range append(parts, "") {
						if lib == "" && member != "" {
							continue
						}
						a := graph.Address{Lib: lib, Name: name, Member: member, Replica: replica}
						n := namesOf(env, "b", a, version)
						id := env + " " + a.String()
						if was, twice := seen[n.base]; twice {
							t.Fatalf("%s and %s are both %s", was, id, n.base)
						}
						seen[n.base] = id
						if len(n.migrate()) > 255 || len(n.slice) > 255 {
							t.Fatalf("%s is too long", n.migrate())
						}
						if u := dynamicUser(n.base); !graph.ValidUser(u) {
							t.Fatalf("%q is not a user", u)
						}
					}
				}
			}
		}
	}
}

func TestValues_SizesAndDurations(t *testing.T) {
	for in, want := range map[string]int64{"1": 0, "1k": 1000, "512Mi": 512 << 20, "2Ti": 2 << 40, "0": 0, "x": 0, "1m": 0, "99999999T": 0, "-1": 0} {
		if got, err := size.Parse(in); got != want || (err == nil) != (want > 0) {
			t.Errorf("size %q is %d, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{"90s": "90s", "2h": "2h", "1500ms": "1500ms", "3us": "3us", "1m30s": "90s", "60m": "1h"} {
		b := &builder{}
		if got := b.duration(spec.At("x"), in); got != want || len(b.Errs) > 0 {
			t.Errorf("duration %q is %q, %v", in, got, b.Errs)
		}
	}
}
