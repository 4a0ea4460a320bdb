package systemd

import (
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/backendtest"
	"github.com/defx-dev/defx/compile/graph"
)

func TestBackend_Contract(t *testing.T) {
	samples := map[string]func() backends.Input{
		"full": full,
		"reload": func() backends.Input {
			in := full()
			in.Service.Spec.Reload = &graph.Reload{Signal: "HUP"}
			return in
		},
		"schedule": func() backends.Input {
			in := full()
			in.Service.Spec.Schedule = &graph.Schedule{Cron: "0 4 * * 1", Missed: "run"}
			return in
		},
		"sockets": func() backends.Input {
			in := full()
			in.Service.Spec.Sockets = map[string]graph.Socket{"http": {Port: "http"}, "ctl": {Path: "/run/ctl.sock", Mode: "0600"}}
			in.Service.Spec.User = "git"
			return in
		},
	}
	for name, sample := range samples {
		t.Run(name, func(t *testing.T) { backendtest.Run(t, New(), sample) })
	}
}
