package artifact

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/openfile"
)

// Limits of one fetch. Tests set others.
var (
	stallTimeout       = time.Minute // without receiving anything
	maxFetchSize int64 = 4 << 30     // bytes
)

// stalledError is the error of a fetch that received nothing for a while.
type stalledError struct{ after time.Duration }

func (e *stalledError) Error() string { return fmt.Sprintf("the server sent nothing for %s", e.after) }

// describeURL describes the content at a URL from its checksum, without fetching
// it. A tar, which only the name can tell here, has the digest of its bytes. Any
// other file has the digest of a folder with only this file, with execute
// permission, because a URL has no permissions.
func describeURL(address, sum string) (plan.Artifact, error) {
	a := plan.Artifact{Path: address, Kind: Tar}
	d, err := digest.Parse("sha256:" + sum)
	if err != nil {
		return a, &hintedError{"it has no checksum", "defx.artifact('" + address + "', sha256='…')"}
	}
	name, err := fileName(address)
	if err != nil {
		return a, err
	}
	if a.Digest = d; !claimsTar(name) {
		a.Kind, a.Content = File, &plan.Content{Files: map[string]bool{name: true}}
		a.Digest, err = digestEntries([]entry{{Name: name, Exec: true, Sum: sum}})
	}
	return a, err
}

// fileName returns the name under which the content of a URL is kept.
func fileName(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	name := path.Base(u.Path)
	if name == "." || name == "/" || !filepath.IsLocal(name) {
		return "", &hintedError{"the URL has no file name", "the last part of its path becomes the file's name"}
	}
	return name, nil
}

// streamURL returns the content of a URL, from the cache or from the server.
func (s *Source) streamURL(ctx context.Context, a plan.Artifact) (io.ReadCloser, error) {
	name, err := fileName(a.Path)
	if err != nil {
		return nil, err
	}
	s.fetching.Lock()
	defer s.fetching.Unlock()
	dir := filepath.Join(s.cache, a.Digest.Hex())
	if check(dir, name, a) != nil { // not cached, or changed in the cache
		if err := s.fetch(ctx, dir, name, a); err != nil {
			hint := "nothing was deployed from it; the checksum is what sha256sum prints for the file"
			if bad, ok := errors.AsType[*ArchiveError](err); ok {
				hint = "nothing was deployed from it; " + bad.Hint()
			}
			return nil, diag.Errorf("", "artifact %s: %v", a.Path, err).WithHint("%s", hint)
		}
	}
	if a.Kind == Tar {
		return openfile.OpenNoFollow(filepath.Join(dir, name))
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(Pack(w, fileIn(dir, name))) }()
	return r, nil
}

// fileIn returns the folder dir as if it had only the file name.
func fileIn(dir, name string) fs.FS { return singleFile{os.DirFS(dir), ".", name} }

// check returns an error unless the file name in dir has the content of a.
func check(dir, name string, a plan.Artifact) error {
	f, err := openfile.OpenNoFollow(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	sum, _, err := digest.Reader(f)
	if err != nil {
		return err
	}
	got := sum
	if a.Kind != Tar {
		if got, err = digestEntries([]entry{{Name: name, Exec: true, Sum: sum.Hex()}}); err != nil {
			return err
		}
	}
	if got != a.Digest {
		return errors.New("checksum mismatch: the content is not that of its sha256") // a digest would tell what lies on a foreign server
	}
	return nil
}

// checkFormat returns an error unless a fetched file is what its name promised: a tar that
// can be unpacked completely, or no tar.
func checkFormat(path string, a plan.Artifact) error {
	f, err := openfile.OpenNoFollow(path)
	if err != nil {
		return err
	}
	defer f.Close()
	what, format, err := recognise(path, f)
	switch {
	case err != nil:
		return err
	case a.Kind != Tar && what == archive:
		return &ArchiveError{"it is a tar, but the name in the URL does not say so", "the path of the URL must end in .tar, .tar.gz, .tar.xz or .tar.zst"}
	case a.Kind != Tar:
		return nil
	case what != archive:
		return &ArchiveError{"it is no tar, but " + cmp.Or(format, "another file"), rebuildHint}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return ReadArchive(f, func(Item, io.Reader) error { return nil })
}

// fetch adds content to the cache after all of it was received and checked.
func (s *Source) fetch(ctx context.Context, dir, name string, a plan.Artifact) error {
	if err := os.MkdirAll(s.cache, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(s.cache, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := download(ctx, a.Path, filepath.Join(tmp, name)); err != nil {
		return err
	}
	if err := check(tmp, name, a); err != nil {
		return err
	}
	if err := checkFormat(filepath.Join(tmp, name), a); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// download writes the content of a URL to a new file. It fails with a
// stalledError if the server sends nothing for stallTimeout, and with the cause of
// ctx when that ends.
func download(ctx context.Context, address, to string) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(stallTimeout, func() { cancel(&stalledError{stallTimeout}) })
	defer watchdog.Stop()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	resp, err := get(ctx, address)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	body := progressReader{resp.Body, func() { watchdog.Reset(stallTimeout) }}
	n, err := io.Copy(f, io.LimitReader(body, maxFetchSize+1))
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil && n > maxFetchSize {
		err = fmt.Errorf("it is larger than %d bytes", maxFetchSize)
	}
	return err
}

// progressReader calls progress after each read that returned data.
type progressReader struct {
	io.Reader
	progress func()
}

func (r progressReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.progress()
	}
	return n, err
}
