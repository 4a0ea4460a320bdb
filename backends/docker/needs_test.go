package docker

import (
	"reflect"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"github.com/defx-dev/defx/compile/graph"
)

// TestNeeds_ListsWhatIsAskedFor checks the needs of containers.
func TestNeeds_ListsWhatIsAskedFor(t *testing.T) {
	for options, want := range map[string]string{
		`{}`: "",
		`{"host":{"Privileged":true,"PidMode":"host"}}`:                         "privileged, processes of the machine",
		`{"host":{"IpcMode":"host","UTSMode":"host","UsernsMode":"host"}}`:      "shared memory of the machine, host name of the machine, users of the machine",
		`{"host":{"PidMode":"container:x","VolumesFrom":["y"]}}`:                "namespace of another PidMode container:x, namespace of another volumes of y",
		`{"host":{"IpcMode":"private","ShmSize":5,"CpuShares":2,"Ulimits":[]}}`: "",
		`{"network":"host"}`:                                                                                      "network of the machine",
		`{"volumes":[{"path":"/","target":"/h"}]}`:                                                                "container engine /, defx's own files /, files that give root /",
		`{"volumes":[{"path":"/var/run/docker.sock","target":"/s"}]}`:                                             "container engine /var/run/docker.sock",
		`{"volumes":[{"path":"/var/lib/defx/secrets","target":"/s"}]}`:                                            "defx's own files /var/lib/defx/secrets",
		`{"volumes":[{"path":"/etc/localtime","target":"/s","readOnly":true}]}`:                                   "path of the machine /etc/localtime (read-only)",
		`{"volumes":[{"path":"/etc/shadow","target":"/s","readOnly":true}]}`:                                      "files that give root /etc/shadow (read-only)",
		`{"volumes":[{"path":"/etc","target":"/s"}]}`:                                                             "files that give root /etc",
		`{"volumes":[{"path":"/srv/x","target":"/s"},{"name":"v","target":"/v"}]}`:                                "path of the machine /srv/x",
		`{"capabilities":["SYS_ADMIN","CHOWN"]}`:                                                                  "capability SYS_ADMIN",
		`{"capabilities":["default"]}`:                                                                            "capability those of the engine's default",
		`{"host":{"Devices":[{"PathOnHost":"/dev/kvm","PathInContainer":"/dev/kvm","CgroupPermissions":"rwm"}]}}`: "device /dev/kvm",
		`{"host":{"SecurityOpt":["seccomp=unconfined"],"MaskedPaths":[]}}`:                                        "without the engine's MaskedPaths, without the engine's restrictions (seccomp=unconfined)",
		`{"host":{"GroupAdd":["docker","100"]}}`:                                                                  "group that gives root docker, group 100",
		`{"host":{"Runtime":"runsc"}}`:                                                                            "engine Runtime",
	} {
		_, effects, errs := New().Render(input("web", graph.Spec{Image: pinnedImage}, options))
		if len(errs) > 0 {
			t.Errorf("%s: %v", options, errs)
			continue
		}
		var got []string
		for _, n := range effects.Needs {
			got = append(got, n.String())
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("%s: %s\nwant %s", options, s, want)
		}
	}
}

func TestHarmlessFields_AreFields(t *testing.T) {
	for _, name := range harmlessFields {
		if _, ok := reflect.TypeOf(container.HostConfig{}).FieldByName(name); !ok {
			t.Errorf("HostConfig has no field %s", name)
		}
	}
}
