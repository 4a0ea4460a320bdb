package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// gracefulServices is one server with two ways of running two versions in parallel, and once
// without.
const gracefulServices = `local defx = import 'defx/v1.libsonnet';
local one(port, more) = { place: { machine: 'm1' }, service: { package: defx.artifact('../build/graceful-server'), command: ['graceful-server'], ports: { http: port },
  env: { WHO: 'WORD', LISTEN: '0.0.0.0:' + defx.me.port('http') }, ready: { http: '/', timeout: '10s' } } + more };
{ held: one(7201, { sockets: { http: { port: 'http' } }, update: { style: 'graceful' } }),
  shared: one(7202, { update: { style: 'graceful', reuseport: true } }),
  plain: one(7203, {}) }
`

// caller sends requests to a server without a pause, and counts the answers.
type caller struct {
	mu     sync.Mutex
	heard  map[string]int
	failed []error
}

func call(url string, stop <-chan struct{}, all *sync.WaitGroup) *caller {
	c := &caller{heard: map[string]int{}}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range 3 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := client.Get(url)
				text := ""
				if err == nil {
					var raw []byte
					raw, err = io.ReadAll(res.Body)
					text = strings.TrimSpace(string(raw))
					res.Body.Close()
				}
				c.mu.Lock()
				if err != nil {
					c.failed = append(c.failed, err)
					time.Sleep(time.Millisecond)
				} else {
					c.heard[text]++
				}
				c.mu.Unlock()
			}
		})
	}
	return c
}

// TestGraceful_NoLostRequests updates servers while they get requests.
func TestGraceful_NoLostRequests(t *testing.T) {
	s := newSite(t, 1)
	m := s.lab.Machines[0]
	m.Exec("echo 1 > /proc/sys/net/ipv4/tcp_migrate_req") // connections that wait at a shared port which closes move to the other listener
	s.builds("graceful-server", "./testdata/graceful-server")
	say := func(word string) {
		t.Helper()
		s.file("libs/graceful.libsonnet", strings.ReplaceAll(gracefulServices, "WORD", word), 0o644)
		s.file("defx.jsonnet", fmt.Sprintf("{ name: 'graceful', libs: { graceful: import 'libs/graceful.libsonnet' }, machines: { m1: { connect: 'ssh://root@%s' } } }\n", m.Address), 0o644)
	}
	say("red")
	s.wants(0, "3 created")

	stop := make(chan struct{})
	var all sync.WaitGroup
	callers := map[string]*caller{}
	for i, name := range []string{"held", "shared", "plain"} {
		callers[name] = call(fmt.Sprintf("http://%s:%d/", m.Address, 7201+i), stop, &all)
	}
	say("green")
	s.wants(0, "restart (graceful)", "3 updated")
	say("nobody")
	s.wants(3, "WHO must not be nobody", "the previous version runs again", "3 failed")
	say("blue")
	s.wants(0, "3 updated")
	close(stop)
	all.Wait()
	for name, c := range callers {
		t.Logf("%s: %v, %d failed", name, c.heard, len(c.failed))
		if c.heard["green"] == 0 || c.heard["blue"] == 0 {
			t.Errorf("%s did not change", name)
		}
		if name == "plain" {
			if len(c.failed) == 0 {
				t.Error("no request to the plain one failed, so this test is not significant")
			}
			continue
		}
		if len(c.failed) > 0 {
			t.Errorf("%s lost %d requests: %v", name, len(c.failed), c.failed[0])
		}
	}
	if got := m.Exec("systemctl list-units --no-legend --plain --state=active,failed 'defx-*.*.*.service' | wc -l; ls /etc/systemd/system | grep -cE '\\.[0-9a-f]{12}\\.service$'"); got != "3\n3\n" {
		t.Errorf("more than one version runs or is kept: %s", got)
	}
	m.Reboot()
	m.Exec("for i in $(seq 100); do curl -sf http://127.0.0.1:7201/ | grep -q blue && curl -sf http://127.0.0.1:7202/ | grep -q blue && exit 0; sleep 0.2; done; exit 1")
	s.wants(0, "No changes")
}
