package engine

import (
	"context"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/moby/moby/client"
)

// InUse tells Collect what is needed.
type InUse struct {
	Unit     func(unit string) bool      // it stands
	Artifact func(hex string) bool       // packages of what stands, or to which a way back is kept
	Image    func(reference string) bool // the same for images of registries: "…@sha256:HEX"
}

// Collect removes containers and networks of ours that nothing leads to, and images that were
// made or fetched for what is not needed any more.
func (e *Engine) Collect(ctx context.Context, keep InUse, dry bool) (freed uint64, gone []string, err error) {
	err = e.lasting(ctx, func(api *client.Client) error {
		freed, gone = 0, nil
		left, networks, err := orphans(ctx, api, "", keep.Unit)
		if err != nil {
			return err
		}
		for _, name := range left {
			gone = append(gone, "container "+name)
			if dry {
				continue
			}
			if err := remove(ctx, api, name); err != nil {
				return err
			}
		}
		for _, name := range networks {
			gone = append(gone, "network "+name)
			if dry {
				continue
			}
			if _, err := api.NetworkRemove(ctx, name, client.NetworkRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsPermissionDenied(err) {
				return err
			}
		}
		used := map[string]bool{}
		containers, err := api.ContainerList(ctx, client.ContainerListOptions{All: true})
		if err != nil {
			return err
		}
		for _, c := range containers.Items {
			used[c.ImageID] = used[c.ImageID] || !slices.Contains(left, strings.TrimPrefix(c.Names[0], "/"))
		}
		images, err := api.ImageList(ctx, client.ImageListOptions{})
		if err != nil {
			return err
		}
		for _, i := range images.Items {
			mine, all := keep.needless(i.RepoTags, i.RepoDigests, i.Labels[docker.LabelArtifact])
			if len(mine) == 0 || used[i.ID] {
				continue
			}
			if all {
				freed += uint64(max(0, i.Size))
			}
			for _, ref := range mine {
				gone = append(gone, "image "+ref)
				if dry {
					continue
				}
				if _, err := api.ImageRemove(ctx, ref, client.ImageRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
					return err
				}
			}
		}
		return nil
	})
	if !dry {
		e.forgetImages()
	}
	return freed, gone, err
}

// needless lists the names of ours that an image has for nothing, and, if nobody
// else ever named it, all others by which it is known (all).
func (k InUse) needless(tags, digests []string, artifact string) (mine []string, all bool) {
	others := false
	digests = slices.Clone(digests)
	for _, tag := range tags {
		switch {
		case strings.HasPrefix(tag, packages):
			if !k.Artifact(artifact) {
				mine = append(mine, tag)
			}
		case strings.HasPrefix(tag, pulled):
			if !k.Image("sha256:" + strings.TrimPrefix(tag, pulled)) {
				mine = append(mine, tag)
			}
		case strings.HasPrefix(tag, selves):
			mine = append(mine, tag)
		case strings.Contains(tag, "@"): // the containerd image store takes what was fetched by its digest for a tag
			digests = append(digests, tag)
		default:
			others = true
		}
	}
	if len(mine) == 0 || others {
		return mine, false
	}
	for _, d := range digests {
		if !strings.HasPrefix(d, "<none>") {
			mine = append(mine, d)
		}
	}
	return mine, true
}

func (e *Engine) forgetImages() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.ids)
}
