package revision

import (
	"bytes"
	"encoding/binary"
	"errors"
	"time"
)

// maxIndex is the largest index that is read, in bytes.
const maxIndex = 256 << 20

// Types of tracked files, as in the modes of git.
const (
	modeFolder = 0o040000
	modeFile   = 0o100000
	modeLink   = 0o120000
	modeModule = 0o160000 // another repository
)

// entry is a tracked file.
type entry struct {
	path         string
	mode         uint32
	size         uint32
	ctime, mtime time.Time
	hash         []byte
	unmerged     bool
	planned      bool // added without its content
	ignored      bool // the user said that the file in the folder does not count
}

// kind returns the type of the file.
func (e *entry) kind() uint32 { return e.mode & 0o170000 }

var errIndex = errors.New("the index cannot be read")

// parseIndex returns the entries of an index, in their order. hashSize is the length of hashes in
// bytes.
func parseIndex(raw []byte, hashSize int) ([]entry, error) {
	if len(raw) < 12+hashSize || string(raw[:4]) != "DIRC" {
		return nil, errIndex
	}
	version, count := binary.BigEndian.Uint32(raw[4:]), binary.BigEndian.Uint32(raw[8:])
	if version < 2 || version > 4 {
		return nil, errIndex
	}
	rest := raw[12 : len(raw)-hashSize]
	var out []entry
	previous := ""
	for range count {
		fixed := 40 + hashSize + 2
		if len(rest) < fixed {
			return nil, errIndex
		}
		number := func(at int) uint32 { return binary.BigEndian.Uint32(rest[at:]) }
		e := entry{ctime: time.Unix(int64(number(0)), int64(number(4))), mtime: time.Unix(int64(number(8)), int64(number(12))),
			mode: number(24), size: number(36), hash: rest[40 : 40+hashSize]}
		flags := binary.BigEndian.Uint16(rest[40+hashSize:])
		e.ignored, e.unmerged = flags&0x8000 != 0, flags&0x3000 != 0
		if flags&0x4000 != 0 { // extended
			if version < 3 || len(rest) < fixed+2 {
				return nil, errIndex
			}
			more := binary.BigEndian.Uint16(rest[fixed:])
			e.ignored, e.planned = e.ignored || more&0x4000 != 0, more&0x2000 != 0
			fixed += 2
		}
		name := rest[fixed:]
		if version == 4 {
			drop, n, err := offsetNumber(name)
			if err != nil || drop > uint64(len(previous)) {
				return nil, errIndex
			}
			name = name[n:]
			end := bytes.IndexByte(name, 0)
			if end < 0 {
				return nil, errIndex
			}
			e.path = previous[:len(previous)-int(drop)] + string(name[:end])
			rest = name[end+1:]
		} else {
			end := bytes.IndexByte(name, 0)
			if end < 0 {
				return nil, errIndex
			}
			e.path = string(name[:end])
			length := (fixed + end + 8) &^ 7
			if len(rest) < length {
				return nil, errIndex
			}
			rest = rest[length:]
		}
		previous = e.path
		out = append(out, e)
	}
	for len(rest) >= 8 { // extensions; a small letter begins the name of one that may not be ignored
		name, size := string(rest[:4]), binary.BigEndian.Uint32(rest[4:])
		if name[0] >= 'a' && name != "sdir" || uint64(size) > uint64(len(rest)-8) {
			return nil, errIndex
		}
		rest = rest[8+size:]
	}
	return out, nil
}

// offsetNumber reads a number as in offsets of packs: seven bits in each byte, the highest first,
// each further byte adding one. It returns how many bytes the number has.
func offsetNumber(raw []byte) (value uint64, n int, err error) {
	for i, b := range raw {
		if i > 8 {
			break
		}
		if i > 0 {
			value++
		}
		value = value<<7 | uint64(b&0x7f)
		if b < 0x80 {
			return value, i + 1, nil
		}
	}
	return 0, 0, errIndex
}
