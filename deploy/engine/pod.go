package engine

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/defx-dev/defx/backends/docker"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// HoldPod holds the network of a group until it is told to stop. When an engine
// comes back, say after a boot, it may try the members before their network is
// there, and gives them up then: so whoever holds the network starts them.
func HoldPod() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		e := &Engine{Socket: Default}
		api, err := e.connect()
		if err != nil {
			return
		}
		for range 20 {
			startMembers(ctx, api)
			if !sleep(ctx, time.Second) {
				return
			}
		}
	}()
	<-ctx.Done()
}

// startMembers starts those that share our network and were given up.
func startMembers(ctx context.Context, api *client.Client) {
	host, err := os.Hostname() // the engine calls a container by its id
	if err != nil {
		return
	}
	me, err := api.ContainerInspect(ctx, host, client.ContainerInspectOptions{})
	if err != nil {
		return
	}
	list, err := ours(ctx, api, docker.LabelScope, me.Container.Config.Labels[docker.LabelScope])
	if err != nil {
		return
	}
	for _, c := range list {
		if c.State != container.StateExited || c.HostConfig.NetworkMode != "container:"+me.Container.ID || docker.Kind(c.Labels[docker.LabelUnit]) != ".container" {
			continue
		}
		m, err := api.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{})
		if err == nil && m.Container.HostConfig.RestartPolicy.IsAlways() && givenUp(me.Container.State.StartedAt, m.Container.State.FinishedAt) {
			api.ContainerStart(ctx, c.ID, client.ContainerStartOptions{})
		}
	}
}

// givenUp tells whether a member ended before its network was there: what ends
// later ends because somebody wants it.
func givenUp(begun, ended string) bool {
	b, err := time.Parse(time.RFC3339Nano, begun)
	e, err2 := time.Parse(time.RFC3339Nano, ended)
	return err == nil && err2 == nil && e.Before(b.Add(time.Second))
}
