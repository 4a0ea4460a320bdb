package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/containerd/errdefs"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/internal/nofollow"
	"github.com/moby/moby/client"
)

// volumes creates the volumes that a container mounts.
func (e *Engine) volumes(ctx context.Context, api *client.Client, c *docker.Container) error {
	for _, m := range c.Mounts {
		if m.Volume != "" {
			if err := e.volume(ctx, api, c, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// volume creates a volume, and changes the owner of a new one to the container's user.
func (e *Engine) volume(ctx context.Context, api *client.Client, c *docker.Container, m docker.Mount) error {
	return e.withLock("volume "+m.Volume, func() error {
		have, err := api.VolumeInspect(ctx, m.Volume, client.VolumeInspectOptions{})
		if err == nil {
			if have.Volume.Labels[docker.LabelScope] != c.Scope {
				return fmt.Errorf("the volume %s exists and is not managed by defx: rename or remove it", m.Volume)
			}
			if m.Owner > 0 {
				return chownEmptyDir(have.Volume.Mountpoint, m.Owner) // a crash may have prevented it before
			}
			return nil
		}
		if !errdefs.IsNotFound(err) {
			return err
		}
		made, err := api.VolumeCreate(ctx, client.VolumeCreateOptions{Name: m.Volume, Driver: "local", Labels: e.labels(docker.ID{Scope: c.Scope, Base: c.Base}, m.Volume, "")})
		if err != nil {
			return err
		}
		if m.Owner > 0 {
			return chownEmptyDir(made.Volume.Mountpoint, m.Owner)
		}
		return nil
	})
}

// chownEmptyDir changes the owner of a directory that is still empty.
func chownEmptyDir(dir string, user int) error {
	root, err := nofollow.OpenRoot("/")
	if err != nil {
		return err
	}
	defer root.Close()
	err = root.ChownEmptyDir(dir, user, user)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) { // the engine keeps its volumes elsewhere; it is not empty
		return nil
	}
	return err
}

// giveFiles changes the owners of files.
func giveFiles(list []docker.Owner) error {
	if len(list) == 0 {
		return nil
	}
	root, err := nofollow.OpenRoot("/")
	if err != nil {
		return err
	}
	defer root.Close()
	for _, o := range list {
		if err := root.Chown(o.Path, o.User, o.User); err != nil {
			return err
		}
	}
	return nil
}

// makeDirs creates the directories of the machine that a container mounts and owns. The engine
// neither creates nor starts a container without them.
func makeDirs(c *docker.Container) error {
	for _, m := range c.Mounts {
		if m.Path != "" && m.Create {
			if err := makeDir(m.Path, m.Owner); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeDir creates a directory that belongs to a user. It gets its name when it is complete, so one
// that exists is always left unchanged.
func makeDir(dir string, user int) error {
	root, err := nofollow.OpenRoot("/")
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := root.Stat(dir)
	if err == nil && !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := path.Dir(dir)
	if err := root.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	unnamed := path.Join(parent, ".defx-"+rand.Text())
	if err := root.Mkdir(unnamed, 0o755); err != nil {
		return err
	}
	err = root.ChownEmptyDir(unnamed, user, user)
	if err == nil {
		err = root.Rename(unnamed, dir)
	}
	if err == nil {
		return nil
	}
	root.RemoveDir(unnamed)
	if errors.Is(err, fs.ErrExist) { // created and filled meanwhile
		return nil
	}
	return err
}
