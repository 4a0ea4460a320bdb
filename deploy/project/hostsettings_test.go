package project_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestHost_RefusalHoldsAtItsLine checks that a host setting that is refused holds what requires it:
// nothing is deployed without it, and the error has the place of the setting.
func TestHost_RefusalHoldsAtItsLine(t *testing.T) {
	const entry = `
-- defx.jsonnet --
{
  name: 'c', machines: { m: { connect: 'dir:m' } },
  libs: { app: {
    web: { service: { command: ['/bin/true'] },
      host: HOST },
    other: { service: { command: ['/bin/true'] } },
  } },
}
`
	for host, want := range map[string]string{
		"{ packages: ['nginx=1;id'] }":                            `defx.jsonnet:5:26: app/web: "1;id" is not a version of a Debian package`,
		"{ packages: ['curl', 'nginx=1`id`'] }":                   "is not a version of a Debian package",
		"{ packages: ['openssh-server-'] }":                       "apt reads a - at the end as remove",
		"{ users: { x: { groups: ['adm\\nu toor 0:0'] } } }":      `is not a valid group name`,
		"{ users: { root: {} } }":                                 `"root" is a user of the operating system`,
		"{ sysctl: { 'vm.x': '1\\nkernel.core_pattern = |/x' } }": "is not the value of a kernel setting",
		"{ modules: ['x options'] }":                              "is not the name of a kernel module",
	} {
		w := newWorld(t, strings.Replace(entry, "HOST", host, 1))
		d, cs := w.plan()
		if len(d.Held) != 1 || d.Held[0].Name != "app/web" || !strings.Contains(d.Held[0].Err.Error(), want) {
			t.Errorf("%s: held %v, want %s", host, d.Held, want)
		}
		if strings.Contains(ops(cs), "app/web") || !strings.Contains(ops(cs), "app/other") {
			t.Errorf("%s: actions %s", host, ops(cs))
		}
	}
	w := newWorld(t, strings.Replace(entry, "HOST", "{ packages: ['nginx=1'] }", 1)) // an accepted one is deployed
	w.apply()
	if found, _ := filepath.Glob(filepath.Join(w.dir, "m/etc/systemd/system/*packages-nginx*")); len(found) == 0 {
		t.Error("the package has no unit")
	}
}
