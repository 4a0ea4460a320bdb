package terraform

import (
	"context"
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

// Stage copies the artifacts that modules upload to the directory from which
// Terraform reads them. They stay there for rollbacks until Collect removes them.
func (r *Runner) Stage(ctx context.Context, list []plan.Artifact, open func(context.Context, plan.Artifact) (io.ReadCloser, error)) error {
	for _, a := range list {
		if err := r.stage(ctx, a, open); err != nil {
			return err
		}
	}
	return nil
}

// stage copies one artifact and verifies its digest.
func (r *Runner) stage(ctx context.Context, a plan.Artifact, open func(context.Context, plan.Artifact) (io.ReadCloser, error)) error {
	dir := filepath.Join(r.Dir, ec2.PackageDir)
	path := filepath.Join(dir, a.Digest.Hex()+packageSuffix)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	in, err := open(ctx, a)
	if err != nil {
		return err
	}
	defer in.Close()
	f, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after a rename there is nothing to remove
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { in.Close() }) // ends a blocked read
	defer stop()
	tee := io.TeeReader(contextReader{ctx, in}, f)
	got, err := artifact.DigestStream(a.Kind, tee)
	if err == nil {
		_, err = io.Copy(io.Discard, tee)
	}
	if err == nil && got != a.Digest {
		err = fmt.Errorf("its content has digest %s, not %s\n    hint: build the same version again, or apply where it was built", got.Brief(), a.Digest.Brief())
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("artifact %s: %w", a.Path, err)
	}
	return os.Rename(f.Name(), path)
}

// contextReader is a reader that fails when its context has ended.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF && c.ctx.Err() != nil {
		err = context.Cause(c.ctx)
	}
	return n, err
}

// File names in the directory of staged artifacts.
const (
	packageSuffix = ".tar"  // of a staged artifact
	tempPrefix    = ".tmp-" // of one that is being copied
)

// Collect removes the staged artifacts that are not live. It returns their size in
// bytes and their paths. With dry it removes nothing.
func (r *Runner) Collect(live map[digest.Digest]bool, dry bool) (freed uint64, gone []string, err error) {
	dir := filepath.Join(r.Dir, ec2.PackageDir)
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, err
	}
	for _, n := range names {
		info, err := n.Info()
		d, bad := digest.Parse("sha256:" + strings.TrimSuffix(n.Name(), packageSuffix))
		stale := strings.HasPrefix(n.Name(), tempPrefix) && err == nil && time.Since(info.ModTime()) > time.Hour // left by a killed process
		if err != nil || !stale && (bad != nil || live[d]) {
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
