package artifact

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
)

// Bounds of one fetch. Tests set others.
var (
	fetchTime       = 15 * time.Minute
	fetchSize int64 = 4 << 30 // bytes
)

// remote describes what lies at an address without asking it: a tar has the
// digest of its bytes, and any other file that of a folder with this file alone,
// which may be executed, for an address tells nothing of rights.
func remote(address, sum string) (plan.Artifact, error) {
	a := plan.Artifact{Path: address, Kind: Tar}
	d, err := digest.Parse("sha256:" + sum)
	if err != nil {
		return a, &problem{"it has no sum", "defx.artifact('" + address + "', sha256='…')"}
	}
	name, err := fileName(address)
	if err != nil {
		return a, err
	}
	if a.Digest = d; !isTar(name) {
		a.Kind = File
		a.Digest, err = ofEntries([]entry{{Name: name, Exec: true, Sum: sum}})
	}
	return a, err
}

// fileName is the name under which the content of an address is kept.
func fileName(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	name := path.Base(u.Path)
	if name == "." || name == "/" || !filepath.IsLocal(name) {
		return "", &problem{"the address names no file", "the last part of its path becomes the file's name"}
	}
	return name, nil
}

// fetched gives the content of an address, from the folder of what was fetched or from there.
func (s *Source) fetched(a plan.Artifact) (io.ReadCloser, error) {
	name, err := fileName(a.Path)
	if err != nil {
		return nil, err
	}
	s.fetching.Lock()
	defer s.fetching.Unlock()
	dir := filepath.Join(s.cache, a.Digest.Hex())
	if check(dir, name, a) != nil { // not there, or somebody changed it
		if err := s.fetch(dir, name, a); err != nil {
			return nil, diag.Errorf("", "artifact %s: %v", a.Path, err).WithHint("nothing was deployed of it; the sum is what sha256sum prints of the file")
		}
	}
	if a.Kind == Tar {
		return os.Open(filepath.Join(dir, name))
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(Pack(w, alone(dir, name))) }()
	return r, nil
}

func alone(dir, name string) fs.FS { return single{os.DirFS(dir), ".", name} }

// check compares what was fetched with what is wanted.
func check(dir, name string, a plan.Artifact) error {
	var got digest.Digest
	var sum digest.Digest
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	if sum, _, err = digest.Reader(f); err != nil {
		return err
	}
	if got = sum; a.Kind != Tar {
		if got, err = ofEntries([]entry{{Name: name, Exec: true, Sum: sum.Hex()}}); err != nil {
			return err
		}
	}
	if got != a.Digest {
		return fmt.Errorf("what lies there has another sum: sha256 %s", sum.Hex())
	}
	return nil
}

// fetch puts content into the cache, when all of it is there and has its sum.
func (s *Source) fetch(dir, name string, a plan.Artifact) error {
	if err := os.MkdirAll(s.cache, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(s.cache, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := download(a.Path, filepath.Join(tmp, name)); err != nil {
		return err
	}
	if err := check(tmp, name, a); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

func download(address, to string) error {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "defx")
	// A tar that is sent compressed must arrive as it lies there.
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server says %s", resp.Status)
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(resp.Body, fetchSize+1))
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil && n > fetchSize {
		err = fmt.Errorf("it has more than %d bytes", fetchSize)
	}
	return err
}
