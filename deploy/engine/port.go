package engine

import (
	"context"
	"fmt"
	"strings"

	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/internal/sockets"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// portHolder returns the process of this machine that listens on a port, and its systemd unit, as
// far as that can be found out.
func portHolder(protocol string, port int) (process, unit string) {
	for _, list := range sockets.Holders(sockets.Listening(protocol, port)) {
		if len(list) == 0 {
			continue
		}
		p := list[0]
		if unit = sockets.Unit(p.Group); unit == "" {
			return fmt.Sprintf("%s (process %d)", p.Command, p.PID), ""
		}
		return fmt.Sprintf("%s (process %d, %s)", p.Command, p.PID, unit), unit
	}
	return "", ""
}

// Publisher returns the name and the unit of the running container to which a port of this
// machine is forwarded; the unit is empty if defx does not manage the container.
func (e *Engine) Publisher(ctx context.Context, protocol string, port int) (name, unit string) {
	api, err := e.connect()
	if err != nil {
		return "", ""
	}
	res, err := api.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		return "", ""
	}
	for _, c := range res.Items {
		for _, p := range c.Ports {
			if int(p.PublicPort) == port && p.Type == protocol && len(c.Names) > 0 && c.State == container.StateRunning {
				return strings.TrimPrefix(c.Names[0], "/"), c.Labels[docker.LabelUnit]
			}
		}
	}
	return "", ""
}
