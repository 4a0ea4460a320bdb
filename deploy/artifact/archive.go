package artifact

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Limits of one artifact. They keep a damaged or hostile archive from filling the disk.
// Tests set others.
var (
	maxEntries        = 500_000
	maxUnpacked int64 = 16 << 30 // bytes of all files together
	ratioFrom   int64 = 1 << 30  // from this unpacked size on, maxRatio holds
	maxRatio    int64 = 200      // unpacked bytes for each packed byte
)

// maxWindow is the largest window, in bytes, that a compressed archive may need to be unpacked.
const maxWindow = 256 << 20

// ItemKind is what an Item is.
type ItemKind int

// Kinds of items.
const (
	Folder ItemKind = iota
	Regular
	Symlink
	HardLink // the same file as an earlier item
)

// Item is one entry of an archive. Only what is listed here is unpacked: permissions
// other than Exec, owners and times of the archive have no effect.
type Item struct {
	Name   string // relative, clean, with slashes
	Kind   ItemKind
	Exec   bool   // of a regular file: somebody may execute it
	Size   int64  // of a regular file, in bytes
	Target string // of a link; of a hard link the name of another item
}

// ArchiveError is the error of an archive that cannot be unpacked completely.
type ArchiveError struct{ msg, hint string }

func (e *ArchiveError) Error() string { return e.msg }

// Hint returns what to do about the error.
func (e *ArchiveError) Hint() string { return e.hint }

const (
	rebuildHint = "build the archive again"
	repackHint  = "pack the files as .tar, .tar.gz, .tar.xz or .tar.zst, or name their folder"
)

// ReadArchive reads a tar, plain or compressed with gzip, xz or zstd, and calls visit for
// each item; visit may read the content of a regular file from r. It recognises the
// compression by the content. The error is an *ArchiveError if the archive is damaged,
// incomplete or empty, has a name twice, has names that lead outside of it, or exceeds the
// limits of this package.
func ReadArchive(in io.Reader, visit func(item Item, r io.Reader) error) error {
	packed := &countingReader{r: in}
	head := bufio.NewReaderSize(packed, 64<<10)
	format := sniff(head)
	if format.refused {
		return &ArchiveError{"it is " + format.title + ", which defx does not unpack", repackHint}
	}
	r, closer, err := format.open(head)
	if err != nil {
		return damaged(err)
	}
	defer closer()
	c := &itemChecker{seen: map[string]ItemKind{}}
	// tar.Reader must not see a Seeker: the check of the end counts what it reads.
	raw := &countingReader{r: &ratioReader{r: r, packed: packed}}
	t := tar.NewReader(raw)
	for {
		before := raw.n
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			if err := c.end(raw, before); err != nil {
				return err
			}
			// The reader of xz does not notice that the end of a stream is missing.
			if format.end != "" && !bytes.HasSuffix(bytes.TrimRight(packed.last[:], "\x00"), []byte(format.end)) {
				return damaged(io.ErrUnexpectedEOF)
			}
			return nil
		}
		if err != nil {
			return damaged(err)
		}
		item, skip, err := itemOf(h)
		if err == nil && !skip {
			err = c.check(item)
		}
		if err != nil {
			return err
		}
		if skip {
			continue
		}
		if err := visit(item, &contentReader{t}); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, t); err != nil {
			return damaged(err)
		}
	}
}

// end checks that the archive ended where its packer ended it. t.Next has read at least one
// block of zeros since the offset before, and after that there is nothing but zeros.
func (c *itemChecker) end(raw *countingReader, before int64) error {
	if raw.n == 0 || raw.n-before >= int64(len(raw.last)) && raw.last == [512]byte{} && len(c.seen) == 0 {
		return &ArchiveError{"the archive is empty", rebuildHint}
	}
	if raw.n-before < int64(len(raw.last)) || raw.last != [512]byte{} {
		return damaged(io.ErrUnexpectedEOF)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := raw.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return &ArchiveError{"the archive has data after its end", "if it was made by joining archives, unpack them and pack one archive"}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return damaged(err)
		}
	}
}

// damaged returns the error of an archive that cannot be read to its end.
func damaged(err error) error {
	if known, ok := errors.AsType[*ArchiveError](err); ok {
		return known
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return &ArchiveError{"the archive is truncated", rebuildHint}
	}
	return &ArchiveError{fmt.Sprintf("the archive is damaged: %v", err), rebuildHint}
}

// contentReader reads the content of one item; a truncated archive gives an ArchiveError.
type contentReader struct{ t *tar.Reader }

func (c *contentReader) Read(p []byte) (int, error) {
	n, err := c.t.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = damaged(err)
	}
	return n, err
}

// countingReader counts bytes and keeps the last 512 of them.
type countingReader struct {
	r    io.Reader
	n    int64
	last [512]byte
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if n >= len(c.last) {
		copy(c.last[:], p[n-len(c.last):n])
	} else {
		copy(c.last[:], c.last[n:])
		copy(c.last[len(c.last)-n:], p[:n])
	}
	return n, err
}

// ratioReader fails when far more was unpacked than was packed.
type ratioReader struct {
	r      io.Reader
	packed *countingReader
	n      int64
}

func (r *ratioReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if r.n += int64(n); r.n > ratioFrom && r.n/maxRatio > r.packed.n {
		return n, &ArchiveError{fmt.Sprintf("the archive unpacks to more than %d times its size", maxRatio), repackHint}
	}
	return n, err
}

// itemOf converts a tar header. skip reports that it is not an item.
func itemOf(h *tar.Header) (item Item, skip bool, err error) {
	item = Item{Name: path.Clean(h.Name), Size: h.Size}
	switch h.Typeflag {
	case tar.TypeDir:
		item.Kind, item.Size = Folder, 0
		skip = item.Name == "."
	case tar.TypeReg, '\x00', '7': // '7' is a contiguous file
		item.Kind, item.Exec = Regular, h.Mode&0o111 != 0
		if strings.HasSuffix(h.Name, "/") { // as very old archives name folders
			item.Kind, item.Exec, skip = Folder, false, item.Name == "."
		}
	case tar.TypeSymlink:
		item.Kind, item.Target, item.Size = Symlink, h.Linkname, 0
	case tar.TypeLink:
		item.Kind, item.Target, item.Size = HardLink, path.Clean(h.Linkname), 0
	case tar.TypeXGlobalHeader:
		skip = true
	default:
		err = &ArchiveError{fmt.Sprintf("%q is neither a file, a folder nor a link", h.Name), "leave it out"}
	}
	return item, skip, err
}

// itemChecker checks items against each other and against the limits.
type itemChecker struct {
	seen map[string]ItemKind
	size int64
}

func (c *itemChecker) check(item Item) error {
	if err := checkName(item); err != nil {
		return err
	}
	if was, seen := c.seen[item.Name]; seen && (was != Folder || item.Kind != Folder) {
		return &ArchiveError{fmt.Sprintf("%q is in it twice", item.Name), "pack each file once"}
	}
	for dir := path.Dir(item.Name); dir != "."; dir = path.Dir(dir) {
		was, seen := c.seen[dir]
		if seen && was == Folder {
			break
		}
		if seen {
			return &ArchiveError{fmt.Sprintf("%q is below %q, which is not a folder", item.Name, dir), "pack each file once, under its own folder"}
		}
		c.seen[dir] = Folder
	}
	if item.Kind == HardLink {
		if was, seen := c.seen[item.Target]; !seen || was != Regular && was != HardLink {
			return &ArchiveError{fmt.Sprintf("%q is a link to %q, which is not a file before it in the archive", item.Name, item.Target), rebuildHint}
		}
	}
	c.seen[item.Name] = item.Kind
	if len(c.seen) > maxEntries {
		return &ArchiveError{fmt.Sprintf("it has more than %d entries", maxEntries), "leave out what the service does not need"}
	}
	if c.size += item.Size; c.size > maxUnpacked || item.Size < 0 {
		return &ArchiveError{fmt.Sprintf("it has more than %d GiB", maxUnpacked>>30), "leave out what the service does not need"}
	}
	return nil
}

// checkName refuses names that no machine can unpack as they are.
func checkName(item Item) error {
	for _, name := range []string{item.Name, item.Target} {
		switch {
		case !utf8.ValidString(name):
			return &ArchiveError{fmt.Sprintf("the name %q is not valid UTF-8", name), "rename the file"}
		case strings.ContainsAny(name, "\x00\n"):
			return &ArchiveError{fmt.Sprintf("the name %q has a line break or a null byte", name), "rename the file"}
		case len(name) > 4000:
			return &ArchiveError{fmt.Sprintf("the name %q… is too long", name[:60]), "use shorter names"}
		}
	}
	if !filepath.IsLocal(item.Name) || item.Name == "." {
		return &ArchiveError{fmt.Sprintf("%q is outside of the archive's own folder", item.Name), "pack the files with relative names: tar -C DIR -czf FILE ."}
	}
	for part := range strings.SplitSeq(item.Name, "/") {
		if len(part) > 255 {
			return &ArchiveError{fmt.Sprintf("the name %q… is longer than 255 bytes", part[:60]), "use shorter names"}
		}
	}
	if item.Kind == Symlink && item.Target == "" {
		return &ArchiveError{fmt.Sprintf("%q is a link without a target", item.Name), rebuildHint}
	}
	return nil
}

// format is a file format, recognised by its first bytes.
type format struct {
	title   string // for people; "" means none that is known
	magic   string // "?" stands for any byte
	end     string // the last bytes, before zeros
	refused bool   // not unpacked
	weak    bool   // the magic is too short to be a proof without a name that fits
	open    func(io.Reader) (r io.Reader, closer func(), err error)
}

func plain(r io.Reader) (io.Reader, func(), error) { return r, func() {}, nil }

var formats = []format{
	{title: "compressed with gzip", magic: "\x1f\x8b", open: func(r io.Reader) (io.Reader, func(), error) {
		z, err := gzip.NewReader(r)
		return z, func() {}, err
	}},
	{title: "compressed with xz", magic: "\xfd7zXZ\x00", end: "YZ", open: openXZ},
	{title: "compressed with zstd", magic: "\x28\xb5\x2f\xfd", open: func(r io.Reader) (io.Reader, func(), error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, func() {}, err
		}
		return z, z.Close, nil
	}},
	{title: "compressed with bzip2", magic: "BZh?1AY&SY", refused: true},
	{title: "compressed with bzip2", magic: "BZh?\x17\x72\x45\x38\x50\x90", refused: true}, // of nothing
	{title: "compressed with lz4", magic: "\x04\x22\x4d\x18", refused: true},
	{title: "compressed with lzip", magic: "LZIP\x01", refused: true},
	{title: "compressed with lzop", magic: "\x89LZO\x00", refused: true},
	{title: "compressed with compress", magic: "\x1f\x9d", refused: true, weak: true},
	{title: "compressed with lzma", magic: "\x5d\x00\x00", refused: true, weak: true},
	{title: "a zip archive", magic: "PK\x03\x04", refused: true},
	{title: "an empty zip archive", magic: "PK\x05\x06", refused: true},
	{title: "a 7z archive", magic: "7z\xbc\xaf\x27\x1c", refused: true},
	{title: "a rar archive", magic: "Rar!\x1a\x07", refused: true},
}

// sniff returns the format of what r has, without reading from it.
func sniff(r *bufio.Reader) format {
	for _, f := range formats {
		head, _ := r.Peek(len(f.magic))
		same := len(head) == len(f.magic)
		for i := range head {
			same = same && (head[i] == f.magic[i] || f.magic[i] == '?')
		}
		if same {
			return f
		}
	}
	return format{open: plain}
}

// openXZ opens an xz stream. It refuses one whose dictionary is larger than maxWindow,
// because the reader allocates the dictionary at once.
func openXZ(r io.Reader) (io.Reader, func(), error) {
	b := bufio.NewReader(r)
	// The stream header has 12 bytes. The block header: size, flags, optional sizes, then
	// for each filter its id, the size of its properties, and these.
	if head, _ := b.Peek(12 + 1024); len(head) > 14 {
		block := head[12:]
		if block = block[:min(len(block), 4*(int(block[0])+1))]; len(block) > 2 {
			if i := bytes.Index(block[2:], []byte{0x21, 1}); i >= 0 && i+4 < len(block) {
				if code := block[i+4] & 0x3f; int64(2|code&1)<<(code/2+11) > maxWindow {
					return nil, func() {}, &ArchiveError{fmt.Sprintf("the archive needs more than %d MiB of memory to be unpacked", maxWindow>>20), "compress it with a lower level, as in xz -9"}
				}
			}
		}
	}
	z, err := xz.NewReader(b)
	return z, func() {}, err
}

// tarNameRE matches the names of files that claim to be tars.
var tarNameRE = regexp.MustCompile(`(?i)\.(tar|tar\.(gz|xz|zst|zstd|bz2|lz4|lz|lzo|lzma|z|br)|tgz|taz|txz|tzst|tbz2?|tlz|tz2)$`)

// claimsTar reports whether a file's name says that it is a tar.
func claimsTar(name string) bool { return tarNameRE.MatchString(name) }

// content is what the first bytes of a file show.
type content int

const (
	plainFile content = iota // unpacked by nobody
	archive                  // a tar, plain or compressed: ReadArchive reads it
	otherArchive
)

// recognise returns what a file is by its content and, for an archive that is not unpacked,
// which. A file that claims to be a tar by its name and is none gives an *ArchiveError.
func recognise(name string, r io.Reader) (content, string, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	if _, err := b.Peek(1); errors.Is(err, io.EOF) {
		if claimsTar(name) {
			return plainFile, "", &ArchiveError{"the archive is empty: it has 0 bytes", rebuildHint}
		}
		return plainFile, "empty", nil
	}
	f := sniff(b)
	if f.refused {
		if f.weak && !claimsTar(name) && !weakNameRE.MatchString(name) {
			return plainFile, "", nil
		}
		if claimsTar(name) {
			return otherArchive, f.title, &ArchiveError{"it is " + f.title + ", which defx does not unpack", repackHint}
		}
		return otherArchive, f.title, nil
	}
	var block []byte
	in, closer, err := f.open(b)
	if err == nil {
		defer closer()
		block, err = io.ReadAll(io.LimitReader(in, 512))
		if len(block) == 512 && isHeader(block) {
			return archive, "", nil
		}
		if claimsTar(name) && err == nil && len(bytes.Trim(block, "\x00")) == 0 {
			return archive, "", nil // without entries, which ReadArchive reports
		}
	}
	switch {
	case !claimsTar(name):
		return plainFile, f.title, nil
	case err != nil:
		return plainFile, "", damaged(err)
	}
	return plainFile, "", &ArchiveError{"its name says that it is a tar, but its content is none", "rename it, or build the archive again"}
}

// weakNameRE matches the names of files in formats whose magic is weak.
var weakNameRE = regexp.MustCompile(`(?i)\.(lzma|z)$`)

// isHeader reports whether a block is the header of a tar entry: its checksum is right.
func isHeader(block []byte) bool {
	field := strings.Trim(string(block[148:156]), " \x00")
	want, err := strconv.ParseInt(field, 8, 64)
	if err != nil || field == "" {
		return false
	}
	var unsigned, signed int64
	for i, c := range block {
		if i >= 148 && i < 156 {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return want == unsigned || want == signed
}
