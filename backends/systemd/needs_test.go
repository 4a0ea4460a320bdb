package systemd

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/graph"
)

// TestNeeds_ListsWhatIsAskedFor checks the needs of services: the kinds, and that each has its field.
func TestNeeds_ListsWhatIsAskedFor(t *testing.T) {
	empty := graph.File{Text: lit("x")[0]}
	plain := graph.Spec{Command: lit("/bin/x")}
	for name, c := range map[string]struct {
		spec    graph.Spec
		options string
		want    string
	}{
		"nothing":         {plain, "", ""},
		"root":            {graph.Spec{Command: lit("/bin/x"), User: "root"}, `{"hardening":false}`, "root, without any hardening"},
		"a user":          {graph.Spec{Command: lit("/bin/x"), User: "shop"}, "", "user shop"},
		"ports":           {graph.Spec{Command: lit("/bin/x"), Ports: map[string]graph.Port{"a": {Port: 80}, "b": {Port: 53, Protocol: "udp"}}}, "", "capability NET_BIND_SERVICE, port tcp/80, port udp/53"},
		"host files":      {graph.Spec{Command: lit("/bin/x"), HostFiles: map[string]graph.File{"/etc/ld.so.preload": empty, "/etc/app.conf": empty, "/etc/sudoers.d/x": empty, "/lib/x": empty}}, "", "files that give root /etc/ld.so.preload, files that give root /etc/sudoers.d/x, files that give root /lib/x, file of the machine /etc/app.conf"},
		"power":           {plain, `{"unit":{"FailureAction":"reboot","Conflicts":"ssh.service","After":"x.service"}}`, "effect on others Conflicts=ssh.service, effect on others FailureAction=reboot"},
		"lifted":          {plain, `{"hardening":{"ProtectHome":false,"PrivateDevices":"no","ProtectSystem":"strict"}}`, "without PrivateDevices (PrivateDevices=no), without ProtectHome"},
		"groups":          {plain, `{"service":{"SupplementaryGroups":["adm","docker"]}}`, "group that gives root docker, group adm"},
		"capabilities":    {plain, `{"service":{"AmbientCapabilities":"CAP_SYS_ADMIN CAP_NET_RAW","CapabilityBoundingSet":"CAP_SYS_ADMIN"}}`, "capability NET_RAW, capability SYS_ADMIN"},
		"engine":          {plain, `{"service":{"BindPaths":"/run/docker.sock:/x"}}`, "container engine /run/docker.sock"},
		"engine, old":     {plain, `{"service":{"BindReadOnlyPaths":"-/var/run"}}`, "container engine /var/run (read-only), defx's own files /var/run (read-only), files that give root /var/run (read-only)"},
		"secrets":         {plain, `{"service":{"BindReadOnlyPaths":"/var/lib/defx/secrets"}}`, "defx's own files /var/lib/defx/secrets (read-only)"},
		"a specifier":     {plain, `{"service":{"BindPaths":"%t/docker.sock"}}`, "files that give root %t/docker.sock"},
		"output":          {plain, `{"service":{"StandardOutput":"append:/etc/cron.d/x"}}`, "files that give root /etc/cron.d/x"},
		"journal":         {plain, `{"service":{"StandardOutput":"journal","Nice":"5","LimitCORE":"0"}}`, ""},
		"a namespace":     {plain, `{"service":{"NetworkNamespacePath":"/proc/1/ns/net"}}`, "namespace of another NetworkNamespacePath=/proc/1/ns/net"},
		"a device":        {plain, `{"service":{"DeviceAllow":"/dev/kvm rw"}}`, "device /dev/kvm rw"},
		"a data path":     {plain, `{"service":{"ReadWritePaths":"/srv/x"}}`, "path of the machine /srv/x"},
		"something else":  {plain, `{"service":{"PAMName":"login"}}`, "systemd PAMName=login"},
		"a configuration": {plain, `{"service":{"ConfigurationDirectory":"sudoers.d"}}`, "files that give root /etc/sudoers.d"},
	} {
		in := input("x", c.spec)
		if c.options != "" {
			in.Service.Options = json.RawMessage(c.options)
		}
		_, effects, errs := New().Render(in)
		if len(errs) > 0 {
			t.Errorf("%s: %v", name, errs)
			continue
		}
		var got []string
		for _, n := range effects.Needs {
			got = append(got, n.String())
			if len(n.Field) < 4 || n.Field[0] != "libs" {
				t.Errorf("%s: %s is at %q", name, n, n.Field)
			}
		}
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: %s\nwant %s", name, s, c.want)
		}
	}
}

func TestNeeds_OfFacts(t *testing.T) {
	for _, c := range []struct {
		kind, key string
		value     any
		want      string
	}{
		{"sysctl", "kernel.core_pattern", "|/tmp/x %p", "program run by the kernel kernel.core_pattern = |/tmp/x %p"},
		{"sysctl", "kernel/core_pattern", "|/tmp/x %p", "program run by the kernel kernel/core_pattern = |/tmp/x %p"},
		{"sysctl", "kernel.core_pattern", "core", "kernel setting kernel.core_pattern = core"}, {"sysctl", "kernel.modprobe", "/tmp/x", "program run by the kernel kernel.modprobe = /tmp/x"},
		{"modules", "br_netfilter", true, "kernel module br_netfilter"}, {"packages", "nginx", "1.2-3", "package nginx=1.2-3"},
		{"users", "ci", graph.User{UID: 900, Groups: []string{"docker"}}, "group that gives root docker, user ci (900)"},
	} {
		l, err := fact(t, c.kind, c.key, c.value)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range l.Needs {
			got = append(got, n.String())
		}
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: %s, want %s", c.key, s, c.want)
		}
	}
}
