package systemd

import "github.com/defx-dev/defx/backends"

// A named user is created by systemd-sysusers. The file and the unit that applies it are shared by all
// services of all deployments that run as the user, so they must not depend on the service that writes
// them. The unit runs at every boot, because systemd-sysusers.service runs only after an update of
// /usr, which never happens in an image.

func sysusersPath(user string) string { return "/etc/sysusers.d/defx-" + user + ".conf" }

func sysusers(user string) backends.File {
	return backends.File{Path: sysusersPath(user), Content: []byte("u " + user + " - \"defx service user\"\n"),
		Mode: 0o644, Shared: true}
}

func userService(user string) []byte {
	var u unitText
	u.section("Unit")
	u.set("Description", "defx user "+user)
	u.set("DefaultDependencies", "no")
	u.set("After", "systemd-remount-fs.service systemd-sysusers.service")
	u.set("Before", "shutdown.target")
	u.set("Conflicts", "shutdown.target")
	u.section("Service")
	u.set("Type", "oneshot")
	u.set("RemainAfterExit", "yes")
	u.set("ExecStart", "systemd-sysusers "+sysusersPath(user))
	return u.bytes()
}
