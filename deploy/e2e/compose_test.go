package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
)

// TestImport_SameContainersAsCompose deploys compose files with docker compose and,
// imported, with defx, and compares the containers field by field. Differences must be
// listed in docs/compose.md. DEFX_TEST_COMPOSE names a docker-compose program.
func TestImport_SameContainersAsCompose(t *testing.T) {
	program := os.Getenv("DEFX_TEST_COMPOSE")
	if program == "" {
		t.Skip("DEFX_TEST_COMPOSE names no docker-compose to compare with")
	}
	s := newDock(t, 1)
	m := s.lab.Machines[0]
	l, err := net.Listen("tcp", s.lab.Gateway()+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: registry.New()}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	tag, err := name.NewTag(l.Addr().String() + "/shop/multi-tool:1")
	if err != nil {
		t.Fatal(err)
	}
	pinned := tag.Context().Name() + "@" + s.publish(tag, nil)
	m.Exec("mkdir -p /usr/local/bin /srv/compose")
	binary, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.Root, "usr/local/bin/docker-compose"), binary, 0o755); err != nil {
		t.Fatal(err)
	}

	files, _ := filepath.Glob("../compose/testdata/*.yaml")
	for _, f := range files {
		title := strings.TrimSuffix(filepath.Base(f), ".yaml")
		if title == "unsupported" {
			continue // not supported by defx
		}
		t.Run(title, func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			yaml := strings.ReplaceAll(string(text), "IMAGE", pinned)
			os.RemoveAll(filepath.Join(m.Root, "srv/compose"))
			for _, dir := range []string{filepath.Join(m.Root, "srv/compose"), filepath.Join(s.dir, "libs")} {
				os.MkdirAll(dir, 0o755)
				for _, extra := range []string{"a-config.txt", "an-env.txt"} {
					raw, _ := os.ReadFile("../compose/testdata/" + extra)
					os.WriteFile(filepath.Join(dir, extra), raw, 0o644)
				}
				os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(yaml), 0o644)
			}
			out, err := m.Try("cd /srv/compose && DOCKER_HOST=unix:///var/run/docker.sock docker-compose -p side up -d --quiet-pull 2>&1")
			if err != nil {
				m.Try("cd /srv/compose && docker-compose -p side down -v -t 1 2>&1")
				t.Fatalf("docker-compose: %v\n%s", err, out)
			}
			composeContainers := inspected(m.Docker("ps", "-aq", "--filter", "label=com.docker.compose.project=side"), m.Docker, "com.docker.compose.service")
			m.Exec("cd /srv/compose && docker-compose -p side down -v -t 1 2>&1")

			os.Remove(filepath.Join(s.dir, "libs/dock.libsonnet"))
			if code, _ := s.run("import", "compose", "libs/compose.yaml", "-o", "libs/dock.libsonnet"); code != 0 {
				t.Fatal("no import")
			}
			s.file("defx.jsonnet", fmt.Sprintf("{ name: 'dock', libs: { d: import 'libs/dock.libsonnet' }, allow: { 'd/*': ['%s'] }, machines: { m1: { connect: 'ssh://root@%s' } } }\n", strings.Join(allKinds(), "', '"), m.Address), 0o644)
			m.Exec("mkdir -p /var/lib/defx/secrets/default/dock; echo hi > /var/lib/defx/secrets/default/dock/word")
			s.wants(0)
			defxContainers := inspected(m.Docker("ps", "-aq", "--filter", "label=dev.defx.address"), m.Docker, "dev.defx.address")
			s.run("destroy", "--yes", "--confirm", "default")
			for service, a := range composeContainers {
				b := defxContainers["d/"+service+"#0"]
				if b == nil {
					t.Errorf("there is no %s: %v", service, reflect.ValueOf(defxContainers).MapKeys())
					continue
				}
				for _, d := range differences("", a, b) {
					if !slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(d, k) }) {
						t.Errorf("%s: %s", service, d)
					}
				}
			}
		})
	}
}

// known are the fields whose differences docs/compose.md describes.
var known = []string{"Config.Labels.dev.defx.", "Config.Labels.com.docker.compose.", "Config.AttachStd", "HostConfig.NetworkMode", "HostConfig.ExtraHosts", "HostConfig.LogConfig",
	"Config.Env: compose <nil>, defx [word_FILE=/run/secrets/word]", "HostConfig.RestartPolicy.Name", "HostConfig.Mounts", "HostConfig.Binds", "HostConfig.Tmpfs"}

// inspected returns the engine's description of containers, by service.
func inspected(ids string, docker func(...string) string, label string) map[string]map[string]any {
	out := map[string]map[string]any{}
	var list []map[string]any
	json.Unmarshal([]byte(docker(append([]string{"inspect"}, strings.Fields(ids)...)...)), &list)
	for _, c := range list {
		config, _ := c["Config"].(map[string]any)
		labels, _ := config["Labels"].(map[string]any)
		if unit, _ := labels["dev.defx.unit"].(string); unit != "" && !strings.HasSuffix(unit, ".container") {
			continue
		}
		if id, _ := c["Id"].(string); config["Hostname"] == id[:min(12, len(id))] {
			delete(config, "Hostname") // not set in the file
		}
		host, _ := c["HostConfig"].(map[string]any)
		for _, list := range []any{config["Env"], host["Ulimits"]} { // Compose's order is arbitrary
			if l, is := list.([]any); is {
				slices.SortFunc(l, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			}
		}
		service, _ := labels[label].(string)
		out[service] = map[string]any{"Config": config, "HostConfig": host}
	}
	return out
}

// differences returns the fields in which two values differ. Empty equals absent.
func differences(at string, a, b any) []string {
	if isEmpty(a) && isEmpty(b) {
		return nil
	}
	x, isX := a.(map[string]any)
	y, isY := b.(map[string]any)
	if (isX || isEmpty(a)) && (isY || isEmpty(b)) {
		var out []string
		keys := map[string]bool{}
		for k := range x {
			keys[k] = true
		}
		for k := range y {
			keys[k] = true
		}
		for k := range keys {
			out = append(out, differences(strings.TrimPrefix(at+"."+k, "."), x[k], y[k])...)
		}
		slices.Sort(out)
		return out
	}
	if reflect.DeepEqual(a, b) {
		return nil
	}
	return []string{fmt.Sprintf("%s: compose %v, defx %v", at, a, b)}
}

func isEmpty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	case string:
		return v == ""
	case bool:
		return !v
	case float64:
		return v == 0
	}
	return false
}

// allKinds returns all kinds of needs.
func allKinds() []string {
	var out []string
	for _, r := range graph.NeedRules {
		out = append(out, string(r.Kind))
	}
	return out
}
