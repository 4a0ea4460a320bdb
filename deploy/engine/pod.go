package engine

import (
	"context"
	"os"
	"time"

	"github.com/defx-dev/defx/backends/docker"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// HoldPod holds the network of a pod until ctx ends. When an engine starts, say after a
// boot, it may try to start members before their network exists, and then does not retry: so
// HoldPod starts them.
func HoldPod(ctx context.Context) {
	go func() {
		e := &Engine{Socket: Default}
		api, err := e.connect()
		if err != nil {
			return
		}
		for range 20 {
			startMembers(ctx, api)
			if !sleepWallClock(ctx, time.Second) {
				return
			}
		}
	}()
	<-ctx.Done()
}

// startMembers starts the members of this container's pod that the engine failed to start.
func startMembers(ctx context.Context, api *client.Client) {
	host, err := os.Hostname() // a container's host name is its id
	if err != nil {
		return
	}
	me, err := api.ContainerInspect(ctx, host, client.ContainerInspectOptions{})
	if err != nil {
		return
	}
	list, err := labelled(ctx, api, docker.LabelScope, me.Container.Config.Labels[docker.LabelScope])
	if err != nil {
		return
	}
	for _, c := range list {
		if c.State != container.StateExited || c.HostConfig.NetworkMode != "container:"+me.Container.ID || docker.Kind(c.Labels[docker.LabelUnit]) != ".container" {
			continue
		}
		m, err := api.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{})
		if err == nil && m.Container.HostConfig.RestartPolicy.IsAlways() && exitedBeforePod(me.Container.State.StartedAt, m.Container.State.FinishedAt) {
			api.ContainerStart(ctx, c.ID, client.ContainerStartOptions{})
		}
	}
}

// exitedBeforePod reports whether a member ended before its pod started: one that ended
// later was stopped on purpose.
func exitedBeforePod(podStarted, ended string) bool {
	b, err := time.Parse(time.RFC3339Nano, podStarted)
	e, err2 := time.Parse(time.RFC3339Nano, ended)
	return err == nil && err2 == nil && e.Before(b.Add(time.Second))
}
