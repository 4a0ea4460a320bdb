package document_test

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/defx-dev/defx/backends/document"
	"go.yaml.in/yaml/v3"
)

var value = map[string]any{"name": "a: b", "port": float64(9090), "ratio": 0.5, "on": true, "big": float64(1 << 40),
	"list": []any{"yes", "1", float64(2)}, "global": map[string]any{"scrape_interval": "15s", "no": "no"}}

func TestEncode_RoundTrip(t *testing.T) {
	want, _ := json.Marshal(value)
	for kind, read := range map[string]func([]byte, any) error{"json": json.Unmarshal, "yaml": yaml.Unmarshal, "toml": toml.Unmarshal} {
		raw, err := document.Encode(kind, value)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		var back map[string]any
		if err := read(raw, &back); err != nil {
			t.Fatalf("%s: %v in\n%s", kind, err, raw)
		}
		if got, _ := json.Marshal(back); string(got) != string(want) {
			t.Errorf("%s: read back %s, want %s", kind, got, want)
		}
	}
}

func TestEncode_IniAndEnv(t *testing.T) {
	got, err := document.Encode("ini", map[string]any{"a": float64(1), "s": map[string]any{"k": []any{"x", true}, "b": "y z"}})
	if want := "a = 1\n\n[s]\nb = y z\nk = x\nk = true\n"; err != nil || string(got) != want {
		t.Errorf("ini: %q, %v; want %q", got, err, want)
	}
	got, err = document.Encode("env", map[string]any{"A": "1 2", "B": ""})
	if want := "A=1 2\nB=\n"; err != nil || string(got) != want {
		t.Errorf("env: %q, %v; want %q", got, err, want)
	}
}

func TestEncode_UnsupportedValues(t *testing.T) {
	for kind, v := range map[string]any{
		"ini":  map[string]any{"s": map[string]any{"k": "two\nlines"}},
		"env":  map[string]any{"A": "\"quoted\""},
		"toml": []any{"not an object"},
		"json": map[string]any{"nan": math.NaN()},
		"xml":  "unknown format",
	} {
		if raw, err := document.Encode(kind, v); err == nil {
			t.Errorf("%s: accepted, wrote %q", kind, raw)
		}
	}
}

func FuzzEncode_RoundTrip(f *testing.F) {
	f.Add(`{"a":"yes","b":["0x1","null",1.5,true,{"c":"~"}],"d":"2026-11-21"}`)
	f.Fuzz(func(t *testing.T, s string) {
		var v map[string]any
		if json.Unmarshal([]byte(s), &v) != nil {
			return
		}
		for kind, read := range map[string]func([]byte, any) error{"json": json.Unmarshal, "yaml": yaml.Unmarshal} {
			raw, err := document.Encode(kind, v)
			if err != nil {
				continue
			}
			var back any
			if err := read(raw, &back); err != nil {
				t.Fatalf("%s: %v in %q", kind, err, raw)
			}
			a, _ := json.Marshal(v)
			b, err := json.Marshal(back)
			var av, bv any
			json.Unmarshal(a, &av)
			json.Unmarshal(b, &bv)
			if err == nil && len(v) > 0 && !reflect.DeepEqual(av, bv) {
				t.Fatalf("%s: %q became %s, want %s", kind, raw, b, a)
			}
		}
	})
}

// TestEnv_KeysAreNames checks that no key of an environment file begins another line.
func TestEnv_KeysAreNames(t *testing.T) {
	for _, k := range []string{"A=1\nB", "A B", "", "#A", "1A", "A-B", "export A"} {
		if out, err := document.Encode("env", map[string]any{k: "x"}); err == nil {
			t.Errorf("%q becomes %q", k, out)
		}
	}
	for _, section := range []string{"a\x00", "a\nb", "a]"} {
		if out, err := document.Encode("ini", map[string]any{section: map[string]any{"k": "v"}}); err == nil {
			t.Errorf("%q becomes %q", section, out)
		}
	}
}
