package digest

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/gowebpki/jcs"
)

// FuzzCanonical compares canonicalize with the library.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{}`, `[]`, `{"b":1,"a":[true,false,null,"x"]}`, `{"é":1,"z":2,"":3,"😀":4,"\ue000":5}`, `"<>&\u2028\u2029\u007f\u0000\u001f\n"`,
		`{"a":-1,"b":0,"c":1.5,"d":1e300,"e":123456789012345678}`, `{"a\"b":1,"a\\b":2,"a\nb":3,"a":4}`, `{"m":{"y":{"b":1,"a":2},"x":[{"d":1,"c":2}]}}`,
		`{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8,"i":9,"j":10,"k":11,"l":12,"m":13,"n":14,"o":15,"p":16,"q":17,"0":18}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var v any
		d := json.NewDecoder(bytes.NewReader(in))
		d.UseNumber()
		if d.Decode(&v) != nil {
			t.Skip()
		}
		raw, err := json.Marshal(v)
		if err != nil {
			t.Skip()
		}
		for _, raw := range [][]byte{raw, in} {
			want, wrong := jcs.Transform(raw)
			got, err := canonicalize(raw)
			if string(got) != string(want) || (err == nil) != (wrong == nil) {
				t.Errorf("%s\n got %s (%v)\nwant %s (%v)", raw, got, err, want, wrong)
			}
		}
	})
}
