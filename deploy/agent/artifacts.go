package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/artifact"
	"github.com/defx-dev/defx/internal/digest"
)

// An artifact of kind "file" or "tree" travels as a tar whose entries carry only names, types,
// the executable bit and content; its digest is that of artifact.Digest. One of kind "tar",
// which comes from a URL, travels unchanged; its digest is the digest of its bytes.

// Missing returns the artifacts that are not in the store.
func (h *Host) Missing(digests []digest.Digest) ([]digest.Digest, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []digest.Digest
	for _, d := range digests {
		if _, err := os.Lstat(filepath.Join(h.path, storePath, d.Hex())); errors.Is(err, fs.ErrNotExist) {
			out = append(out, d)
		} else if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// partialSuffix ends the name of a partially received artifact. The file holds the bytes as
// they travel, so that an interrupted upload can be resumed.
const partialSuffix = ".defx-part"

// UploadOffset returns how many bytes of an artifact an earlier upload left here.
func (h *Host) UploadOffset(d digest.Digest) int64 {
	info, err := os.Lstat(filepath.Join(h.path, storePath, d.Hex()+partialSuffix))
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	return info.Size()
}

// PutArtifact receives an artifact from byte offset on; offset must equal UploadOffset. It
// unpacks the artifact into the store and publishes it under its digest only after verifying
// that digest. If the connection breaks, what was received is kept for the next attempt; if
// the disk is full, it is removed.
func (h *Host) PutArtifact(ctx context.Context, a plan.Artifact, offset int64, r io.Reader) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(ctx); err != nil {
		return err
	}
	name := path.Join(storePath, a.Digest.Hex())
	final, tmp, part := name, name+tmpSuffix, name+partialSuffix
	if _, err := h.root.Lstat(final); err == nil {
		_, err := io.Copy(io.Discard, r)
		return err
	}
	fail := func(err error) error { return fmt.Errorf("artifact %s: %w", a.Path, err) }
	flags := os.O_RDWR | os.O_CREATE
	if offset == 0 {
		flags |= os.O_TRUNC
	}
	f, err := h.root.OpenFile(part, flags, 0o600)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	at, err := f.Seek(0, io.SeekEnd)
	if err == nil && at != offset {
		err = fmt.Errorf("upload offset mismatch: the machine has %d bytes, the sender resumes at %d", at, offset)
	}
	if err != nil {
		return fail(err)
	}
	if _, err := io.Copy(f, r); err != nil {
		if mentions(err, syscall.ENOSPC) || mentions(err, syscall.EDQUOT) {
			err = errors.Join(err, h.root.Remove(part))
		}
		return fail(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fail(err)
	}
	if err := h.root.RemoveAll(tmp); err != nil {
		return err
	}
	if err = h.root.Mkdir(tmp, publicDir); err == nil {
		err = h.unpackArtifact(a, f, tmp)
	}
	if err == nil {
		err = h.root.Rename(tmp, final)
	}
	if err != nil {
		err = errors.Join(fail(err), h.root.RemoveAll(tmp))
	}
	if err := errors.Join(err, h.root.Remove(part)); err != nil { // bytes with the wrong digest are useless
		return err
	}
	return h.syncDir(storePath)
}

// unpackArtifact unpacks what was received, after all of it was verified.
func (h *Host) unpackArtifact(a plan.Artifact, r io.ReadSeeker, tmp string) error {
	got, err := artifact.DigestStream(a.Kind, r)
	if err != nil {
		return err
	}
	if got != a.Digest {
		return fmt.Errorf("received content has digest %s, want %s", got.Short(), a.Digest.Short())
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return err
	}
	dir, err := h.root.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unpack(packageRoot{dir}, r)
}

// packageRoot is the folder of an artifact, of which the links that lie in it are followed.
type packageRoot struct{ *os.Root }

func (r packageRoot) Mkdir(p string, mode fs.FileMode) error {
	if err := r.Root.Mkdir(p, mode); err != nil {
		return err
	}
	return r.Chmod(p, mode)
}

// unpack extracts an archive below dir, with permissions that do not depend on the archive's
// or on the umask.
func unpack(dir packageRoot, r io.Reader) error {
	return artifact.ReadArchive(r, func(item artifact.Item, content io.Reader) error {
		if err := makeDirs(dir, path.Dir(item.Name), publicDir); err != nil {
			return err
		}
		switch item.Kind {
		case artifact.Folder:
			return makeDirs(dir, item.Name, publicDir)
		case artifact.Symlink:
			return dir.Symlink(item.Target, item.Name)
		case artifact.HardLink:
			return dir.Link(item.Target, item.Name)
		}
		return writeContent(dir, item.Name, content, artifact.FileMode(item))
	})
}

func writeContent(dir packageRoot, name string, r io.Reader, mode fs.FileMode) error {
	f, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}
