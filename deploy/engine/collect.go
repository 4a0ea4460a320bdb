package engine

import (
	"context"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/moby/moby/client"
)

// InUse reports to Collect what is still needed.
type InUse struct {
	Unit     func(unit string) bool      // its file is deployed
	Artifact func(hex string) bool       // it belongs to a deployed unit or a kept generation
	Image    func(reference string) bool // the same for a registry image, "…@sha256:HEX"
}

// Collect deletes containers and networks with defx's labels that no unit needs, and images
// built or pulled for what is no longer needed. dry only reports them.
func (e *Engine) Collect(ctx context.Context, keep InUse, dry bool) (freed uint64, gone []string, err error) {
	err = e.withRetry(ctx, func(api *client.Client) error {
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
			unused, all := keep.unusedNames(i.RepoTags, i.RepoDigests, i.Labels[docker.LabelArtifact])
			if len(unused) == 0 || used[i.ID] {
				continue
			}
			if all {
				freed += uint64(max(0, i.Size))
			}
			for _, ref := range unused {
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
		e.clearImageCache()
	}
	return freed, gone, err
}

// unusedNames returns the names that defx gave an image and that are no longer needed. all
// reports whether the image has no other names; then the result also has its digests.
func (k InUse) unusedNames(tags, digests []string, artifact string) (unused []string, all bool) {
	foreign := false
	digests = slices.Clone(digests)
	for _, tag := range tags {
		switch {
		case strings.HasPrefix(tag, packageImages):
			if !k.Artifact(artifact) {
				unused = append(unused, tag)
			}
		case strings.HasPrefix(tag, pulledImages):
			if !k.Image("sha256:" + strings.TrimPrefix(tag, pulledImages)) {
				unused = append(unused, tag)
			}
		case strings.HasPrefix(tag, selfImages):
			unused = append(unused, tag)
		case strings.Contains(tag, "@"): // the containerd image store lists digests of pulled images as tags
			digests = append(digests, tag)
		default:
			foreign = true
		}
	}
	if len(unused) == 0 || foreign {
		return unused, false
	}
	for _, d := range digests {
		if !strings.HasPrefix(d, "<none>") {
			unused = append(unused, d)
		}
	}
	return unused, true
}

func (e *Engine) clearImageCache() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.ids)
}
