// Package lock keeps what a deployment is made of and does not hold itself: the
// digests of its artifacts and images, a section for each environment, in one
// file that is kept with the source.
//
// It knows the file and how tags of images become digests. It refuses to know
// what the artifacts are for, and never changes a section that it was not asked
// to. Invariant: same content, same bytes, so that two people's updates merge.
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
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/renameio/v2"
)

// Name is the file's name. It lies beside the entry file.
const Name = "defx.lock.json"

// File is the whole file.
type File struct {
	APIVersion   string             `json:"apiVersion"`
	Kind         string             `json:"kind"` // "LockFile"
	Environments map[string]Section `json:"environments"`
}

// Section is what one environment was seen with.
type Section struct {
	Artifacts map[string]Artifact      `json:"artifacts,omitempty"` // by path, relative to the root
	Images    map[string]digest.Digest `json:"images,omitempty"`    // by reference without a digest
}

// Artifact is the content that lay at a path.
type Artifact struct {
	Digest digest.Digest `json:"digest"`
	Kind   string        `json:"kind"` // file, tree or tar
}

// Read reads the file of a folder. Without one there is nothing locked.
func Read(dir string) (*File, error) {
	f := &File{APIVersion: "defx/v1", Kind: "LockFile", Environments: map[string]Section{}}
	raw, err := os.ReadFile(filepath.Join(dir, Name))
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(f); err != nil {
		return nil, unreadable(err)
	}
	if f.APIVersion != "defx/v1" || f.Kind != "LockFile" {
		return nil, unreadable(fmt.Errorf("apiVersion %q and kind %q are not known", f.APIVersion, f.Kind))
	}
	if f.Environments == nil {
		f.Environments = map[string]Section{}
	}
	for _, env := range slices.Sorted(maps.Keys(f.Environments)) {
		s := f.Environments[env]
		for _, path := range slices.Sorted(maps.Keys(s.Artifacts)) {
			a := s.Artifacts[path]
			if _, err := digest.Parse(string(a.Digest)); err != nil {
				return nil, unreadable(fmt.Errorf("%s: %w", path, err))
			}
			if a.Kind != "file" && a.Kind != "tree" && a.Kind != "tar" {
				return nil, unreadable(fmt.Errorf("%s: kind %q is not known", path, a.Kind))
			}
		}
		for _, image := range slices.Sorted(maps.Keys(s.Images)) {
			if _, err := digest.Parse(string(s.Images[image])); err != nil {
				return nil, unreadable(fmt.Errorf("%s: %w", image, err))
			}
		}
	}
	return f, nil
}

func unreadable(err error) error {
	hint := "mend it, or take an earlier one from version control"
	return diag.Errorf("", "the lock cannot be read: %v", err).In(diag.Position{File: Name}).WithHint("%s", hint)
}

// Write writes the file, whole or not at all.
func (f *File) Write(dir string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(f); err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, Name), b.Bytes(), 0o644)
}

// Copy gives one environment what another has.
func (f *File) Copy(from, to string) error {
	s, ok := f.Environments[from]
	if !ok {
		names := slices.Sorted(maps.Keys(f.Environments))
		hint := diag.Suggest(from, names)
		if hint == "" {
			hint = "the lock has " + cmp.Or(strings.Join(names, ", "), "none; defx lock --update -e "+from+" makes it")
		}
		return diag.Errorf("", "the lock has no environment %q", from).In(diag.Position{File: Name}).WithHint("%s", hint)
	}
	f.Environments[to] = Section{Artifacts: maps.Clone(s.Artifacts), Images: maps.Clone(s.Images)}
	return nil
}

// HasDigest tells whether an image is named with its digest.
func HasDigest(image string) bool { return strings.Contains(image, "@sha256:") }

// patience is how long a registry may take for one image.
const patience = 30 * time.Second

// Resolve asks the registry for the digest that an image's tag stands for now.
func Resolve(ctx context.Context, image string) (digest.Digest, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return "", diag.Errorf("", "image %q: %v", image, err).WithHint("REGISTRY/NAME:TAG, or NAME@sha256:…")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("defx"),
		remote.WithTransport(http.DefaultTransport)}
	d, err := remote.Head(ref, options...)
	if err != nil && ctx.Err() == nil { // some registries know no HEAD
		var got *remote.Descriptor
		if got, err = remote.Get(ref, options...); err == nil {
			d = &got.Descriptor
		}
	}
	if err != nil {
		return "", diag.Errorf("", "image %q: its registry %s does not tell its digest: %v", image, ref.Context().RegistryStr(), err).
			WithHint("with a network and the right to read it, try again; or name the image with its digest: %s@sha256:…", ref.Context().Name())
	}
	return digest.Parse(d.Digest.String())
}
