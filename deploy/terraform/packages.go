package terraform

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/artifact"
	"github.com/defx-dev/defx/internal/digest"
)

// Stage keeps what modules upload where they look for it. It stays there for
// going back, until Collect finds that nothing leads to it.
func (s *Runner) Stage(list []plan.Artifact, open func(plan.Artifact) (io.ReadCloser, error)) error {
	for _, a := range list {
		if err := s.stage(a, open); err != nil {
			return err
		}
	}
	return nil
}

func (s *Runner) stage(a plan.Artifact, open func(plan.Artifact) (io.ReadCloser, error)) error {
	dir := filepath.Join(s.Dir, ec2.PackageDir)
	path := filepath.Join(dir, a.Digest.Hex()+packageSuffix)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	in, err := open(a)
	if err != nil {
		return err
	}
	defer in.Close()
	f, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it is gone if all went well
	defer f.Close()
	r := io.TeeReader(in, f)
	got, err := artifact.DigestStream(a.Kind, r)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if err == nil && got != a.Digest {
		err = fmt.Errorf("what is there now has digest %s, not %s\n    hint: build it as it was, or apply from where that was", got.Brief(), a.Digest.Brief())
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("artifact %s: %w", a.Path, err)
	}
	return os.Rename(f.Name(), path)
}

// packageSuffix is the end of the name of what is staged, partial the beginning of what is on its way.
const (
	packageSuffix = ".tar"
	tempPrefix    = ".tmp-"
)

// Collect removes what nothing leads to of what was staged, and tells how many
// bytes and which it was; with dry it only tells.
func (s *Runner) Collect(live map[digest.Digest]bool, dry bool) (freed uint64, gone []string, err error) {
	dir := filepath.Join(s.Dir, ec2.PackageDir)
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, err
	}
	for _, n := range names {
		info, err := n.Info()
		d, bad := digest.Parse("sha256:" + strings.TrimSuffix(n.Name(), packageSuffix))
		torn := strings.HasPrefix(n.Name(), tempPrefix) && err == nil && time.Since(info.ModTime()) > time.Hour // by a death in the middle
		if err != nil || !torn && (bad != nil || live[d]) {
			continue
		}
		path := filepath.Join(dir, n.Name())
		if !dry {
			if err := os.Remove(path); err != nil {
				return freed, gone, err
			}
		}
		freed += uint64(info.Size())
		gone = append(gone, path)
	}
	return freed, gone, nil
}
