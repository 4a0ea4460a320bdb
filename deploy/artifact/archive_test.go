package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/token"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// member is one entry of a tar.
type member struct {
	head    tar.Header
	content string
}

func tarFile(name string, mode int64, content string) member {
	return member{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(content))}, content}
}

func tarDir(name string) member {
	return member{head: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}

func tarLink(kind byte, name, target string) member {
	return member{head: tar.Header{Name: name, Typeflag: kind, Linkname: target}}
}

// tarOf returns a tar of the members.
func tarOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, m := range members {
		if err := w.WriteHeader(&m.head); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// compressed returns raw in a compression format; "" leaves it as it is.
func compressed(t testing.TB, format string, raw []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch format {
	case "":
		return raw
	case "gzip":
		w = gzip.NewWriter(&out)
	case "xz":
		w, err = xz.NewWriter(&out)
	case "zstd":
		w, err = zstd.NewWriter(&out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var compressions = []string{"", "gzip", "xz", "zstd"}

// write writes a file below dir, whatever the umask is.
func write(t testing.TB, dir, name string, raw []byte, mode fs.FileMode) {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(p, mode); err != nil {
		t.Fatal(err)
	}
}

// describe returns the description of a path below dir.
func describe(dir, name string) (plan.Artifact, error) {
	return NewSource(dir, nil, filepath.Join(dir, ".cache")).Describe(token.Token{Kind: token.Artifact, Name: name})
}

func TestDigest_CoversWhatIsUnpacked(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "app/bin/web", []byte("#!/bin/sh\n"), 0o755)
	write(t, dir, "app/conf/a", []byte("a"), 0o640)
	if err := os.Link(filepath.Join(dir, "app/conf/a"), filepath.Join(dir, "app/conf/b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../conf", filepath.Join(dir, "app/bin/conf")); err != nil {
		t.Fatal(err)
	}
	folder, err := describe(dir, "app")
	if err != nil {
		t.Fatal(err)
	}
	old := time.Unix(1, 0)
	variants := map[string][]member{
		"in order": {tarDir("bin/"), tarLink(tar.TypeSymlink, "bin/conf", "../conf"), tarFile("bin/web", 0o755, "#!/bin/sh\n"), tarDir("conf"), tarFile("conf/a", 0o644, "a"), tarFile("conf/b", 0o644, "a")},
		"another order, no folders, a dot before": {tarFile("./conf/b", 0o600, "a"), tarFile("./conf/a", 0o400, "a"), tarFile("./bin/web", 0o100, "#!/bin/sh\n"), tarLink(tar.TypeSymlink, "./bin/conf", "../conf")},
		"a hard link, owners and times": {tarDir("./"), tarFile("conf/a", 0o444, "a"), tarLink(tar.TypeLink, "conf/b", "conf/a"),
			{tar.Header{Name: "bin/web", Typeflag: tar.TypeReg, Mode: 0o4711, Size: 10, Uid: 7, Uname: "x", ModTime: old}, "#!/bin/sh\n"}, tarLink(tar.TypeSymlink, "bin/conf", "../conf"), tarDir("bin"), tarDir("bin")},
	}
	for title, members := range variants {
		for _, c := range compressions {
			for _, name := range []string{"app.tar", "App.TAR.GZ", "app.bin", "x.txz", "y.TZST"} { // the content decides
				write(t, dir, name, compressed(t, c, tarOf(t, members...)), 0o644)
				a, err := describe(dir, name)
				if err != nil || a.Digest != folder.Digest || a.Kind != folder.Kind {
					t.Errorf("%s, %s, as %s: %s %s %v, want %s %s", title, c, name, a.Kind, a.Digest, err, folder.Kind, folder.Digest)
				}
				// What is sent has the digest that was planned.
				in, err := NewSource(dir, nil, "").Stream(t.Context(), a)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := DigestStream(a.Kind, in); err != nil || got != a.Digest {
					t.Errorf("%s, %s: sent %s %v", title, c, got, err)
				}
				in.Close()
			}
		}
	}
	// Each change of what is unpacked is another digest.
	base := variants["in order"]
	for what, change := range map[string]member{
		"mode":    tarFile("bin/web", 0o644, "#!/bin/sh\n"),
		"content": tarFile("bin/web", 0o755, "#!/bin/sh"),
		"name":    tarFile("bin/Web", 0o755, "#!/bin/sh\n"),
		"link":    tarLink(tar.TypeSymlink, "bin/web", "x"),
	} {
		members := append([]member{change}, append(append([]member{}, base[:2]...), base[3:]...)...)
		write(t, dir, "other.tar", tarOf(t, members...), 0o644)
		if a, err := describe(dir, "other.tar"); err != nil || a.Digest == folder.Digest {
			t.Errorf("%s: %v, the digest does not change", what, err)
		}
	}
}

func TestArchive_RefusesWhatIsNotWhole(t *testing.T) {
	dir := t.TempDir()
	good := tarOf(t, tarFile("a", 0o644, strings.Repeat("a", 1024)), tarFile("b", 0o644, strings.Repeat("\x00", 2048)), tarFile("c", 0o755, "c"))
	for _, c := range compressions {
		raw := compressed(t, c, good)
		step := max(len(raw)/200, 1)
		for n := 0; n < len(raw); n += step {
			if c == "" && n >= len(good)-512 {
				continue // all is there, and one of two blocks that end it
			}
			write(t, dir, "app.tar", raw[:n], 0o644)
			_, err := describe(dir, "app.tar")
			if _, ok := errors.AsType[*ArchiveError](err); !ok {
				t.Fatalf("%q cut at %d of %d: %v", c, n, len(raw), err)
			}
		}
	}
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"empty file":             {nil, "empty"},
		"no entries":             {tarOf(t), "empty"},
		"only its own folder":    {tarOf(t, tarDir("./")), "empty"},
		"no entries, compressed": {compressed(t, "zstd", tarOf(t)), "empty"},
		"nothing, compressed":    {compressed(t, "xz", nil), "empty"},
		"text":                   {[]byte(strings.Repeat("text ", 500)), "content is none"},
		"compressed text":        {compressed(t, "gzip", []byte(strings.Repeat("text ", 500))), "content is none"},
		"damaged":                {append(append([]byte{}, good[:1536]...), bytes.Repeat([]byte("x"), 1024)...), "damaged"},
		"twice":                  {tarOf(t, tarFile("a", 0o644, "1"), tarFile("./a", 0o644, "2")), `"a" is in it twice`},
		"file and folder":        {tarOf(t, tarFile("a", 0o644, "1"), tarDir("a/")), "twice"},
		"below a file":           {tarOf(t, tarFile("a", 0o644, "1"), tarFile("a/b", 0o644, "2")), "not a folder"},
		"through a link":         {tarOf(t, tarLink(tar.TypeSymlink, "a", "/etc"), tarFile("a/b", 0o644, "2")), "not a folder"},
		"outside":                {tarOf(t, tarFile("../a", 0o644, "1")), "outside"},
		"absolute":               {tarOf(t, tarFile("/etc/a", 0o644, "1")), "outside"},
		"device":                 {tarOf(t, member{head: tar.Header{Name: "null", Typeflag: tar.TypeChar}}), "neither a file"},
		"pipe":                   {tarOf(t, member{head: tar.Header{Name: "p", Typeflag: tar.TypeFifo}}), "neither a file"},
		"link to nothing":        {tarOf(t, tarLink(tar.TypeLink, "a", "b")), "not a file before it"},
		"two archives":           {append(append([]byte{}, good...), good...), "after its end"},
		"not UTF-8":              {tarOf(t, member{tar.Header{Name: "caf\xe9", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1, Format: tar.FormatGNU}, "1"}), "UTF-8"},
		"bzip2":                  {[]byte("BZh91AY&SYxxxxxxxxxx"), "compressed with bzip2"},
		"zip":                    {[]byte("PK\x03\x04xxxxxxxxxx"), "a zip archive"},
		"7z":                     {[]byte("7z\xbc\xaf\x27\x1cxxxxxxxx"), "a 7z archive"},
	} {
		for _, file := range []string{"app.tar", "APP.Tar.Gz"} {
			write(t, dir, file, c.raw, 0o644)
			_, err := describe(dir, file)
			bad, ok := errors.AsType[*ArchiveError](err)
			if !ok || !strings.Contains(bad.Error(), c.want) || bad.Hint() == "" {
				t.Errorf("%s as %s: %v, want %s", name, file, err, c.want)
			}
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "none"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := describe(dir, "none"); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty folder: %v", err)
	}
}

func TestArchive_Limits(t *testing.T) {
	defer func(e int, u, f, r int64) { maxEntries, maxUnpacked, ratioFrom, maxRatio = e, u, f, r }(maxEntries, maxUnpacked, ratioFrom, maxRatio)
	maxEntries, maxUnpacked, ratioFrom, maxRatio = 20, 4<<20, 1<<20, 50
	dir := t.TempDir()
	var many []member
	for i := range 21 {
		many = append(many, tarFile(fmt.Sprint(i), 0o644, ""))
	}
	zeros := strings.Repeat("\x00", 3<<20)
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"entries":         {tarOf(t, many...), "more than 20 entries"},
		"implied folders": {tarOf(t, tarFile(strings.Repeat("d/", 21)+"x", 0o644, "")), "more than 20 entries"},
		"size":            {tarOf(t, tarFile("a", 0o644, zeros), tarFile("b", 0o644, zeros)), "more than"},
		"ratio":           {compressed(t, "gzip", tarOf(t, tarFile("a", 0o644, zeros))), "times its size"},
		"ratio of xz":     {compressed(t, "xz", tarOf(t, tarFile("a", 0o644, zeros))), "times its size"},
		"ratio of zstd":   {compressed(t, "zstd", tarOf(t, tarFile("a", 0o644, zeros))), "times its size"},
	} {
		write(t, dir, "app.tar", c.raw, 0o644)
		if _, err := describe(dir, "app.tar"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	write(t, dir, "app.tar", tarOf(t, tarFile("a", 0o644, zeros)), 0o644)
	if _, err := describe(dir, "app.tar"); err != nil {
		t.Errorf("a plain tar within the limits: %v", err)
	}
}

func TestDescribe_OtherFilesStayFiles(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		raw    []byte
		format string
	}{
		"words.txt.gz":   {compressed(t, "gzip", []byte(strings.Repeat("text ", 500))), "compressed with gzip"},
		"kernel.zst":     {compressed(t, "zstd", []byte("kernel")), "compressed with zstd"},
		"app.jar":        {[]byte("PK\x03\x04xxxxxxxx"), "a zip archive"},
		"data.bz2":       {[]byte("BZh91AY&SYxxxxxxxxxx"), "compressed with bzip2"},
		"BZh.txt":        {[]byte("BZh is not a format"), ""},
		"]":              {[]byte("]\x00\x00 is not lzma"), ""},
		"app.tar.sha256": {[]byte("0000  app.tar"), ""},
		"script":         {[]byte("#!/bin/sh\n"), ""},
		"nothing":        {nil, "empty"},
		"zeros.img":      {make([]byte, 10240), ""},
	} {
		write(t, dir, name, c.raw, 0o755)
		a, err := describe(dir, name)
		if err != nil || a.Kind != File || a.Content.Format != c.format || !a.Content.Files[name] {
			t.Errorf("%s: %s %+v %v, want a file of format %q", name, a.Kind, a.Content, err, c.format)
		}
	}
}

func TestDescribe_LeavesOutStateAndVersionControl(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "web", []byte("#!/bin/sh\n"), 0o755)
	write(t, dir, "sub/page.html", []byte("page"), 0o644)
	whole := func() *Source {
		s := NewSource(dir, nil, filepath.Join(dir, ".defx/.cache"))
		s.Exclude(filepath.Join(dir, "elsewhere/state"), filepath.Join(dir, "box"))
		return s
	}
	before, err := whole().Describe(token.Token{Kind: token.Artifact, Name: "."})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{".git/HEAD", ".hg/x", ".svn/x", ".jj/x", ".defx/tiny/dev/head.json", "sub/.git", "sub/.defx/x", "elsewhere/state/tiny/head.json",
		"box/etc/systemd/system/x", "other/box/var/lib/defx/journal", "other/box/etc/x"} {
		write(t, dir, p, []byte(p), 0o644)
	}
	after, err := whole().Describe(token.Token{Kind: token.Artifact, Name: "."})
	if err != nil {
		t.Fatal(err)
	}
	for p := range after.Content.Files {
		if _, had := before.Content.Files[p]; !had {
			t.Errorf("%s is part of the artifact", p)
		}
	}
	in, err := whole().Stream(t.Context(), after)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if got, err := DigestStream(after.Kind, in); err != nil || got != after.Digest {
		t.Errorf("sent %s %v, planned %s", got, err, after.Digest)
	}
	// What is named itself is never left out.
	if a, err := whole().Describe(token.Token{Kind: token.Artifact, Name: "box/etc"}); err != nil || len(a.Content.Files) != 1 {
		t.Errorf("%+v %v", a.Content, err)
	}
}

func TestFingerprint_ChangesWithTheContent(t *testing.T) {
	dir := t.TempDir()
	seen := map[string]bool{}
	for _, raw := range [][]byte{tarOf(t, tarFile("a", 0o644, "1")), tarOf(t, tarFile("a", 0o644, "2")), []byte("x")} {
		for _, mode := range []fs.FileMode{0o644, 0o755} {
			write(t, dir, "app", raw, mode)
			d, err := NewSource(dir, nil, "").Fingerprint("app")
			if err != nil || seen[d.Hex()] {
				t.Errorf("%s %v: not another fingerprint", d, err)
			}
			seen[d.Hex()] = true
		}
	}
}

func FuzzReadArchive(f *testing.F) {
	good := tarOf(f, tarDir("d"), tarFile("d/a", 0o755, "a"), tarLink(tar.TypeSymlink, "l", "d"), tarLink(tar.TypeLink, "h", "d/a"))
	for _, c := range compressions {
		f.Add(compressed(f, c, good))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		l := &list{}
		if err := ReadArchive(bytes.NewReader(raw), l.add); err != nil {
			return
		}
		want, err := l.digest()
		if err != nil {
			t.Fatal(err)
		}
		// What can be read can be sent, and arrives as the same content.
		var packed bytes.Buffer
		if err := Repack(&packed, bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
		if got, err := DigestStream(Tree, &packed); err != nil || got != want {
			t.Fatalf("%s %v, want %s", got, err, want)
		}
	})
}
