package revision

import (
	"bytes"
	"testing"
)

// FuzzFormats: no content makes a decoder fail other than by an error.
func FuzzFormats(f *testing.F) {
	f.Add([]byte("DIRC\x00\x00\x00\x02\x00\x00\x00\x01"))
	f.Add([]byte("\x05\x05\x91\x05\x03abc"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, size := range []int{20, 32} {
			parseIndex(raw, size)
		}
		readLoose(bytes.NewReader(raw), "tree")
		if out, err := applyDelta([]byte("hello"), raw); err == nil && len(out) > maxObject {
			t.Errorf("%d bytes", len(out))
		}
	})
}
