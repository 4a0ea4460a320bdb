package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
)

// Images that are built or pulled here get names of a registry that does not exist.
const (
	packageImages = "defx.local/package:"
	pulledImages  = "defx.local/pulled:"
	selfImages    = "defx.local/self:"
)

// imageVersion is the version of the build procedure. It is part of the name of built
// images.
const imageVersion = "1"

// image ensures that a container's image exists, from a registry or built from a package,
// and returns its name.
func (e *Engine) image(ctx context.Context, api *client.Client, c *docker.Container) (string, error) {
	if c.Image != "" {
		return c.Image, e.pull(ctx, api, c.Image)
	}
	tag, err := builtImage(c.Build)
	if err != nil {
		return "", err
	}
	return tag, e.ensureImage(ctx, api, tag, func() error {
		base, file, err := e.baseImage(ctx, api, c.Build)
		if file != "" {
			defer os.Remove(file)
		}
		if err != nil {
			return err
		}
		var dir string
		if c.Build.Artifact != "" {
			dir = filepath.Join(backends.StorePath, c.Build.Artifact)
		}
		img, err := Image(base, dir, c.Build.At, map[string]string{docker.LabelArtifact: c.Build.Artifact})
		if err != nil {
			return fmt.Errorf("cannot build its image: %w", err)
		}
		if c.Build.Push != "" {
			return e.push(ctx, api, img, c.Build.Push, tag)
		}
		return e.load(ctx, api, img, base, tag)
	})
}

// builtImage returns the name of the image that is built from a package.
func builtImage(b *docker.Build) (string, error) {
	raw, err := digest.Canonical(b)
	return packageImages + digest.Bytes(append(raw, imageVersion+runtime.GOARCH...)).Hex()[:32], err
}

// baseImage returns the image that a package is layered on. If file is not empty, the image
// is read from it lazily, and the caller removes it.
func (e *Engine) baseImage(ctx context.Context, api *client.Client, b *docker.Build) (img v1.Image, file string, err error) {
	if b.Base == "" {
		return empty.Image, "", nil
	}
	var registryErr error
	if b.Push != "" { // layers stay in the registry
		if img, registryErr = registryImage(ctx, b.Base); registryErr == nil || ctx.Err() != nil {
			return img, "", registryErr
		}
	}
	// The engine may have it, or reach it through a mirror, a proxy, or a registry without
	// TLS.
	if err := e.pull(ctx, api, b.Base); err != nil {
		return nil, "", errors.Join(registryErr, err)
	}
	if file, err = e.save(ctx, api, b.Base); err == nil {
		img, err = tarball.ImageFromPath(file, nil)
	}
	return img, file, err
}

// registryImage returns an image as its registry has it, for this machine's platform. Layers
// that are pushed to the same registry again are not transferred.
func registryImage(ctx context.Context, image string) (v1.Image, error) {
	ref, err := name.NewDigest(image, name.WeakValidation)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", image, err)
	}
	img, err := remote.Image(ref, append(registryOptions(ctx), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))...)
	if err != nil {
		return nil, fmt.Errorf("cannot pull image %s: %w", image, err)
	}
	return img, nil
}

// registryOptions are the options for registries: the credentials of the user's docker, and
// a progress timeout.
func registryOptions(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("defx"),
		remote.WithTransport(&stallTransport{remote.DefaultTransport})}
}

// push pushes an image to a registry, without layers that are already there, and lets the
// engine pull it.
func (e *Engine) push(ctx context.Context, api *client.Client, img v1.Image, repository, tag string) error {
	d, err := img.Digest()
	if err != nil {
		return err
	}
	ref, err := name.NewTag(repository + tag[strings.LastIndexByte(tag, ':'):])
	if err != nil {
		return fmt.Errorf("repository %q: %w", repository, err)
	}
	if err := remote.Write(ref, img, registryOptions(ctx)...); err != nil {
		return fmt.Errorf("cannot push its image to %s: %w", repository, err)
	}
	pinned := repository + "@" + d.String()
	if err := e.pull(ctx, api, pinned); err != nil {
		return err
	}
	_, err = api.ImageTag(ctx, client.ImageTagOptions{Source: pinned, Target: tag})
	return err
}

// ensureImage calls build if an image does not exist.
func (e *Engine) ensureImage(ctx context.Context, api *client.Client, ref string, build func() error) error {
	e.mu.Lock()
	_, known := e.ids[ref]
	e.mu.Unlock()
	if known {
		return nil
	}
	return e.withLock("image "+ref, func() error {
		res, err := api.ImageInspect(ctx, ref)
		if errdefs.IsNotFound(err) {
			if err = build(); err != nil {
				return err
			}
			res, err = api.ImageInspect(ctx, ref)
		}
		if err != nil {
			return err
		}
		e.mu.Lock()
		e.ids[ref] = res.ID
		e.mu.Unlock()
		return nil
	})
}

// pull pulls an image by its digest, with the credentials of the user's docker.
func (e *Engine) pull(ctx context.Context, api *client.Client, image string) error {
	return e.ensureImage(ctx, api, image, func() error {
		ref, err := name.NewDigest(image, name.WeakValidation)
		if err != nil {
			return fmt.Errorf("image %q: %w", image, err)
		}
		auth, err := credentials(ref)
		if err != nil {
			return err
		}
		if err := pullImage(ctx, api, image, auth); err != nil {
			return fmt.Errorf("cannot pull image %s: %w", image, err)
		}
		_, err = api.ImageTag(ctx, client.ImageTagOptions{Source: image, Target: pulledImages + ref.DigestStr()[len("sha256:"):]})
		return err
	})
}

// pullImage lets the engine pull an image. It fails if the engine reports no
// progress for stallTimeout.
func pullImage(ctx context.Context, api *client.Client, image, auth string) error {
	ctx, w := watch(ctx)
	defer w.stop()
	r, err := api.ImagePull(ctx, image, client.ImagePullOptions{RegistryAuth: auth})
	if err != nil {
		return w.cause(err)
	}
	defer r.Close()
	for m, err := range r.JSONMessages(ctx) {
		if err != nil {
			return w.cause(err)
		}
		if m.Error != nil {
			return m.Error
		}
		w.progress()
	}
	return w.cause(nil)
}

func credentials(ref name.Reference) (string, error) {
	a, err := authn.DefaultKeychain.Resolve(ref.Context())
	if err != nil || a == authn.Anonymous {
		return "", err
	}
	c, err := a.Authorization()
	if err != nil {
		return "", err
	}
	raw, err := json.Marshal(registry.AuthConfig{Username: c.Username, Password: c.Password, Auth: c.Auth, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
		ServerAddress: ref.Context().RegistryStr()})
	return base64.URLEncoding.EncodeToString(raw), err
}

// save writes an image of the engine to a temporary file.
func (e *Engine) save(ctx context.Context, api *client.Client, image string) (string, error) {
	ctx, w := watch(ctx)
	defer w.stop()
	r, err := api.ImageSave(ctx, []string{image})
	if err != nil {
		return "", w.cause(err)
	}
	defer r.Close()
	f, err := os.CreateTemp("", "defx-image-")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, &watchedReader{r, w})
	if err = errors.Join(w.cause(err), f.Close()); err != nil {
		os.Remove(f.Name())
	}
	return f.Name(), err
}

// program is the path of this program in its own image.
const program = "/defx"

// self ensures that an image of this program exists: it holds the networks of pods and
// starts scheduled jobs.
func (e *Engine) self(ctx context.Context, api *client.Client) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	raw, err := os.ReadFile(exe)
	if err != nil {
		return "", err
	}
	tag := selfImages + digest.Bytes(raw).Hex()[:32]
	return tag, e.ensureImage(ctx, api, tag, func() error {
		dir, err := os.MkdirTemp("", "defx-self-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if err := os.WriteFile(filepath.Join(dir, path.Base(program)), raw, 0o755); err != nil {
			return err
		}
		img, err := Image(empty.Image, dir, "/", map[string]string{docker.LabelArtifact: "self"})
		if err != nil {
			return err
		}
		return e.load(ctx, api, img, empty.Image, tag)
	})
}

// Image layers a folder at path at on a base image. Equal content has equal digests wherever
// it is built: entries are sorted and have no times or owners.
func Image(base v1.Image, dir, at string, labels map[string]string) (v1.Image, error) {
	img := base
	if dir != "" {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			r, w := io.Pipe()
			go func() { w.CloseWithError(writeLayer(w, dir, at)) }()
			return r, nil
		})
		if err != nil {
			return nil, err
		}
		if img, err = mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{CreatedBy: "defx"}}); err != nil {
			return nil, err
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	if file.OS == "" {
		file.OS, file.Architecture = "linux", runtime.GOARCH
	}
	file.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	if file.Config.Labels == nil {
		file.Config.Labels = map[string]string{}
	}
	for k, v := range labels {
		file.Config.Labels[k] = v
	}
	return mutate.ConfigFile(img, file)
}

// writeLayer writes a folder as a tar.
func writeLayer(w io.Writer, dir, at string) error {
	t := tar.NewWriter(w)
	head := func(name string, mode int64) *tar.Header {
		return &tar.Header{Name: name, Mode: mode, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	}
	prefix := strings.Trim(at, "/")
	for i, c := range prefix + "/" { // parent folders
		if c == '/' && i > 0 {
			h := head(prefix[:i]+"/", 0o755)
			h.Typeflag = tar.TypeDir
			if err := t.WriteHeader(h); err != nil {
				return err
			}
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		h := head(path.Join(prefix, p), 0o444)
		switch {
		case d.IsDir():
			h.Name, h.Mode, h.Typeflag = h.Name+"/", 0o755, tar.TypeDir
			return t.WriteHeader(h)
		case d.Type()&fs.ModeSymlink != 0:
			h.Typeflag, h.Mode = tar.TypeSymlink, 0o777
			if h.Linkname, err = root.Readlink(p); err != nil {
				return err
			}
			return t.WriteHeader(h)
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is not a file, folder or link", p)
		}
		if info.Mode()&0o111 != 0 {
			h.Mode = 0o555
		}
		h.Size = info.Size()
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		f, err := root.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(t, f)
		return err
	})
	return errors.Join(err, t.Close())
}

// load loads an image into the engine. It omits the base's layers, which the engine has,
// unless the engine asks for all of them.
func (e *Engine) load(ctx context.Context, api *client.Client, img, base v1.Image, tag string) error {
	present := map[v1.Hash]bool{}
	if file, err := base.ConfigFile(); err == nil {
		for _, id := range file.RootFS.DiffIDs {
			present[id] = true
		}
	}
	err := e.loadWithout(ctx, api, img, present, tag)
	if err != nil && len(present) > 0 && !connectionLost(err) {
		err = e.loadWithout(ctx, api, img, nil, tag)
	}
	return err
}

func (e *Engine) loadWithout(ctx context.Context, api *client.Client, img v1.Image, present map[v1.Hash]bool, tag string) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeArchive(w, img, present, tag)) }()
	defer r.Close()
	res, err := api.ImageLoad(ctx, r, client.ImageLoadWithQuiet(true))
	if err != nil {
		return fmt.Errorf("the engine cannot load the image: %w", err)
	}
	defer res.Close()
	raw, err := io.ReadAll(res)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(raw) {
		var m struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(line, &m) == nil && m.Error != "" {
			return fmt.Errorf("the engine cannot load the image: %s", m.Error)
		}
	}
	return nil
}

// writeArchive writes an image in the format of docker save, without the layers in present.
func writeArchive(w io.Writer, img v1.Image, present map[v1.Hash]bool, tag string) error {
	t := tar.NewWriter(w)
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	id, err := img.ConfigName()
	if err != nil {
		return err
	}
	type manifest struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	m := manifest{Config: id.Hex + ".json", RepoTags: []string{tag}, Layers: []string{}}
	put := func(name string, size int64, r io.Reader) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o444, Size: size, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
		_, err := io.Copy(t, r)
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		diff, err := l.DiffID()
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, diff.Hex+".tar")
		if present[diff] {
			continue
		}
		if err := putLayer(l, diff.Hex+".tar", put); err != nil {
			return err
		}
	}
	if err := put(m.Config, int64(len(config)), bytes.NewReader(config)); err != nil {
		return err
	}
	raw, err := json.Marshal([]manifest{m})
	if err != nil {
		return err
	}
	if err := put("manifest.json", int64(len(raw)), bytes.NewReader(raw)); err != nil {
		return err
	}
	return t.Close()
}

func putLayer(l v1.Layer, name string, put func(string, int64, io.Reader) error) error {
	count, err := l.Uncompressed()
	if err != nil {
		return err
	}
	size, err := io.Copy(io.Discard, count) // a tar entry starts with its size
	if err = errors.Join(err, count.Close()); err != nil {
		return err
	}
	r, err := l.Uncompressed()
	if err != nil {
		return err
	}
	return errors.Join(put(name, size, r), r.Close())
}

// IsUnauthorized reports whether a registry refused the user, directly or
// through the engine, which reports it as text only.
func IsUnauthorized(err error) bool {
	if t, ok := errors.AsType[*transport.Error](err); ok && t.StatusCode == http.StatusUnauthorized {
		return true
	}
	text := err.Error()
	return strings.Contains(text, "401 Unauthorized") || strings.Contains(text, "no basic auth credentials")
}
