// Package lock reads and writes the lock files of a deployment: one has the
// digests of artifacts and images, in a section for each environment, the other
// (providers.go) the providers of resources. Both are kept in version control.
//
// It knows the files' formats and how to resolve the tag of an image to a digest.
// It refuses to know what the artifacts are for, and changes no section that it
// was not asked to change. Invariant: equal content gives equal bytes, so that
// two people's updates merge.
package lock

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/defx-dev/defx/internal/atomicfile"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/openfile"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Name is the file's name. The file is in the folder of the entry file.
const Name = "defx.lock.json"

// File is the content of a lock file.
type File struct {
	APIVersion   string             `json:"apiVersion"`
	Kind         string             `json:"kind"` // "LockFile"
	Environments map[string]Section `json:"environments"`
}

// Section is what is locked for one environment.
type Section struct {
	Artifacts map[string]Artifact      `json:"artifacts,omitempty"` // by path, relative to the root
	Images    map[string]digest.Digest `json:"images,omitempty"`    // by reference without a digest
}

// Artifact is the locked content of a path.
type Artifact struct {
	Digest digest.Digest `json:"digest"`
	Kind   string        `json:"kind"` // file, tree or tar
}

// Read reads the lock file of a folder. If there is none, it returns a File
// without environments.
func Read(ctx context.Context, dir string) (*File, error) {
	f := &File{APIVersion: "defx/v1", Kind: "LockFile", Environments: map[string]Section{}}
	if err := readDocument(ctx, dir, Name, f); err != nil {
		return nil, err
	}
	if f.APIVersion != "defx/v1" || f.Kind != "LockFile" {
		return nil, unreadable(Name, fmt.Errorf("apiVersion %q and kind %q are unknown", f.APIVersion, f.Kind))
	}
	if f.Environments == nil {
		f.Environments = map[string]Section{}
	}
	for _, env := range sets.Keys(f.Environments) {
		s := f.Environments[env]
		for _, path := range sets.Keys(s.Artifacts) {
			a := s.Artifacts[path]
			if _, err := digest.Parse(string(a.Digest)); err != nil {
				return nil, unreadable(Name, fmt.Errorf("%s: %w", path, err))
			}
			if a.Kind != "file" && a.Kind != "tree" && a.Kind != "tar" {
				return nil, unreadable(Name, fmt.Errorf("%s: unknown kind %q", path, a.Kind))
			}
		}
		for _, image := range sets.Keys(s.Images) {
			if _, err := digest.Parse(string(s.Images[image])); err != nil {
				return nil, unreadable(Name, fmt.Errorf("%s: %w", image, err))
			}
		}
	}
	return f, nil
}

// readDocument decodes a file of a folder into doc, which stays as it is if there is no file.
func readDocument(ctx context.Context, dir, name string, doc any) error {
	raw, err := openfile.ReadBelow(ctx, dir, name, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, refused := errors.AsType[*openfile.Error](err); refused {
		return unreadable(name, err)
	}
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(doc); err != nil {
		return unreadable(name, err)
	}
	return nil
}

// maxFile is the largest size of a file, in bytes.
const maxFile = 64 << 20

func unreadable(name string, err error) error {
	return diag.Errorf("", "the lock file cannot be read: %v", err).In(diag.Position{File: name}).
		WithHint("fix it, or restore an earlier version from version control")
}

// Write replaces the lock file of a folder atomically. An existing file keeps its
// permissions.
func (f *File) Write(dir string) error { return writeDocument(dir, Name, f) }

// writeDocument replaces a file of a folder atomically. An existing file keeps its
// permissions.
func writeDocument(dir, name string, doc any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(doc); err != nil {
		return err
	}
	path, perm := filepath.Join(dir, name), fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		perm = info.Mode().Perm()
	}
	return atomicfile.Write(path, b.Bytes(), perm)
}

// Copy replaces the section of environment to by that of environment from.
func (f *File) Copy(from, to string) error {
	s, ok := f.Environments[from]
	if !ok {
		names := sets.Keys(f.Environments)
		hint := diag.Suggest(from, names)
		if hint == "" {
			hint = "it has " + cmp.Or(strings.Join(names, ", "), "none; create it with defx lock --update -e "+from)
		}
		return diag.Errorf("", "the lock file has no environment %q", from).In(diag.Position{File: Name}).WithHint("%s", hint)
	}
	f.Environments[to] = Section{Artifacts: maps.Clone(s.Artifacts), Images: maps.Clone(s.Images)}
	return nil
}

// HasDigest reports whether an image reference has a digest.
func HasDigest(image string) bool { return strings.Contains(image, "@sha256:") }

// resolveTimeout bounds the time to resolve one image.
const resolveTimeout = 30 * time.Second

// Resolve asks the registry for the digest that an image's tag has now.
func Resolve(ctx context.Context, image string) (digest.Digest, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return "", diag.Errorf("", "image %q: %v", image, err).WithHint("write REGISTRY/NAME:TAG, or NAME@sha256:…")
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("defx"),
		remote.WithTransport(http.DefaultTransport)}
	d, err := remote.Head(ref, options...)
	if err != nil && ctx.Err() == nil { // some registries do not support HEAD
		var got *remote.Descriptor
		if got, err = remote.Get(ref, options...); err == nil {
			d = &got.Descriptor
		}
	}
	if err != nil {
		return "", diag.Errorf("", "image %q: registry %s did not return its digest: %v", image, ref.Context().RegistryStr(), err).
			WithHint("check the network and your access to it, or name the image with its digest: %s@sha256:…", ref.Context().Name())
	}
	return digest.Parse(d.Digest.String())
}
