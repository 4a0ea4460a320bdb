// Package digest is the only place that hashes. A digest is named: it covers the
// name of what is hashed and the RFC 8785 form of its value, so that values of
// two kinds never share a digest, even if they are equal.
//
// It knows bytes and canonical JSON. It refuses to know which fields belong in a
// digest; their owners decide that. Invariant: equal names and values have equal
// digests on every machine.
package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
)

// Digest is "sha256:" followed by 64 lower-case hexadecimal digits.
type Digest string

const prefix = "sha256:"

// Parse parses a digest strictly.
func Parse(s string) (Digest, error) {
	if len(s) == len(prefix)+64 && s[:len(prefix)] == prefix {
		ok := true
		for _, c := range s[len(prefix):] {
			ok = ok && (c >= '0' && c <= '9' || c >= 'a' && c <= 'f')
		}
		if ok {
			return Digest(s), nil
		}
	}
	return "", fmt.Errorf("%q is not a digest (sha256: and 64 hexadecimal digits)", s)
}

// Hex returns the digits without the algorithm.
func (d Digest) Hex() string {
	if len(d) <= len(prefix) {
		return ""
	}
	return string(d[len(prefix):])
}

// Short returns the first 12 digits, for names.
func (d Digest) Short() string { return d.cut(12) }

// Brief returns the first 8 digits, for people.
func (d Digest) Brief() string { return d.cut(8) }

func (d Digest) cut(n int) string {
	h := d.Hex()
	return h[:min(n, len(h))]
}

// Of returns the digest of the canonical JSON of v under a name such as
// "unit/1". The number is the version of the encoding: raise it when the meaning
// of the value changes.
func Of(name string, v any) (Digest, error) {
	c, err := Canonical(v)
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", name, err)
	}
	return Named(name, c), nil
}

// Named returns the digest of bytes that are already canonical under a name.
func Named(name string, canonical []byte) Digest {
	h := New()
	io.WriteString(h, "defx "+name+"\n")
	h.Write(canonical)
	d := h.Digest()
	logInput(name, d, canonical)
	return d
}

// Canonical returns the RFC 8785 form of v.
func Canonical(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return canonicalize(raw)
}

// Bytes returns the plain digest of content, as sha256sum prints it.
func Bytes(b []byte) Digest {
	s := sha256.Sum256(b)
	return Digest(prefix + hex.EncodeToString(s[:]))
}

// Hash computes a plain digest of what is written to it.
type Hash struct{ hash.Hash }

// New returns an empty Hash.
func New() Hash { return Hash{sha256.New()} }

// Digest returns the digest of what was written.
func (h Hash) Digest() Digest { return Digest(prefix + hex.EncodeToString(h.Sum(nil))) }

// Reader returns the plain digest of everything that r returns, and its length in bytes.
func Reader(r io.Reader) (Digest, int64, error) {
	h := New()
	n, err := io.Copy(h, r)
	return h.Digest(), n, err
}

var explainMu sync.Mutex

// logInput appends the input of a named digest to the file in DEFX_DEBUG_DIGEST,
// one JSON object per line. Secret values are never hashed, so none is written.
func logInput(name string, d Digest, in []byte) {
	path := os.Getenv("DEFX_DEBUG_DIGEST")
	if path == "" {
		return
	}
	explainMu.Lock()
	defer explainMu.Unlock()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	json.NewEncoder(f).Encode(map[string]string{"name": name, "digest": string(d), "input": string(in)})
}
