package revision

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/defx-dev/defx/internal/openfile"
)

// maxObject is the largest commit or folder that is read, in bytes.
const maxObject = 32 << 20

// maxDeltas is how many differences an object may be stored as.
const maxDeltas = 200

var errObject = errors.New("the object cannot be read")

// Numbers of the types of objects in packs.
const (
	packedCommit   = 1
	packedTree     = 2
	packedOffDelta = 6
	packedRefDelta = 7
)

// object returns a commit or a folder ("tree") by its hash.
func (r *repository) object(ctx context.Context, hash []byte, kind string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	name := hex.EncodeToString(hash)
	f, err := openfile.OpenIn(r.common, filepath.Join("objects", name[:2], name[2:]))
	if err == nil {
		defer f.Close()
		raw, err := readLoose(f, kind)
		if err == nil {
			err = r.spend(int64(len(raw)))
		}
		return raw, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	got, raw, err := r.packed(ctx, hash, 0)
	if err == nil && got != map[string]int{"commit": packedCommit, "tree": packedTree}[kind] {
		err = errObject
	}
	return raw, err
}

// readLoose reads an object from a file of its own.
func readLoose(f io.Reader, kind string) ([]byte, error) {
	raw, err := inflate(f, maxObject+64)
	if err != nil {
		return nil, err
	}
	head, body, ok := bytes.Cut(raw, []byte{0})
	if !ok || string(head) != fmt.Sprintf("%s %d", kind, len(body)) {
		return nil, errObject
	}
	return body, nil
}

// inflate decompresses at most limit bytes.
func inflate(r io.Reader, limit int64) ([]byte, error) {
	z, err := zlib.NewReader(r)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	raw, err := io.ReadAll(io.LimitReader(z, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = errObject
	}
	return raw, err
}

// packed returns an object from the packs.
func (r *repository) packed(ctx context.Context, hash []byte, depth int) (kind int, raw []byte, err error) {
	dir, err := r.common.Open(filepath.Join("objects", "pack"))
	if err != nil {
		return 0, nil, err
	}
	names, err := dir.Readdirnames(-1)
	dir.Close()
	if err != nil {
		return 0, nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		base, isIndex := strings.CutSuffix(name, ".idx")
		if !isIndex {
			continue
		}
		offset, err := r.findInPack(name, hash)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, nil, err
		}
		f, err := openfile.OpenIn(r.common, filepath.Join("objects", "pack", base+".pack"))
		if err != nil {
			return 0, nil, err
		}
		defer f.Close()
		return r.readPacked(ctx, f, offset, len(hash), depth)
	}
	return 0, nil, errObject
}

// findInPack returns the offset of an object in the pack of an index; fs.ErrNotExist if the pack
// does not have it.
func (r *repository) findInPack(name string, hash []byte) (int64, error) {
	f, err := openfile.OpenIn(r.common, filepath.Join("objects", "pack", name))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var head [8 + 256*4]byte
	if _, err := f.ReadAt(head[:], 0); err != nil || string(head[:8]) != "\xfftOc\x00\x00\x00\x02" {
		return 0, errObject
	}
	number := func(i int) int { return int(binary.BigEndian.Uint32(head[8+4*i:])) }
	first, last, all := 0, number(int(hash[0])), number(255)
	if hash[0] > 0 {
		first = number(int(hash[0]) - 1)
	}
	if first > last || last > all {
		return 0, errObject
	}
	buf := make([]byte, len(hash))
	var failed error
	at := first + sort.Search(last-first, func(i int) bool {
		if _, err := f.ReadAt(buf, int64(len(head))+int64(first+i)*int64(len(hash))); err != nil {
			failed = err
		}
		return bytes.Compare(buf, hash) >= 0
	})
	if at < last && failed == nil {
		_, failed = f.ReadAt(buf, int64(len(head))+int64(at)*int64(len(hash)))
	}
	if failed != nil {
		return 0, failed
	}
	if at == last || !bytes.Equal(buf, hash) {
		return 0, fs.ErrNotExist
	}
	offsets := int64(len(head)) + int64(all)*int64(len(hash)+4)
	var small [4]byte
	if _, err := f.ReadAt(small[:], offsets+int64(at)*4); err != nil {
		return 0, err
	}
	n := binary.BigEndian.Uint32(small[:])
	if n&0x80000000 == 0 {
		return int64(n), nil
	}
	var large [8]byte
	if _, err := f.ReadAt(large[:], offsets+int64(all)*4+int64(n&0x7fffffff)*8); err != nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(large[:]) &^ (1 << 63)), nil
}

// readPacked returns the object at an offset of a pack.
func (r *repository) readPacked(ctx context.Context, f *os.File, offset int64, hashSize, depth int) (kind int, raw []byte, err error) {
	if err := ctx.Err(); err != nil || depth > maxDeltas {
		return 0, nil, errors.Join(err, errObject)
	}
	head := make([]byte, 16+hashSize+16)
	n, err := f.ReadAt(head, offset)
	if n == 0 {
		return 0, nil, err
	}
	head = head[:n]
	kind = int(head[0] >> 4 & 7)
	used := 1
	for i := 0; head[i]&0x80 != 0; i++ { // the size, which the content shows as well
		if used = i + 2; used >= len(head) || i > 8 {
			return 0, nil, errObject
		}
	}
	var base func() (int, []byte, error)
	switch kind {
	case packedOffDelta:
		back, n, err := offsetNumber(head[used:])
		if err != nil || back == 0 || back > uint64(offset) {
			return 0, nil, errObject
		}
		used += n
		base = func() (int, []byte, error) { return r.readPacked(ctx, f, offset-int64(back), hashSize, depth+1) }
	case packedRefDelta:
		if len(head) < used+hashSize {
			return 0, nil, errObject
		}
		hash := slices.Clone(head[used : used+hashSize])
		used += hashSize
		base = func() (int, []byte, error) { return r.packed(ctx, hash, depth+1) }
	}
	if raw, err = inflate(io.NewSectionReader(f, offset+int64(used), 1<<62), maxObject); err == nil {
		err = r.spend(int64(len(raw)))
	}
	if err != nil || base == nil {
		return kind, raw, err
	}
	kind, from, err := base()
	if err == nil {
		raw, err = applyDelta(from, raw)
	}
	if err == nil {
		err = r.spend(int64(len(raw)))
	}
	return kind, raw, err
}

// applyDelta returns the object that a delta makes of another one.
func applyDelta(from, delta []byte) ([]byte, error) {
	size := func() uint64 {
		v, n := binary.Uvarint(delta)
		if n <= 0 {
			delta = nil
			return 1 << 63
		}
		delta = delta[n:]
		return v
	}
	if size() != uint64(len(from)) {
		return nil, errObject
	}
	want := size()
	if want > maxObject {
		return nil, errObject
	}
	var out []byte
	for len(delta) > 0 {
		op := delta[0]
		delta = delta[1:]
		if op&0x80 == 0 { // insert
			if op == 0 || int(op) > len(delta) {
				return nil, errObject
			}
			out, delta = append(out, delta[:op]...), delta[op:]
			continue
		}
		var at, n int
		for bit := range 7 { // copy: each bit of op announces one byte of the offset or the size
			if op>>bit&1 == 0 {
				continue
			}
			if len(delta) == 0 {
				return nil, errObject
			}
			if bit < 4 {
				at |= int(delta[0]) << (8 * bit)
			} else {
				n |= int(delta[0]) << (8 * (bit - 4))
			}
			delta = delta[1:]
		}
		if n == 0 {
			n = 0x10000
		}
		if at > len(from) || n > len(from)-at || uint64(len(out)+n) > want {
			return nil, errObject
		}
		out = append(out, from[at:at+n]...)
	}
	if uint64(len(out)) != want {
		return nil, errObject
	}
	return out, nil
}
