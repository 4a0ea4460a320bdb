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
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
)

// Images that are made here are known under names of a registry that is none.
const (
	packages = "defx.local/package:"
	pulled   = "defx.local/pulled:"
	selves   = "defx.local/self:"
)

// form is the version of how images are made. Another one makes other images.
const form = "1"

// image gives what a container is made of: of a registry, or of a package.
func (e *Engine) image(ctx context.Context, api *client.Client, c *docker.Container) (string, error) {
	if c.Image != "" {
		return c.Image, e.pull(ctx, api, c.Image)
	}
	raw, err := digest.Canonical(c.Build)
	if err != nil {
		return "", err
	}
	tag := packages + digest.Bytes(append(raw, form+runtime.GOARCH...)).Hex()[:32]
	return tag, e.ensure(ctx, api, tag, func() error {
		base, file, err := e.base(ctx, api, c.Build)
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
			return fmt.Errorf("its image cannot be made: %w", err)
		}
		if c.Build.Push != "" {
			return e.push(ctx, api, img, c.Build.Push, tag)
		}
		return e.load(ctx, api, img, base, tag)
	})
}

// base is what a package is put above. It is read from a file, if one is
// named, which the caller removes.
func (e *Engine) base(ctx context.Context, api *client.Client, b *docker.Build) (img v1.Image, file string, err error) {
	if b.Base == "" {
		return empty.Image, "", nil
	}
	var asked error
	if b.Push != "" { // its layers stay in registries, as they are there
		if img, asked = ofRegistry(ctx, b.Base); asked == nil || ctx.Err() != nil {
			return img, "", asked
		}
	}
	// The engine may have it, or know another way to it: a mirror, a proxy, a registry without TLS.
	if err := e.pull(ctx, api, b.Base); err != nil {
		return nil, "", errors.Join(asked, err)
	}
	if file, err = e.save(ctx, api, b.Base); err == nil {
		img, err = tarball.ImageFromPath(file, nil)
	}
	return img, file, err
}

// ofRegistry is an image as its registry has it: this machine's, where there are several. What is
// written of it to the same registry is not sent.
func ofRegistry(ctx context.Context, image string) (v1.Image, error) {
	ref, err := name.NewDigest(image, name.WeakValidation)
	if err != nil {
		return nil, fmt.Errorf("image %q: %w", image, err)
	}
	img, err := remote.Image(ref, append(asUser(ctx), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))...)
	if err != nil {
		return nil, fmt.Errorf("image %s cannot be fetched: %w", image, err)
	}
	return img, nil
}

// asUser speaks to registries with what the user's docker knows of them.
func asUser(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent("defx")}
}

// push takes an image to a registry, but for the layers that it has, and lets
// the engine fetch it from there, but for the layers that that one has.
func (e *Engine) push(ctx context.Context, api *client.Client, img v1.Image, repository, tag string) error {
	d, err := img.Digest()
	if err != nil {
		return err
	}
	ref, err := name.NewTag(repository + tag[strings.LastIndexByte(tag, ':'):])
	if err != nil {
		return fmt.Errorf("repository %q: %w", repository, err)
	}
	if err := remote.Write(ref, img, asUser(ctx)...); err != nil {
		return fmt.Errorf("its image cannot be pushed to %s: %w", repository, err)
	}
	whole := repository + "@" + d.String()
	if err := e.pull(ctx, api, whole); err != nil {
		return err
	}
	_, err = api.ImageTag(ctx, client.ImageTagOptions{Source: whole, Target: tag})
	return err
}

// ensure makes an image if it is not there.
func (e *Engine) ensure(ctx context.Context, api *client.Client, ref string, make func() error) error {
	e.mu.Lock()
	_, seen := e.ids[ref]
	e.mu.Unlock()
	if seen {
		return nil
	}
	return e.alone("image "+ref, func() error {
		res, err := api.ImageInspect(ctx, ref)
		if errdefs.IsNotFound(err) {
			if err = make(); err != nil {
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

// pull fetches an image by its digest, with what the user's docker knows of its registry.
func (e *Engine) pull(ctx context.Context, api *client.Client, image string) error {
	return e.ensure(ctx, api, image, func() error {
		ref, err := name.NewDigest(image, name.WeakValidation)
		if err != nil {
			return fmt.Errorf("image %q: %w", image, err)
		}
		auth, err := credentials(ref)
		if err != nil {
			return err
		}
		r, err := api.ImagePull(ctx, image, client.ImagePullOptions{RegistryAuth: auth})
		if err == nil {
			err = errors.Join(r.Wait(ctx), r.Close())
		}
		if err != nil {
			return fmt.Errorf("image %s cannot be fetched: %w", image, err)
		}
		_, err = api.ImageTag(ctx, client.ImageTagOptions{Source: image, Target: pulled + ref.DigestStr()[len("sha256:"):]})
		return err
	})
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

// save writes an image of the engine into a file.
func (e *Engine) save(ctx context.Context, api *client.Client, image string) (string, error) {
	r, err := api.ImageSave(ctx, []string{image})
	if err != nil {
		return "", err
	}
	defer r.Close()
	f, err := os.CreateTemp("", "defx-image-")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
	}
	return f.Name(), err
}

// program is where we lie in our own image.
const program = "/defx"

// self is an image of this very program: it holds the networks of groups, and
// starts jobs on time.
func (e *Engine) self(ctx context.Context, api *client.Client) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	raw, err := os.ReadFile(exe)
	if err != nil {
		return "", err
	}
	tag := selves + digest.Bytes(raw).Hex()[:32]
	return tag, e.ensure(ctx, api, tag, func() error {
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

// Image puts a folder at a path above a base. Equal content gives an equal
// digest wherever it is made: names are sorted, and times and owners are none.
func Image(base v1.Image, dir, at string, labels map[string]string) (v1.Image, error) {
	img := base
	if dir != "" {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			r, w := io.Pipe()
			go func() { w.CloseWithError(layerOf(w, dir, at)) }()
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

// layerOf writes a folder as a tar.
func layerOf(w io.Writer, dir, at string) error {
	t := tar.NewWriter(w)
	head := func(name string, mode int64) *tar.Header {
		return &tar.Header{Name: name, Mode: mode, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	}
	below := strings.Trim(at, "/")
	for i, c := range below + "/" { // the folders above
		if c == '/' && i > 0 {
			h := head(below[:i]+"/", 0o755)
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
		h := head(path.Join(below, p), 0o444)
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
			return fmt.Errorf("%s is neither a file, a folder nor a link", p)
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

// load gives the engine an image. Layers of the base are there, so they are not
// sent; an engine that wants them all the same gets everything.
func (e *Engine) load(ctx context.Context, api *client.Client, img, base v1.Image, tag string) error {
	there := map[v1.Hash]bool{}
	if file, err := base.ConfigFile(); err == nil {
		for _, id := range file.RootFS.DiffIDs {
			there[id] = true
		}
	}
	err := e.loadBut(ctx, api, img, there, tag)
	if err != nil && len(there) > 0 && !gone(err) {
		err = e.loadBut(ctx, api, img, nil, tag)
	}
	return err
}

func (e *Engine) loadBut(ctx context.Context, api *client.Client, img v1.Image, there map[v1.Hash]bool, tag string) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(archive(w, img, there, tag)) }()
	defer r.Close()
	res, err := api.ImageLoad(ctx, r, client.ImageLoadWithQuiet(true))
	if err != nil {
		return fmt.Errorf("the engine does not take the image: %w", err)
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
			return fmt.Errorf("the engine does not take the image: %s", m.Error)
		}
	}
	return nil
}

// archive writes an image as docker save would, without the layers that are there.
func archive(w io.Writer, img v1.Image, there map[v1.Hash]bool, tag string) error {
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
		if there[diff] {
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
	size, err := io.Copy(io.Discard, count) // a tar says sizes first
	if err = errors.Join(err, count.Close()); err != nil {
		return err
	}
	r, err := l.Uncompressed()
	if err != nil {
		return err
	}
	return errors.Join(put(name, size, r), r.Close())
}
