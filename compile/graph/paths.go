package graph

import (
	"path"
	"slices"
	"strings"
)

// This file knows which paths of a machine belong to the operating system.

// systemDirs are directories whose content belongs to the operating system, after aliases are
// resolved (see RealPath).
var systemDirs = []string{
	"/boot", "/dev", "/etc", "/proc", "/root", "/sys", "/tmp", "/usr", "/var/tmp",
	"/var/lib/apt", "/var/lib/containerd", "/var/lib/dbus", "/var/lib/defx", "/var/cache/defx", "/var/log/defx", "/run/defx", "/var/lib/docker", "/var/lib/dpkg", "/var/lib/initramfs-tools", "/var/lib/machines",
	"/var/lib/pam", "/var/lib/polkit-1", "/var/lib/portables", "/var/lib/private", "/var/lib/sudo", "/var/lib/systemd", "/var/lib/ucf",
	"/var/backups", "/var/cache/apt", "/var/cache/debconf", "/var/cache/ldconfig", "/var/cache/private", "/var/log/apt", "/var/log/journal", "/var/log/private",
	"/var/mail", "/var/spool/cron", "/var/spool/mail",
	"/run/containerd", "/run/credentials", "/run/dbus", "/run/docker", "/run/docker.sock", "/run/initctl", "/run/lock", "/run/log", "/run/sshd", "/run/sudo", "/run/systemd", "/run/udev", "/run/user",
}

// sharedDirs are directories that are common to many programs: what is below them can belong to a
// service, they themselves cannot.
var sharedDirs = []string{"/", "/home", "/media", "/mnt", "/opt", "/run", "/srv", "/var", "/var/cache", "/var/lib", "/var/local", "/var/log", "/var/opt", "/var/spool"}

// usrLocal may hold what is no part of the operating system.
const usrLocal = "/usr/local"

// aliases are directories that Debian links to others.
var aliases = [][2]string{{"/bin", "/usr/bin"}, {"/sbin", "/usr/sbin"}, {"/lib", "/usr/lib"}, {"/lib32", "/usr/lib32"}, {"/lib64", "/usr/lib64"}, {"/libx32", "/usr/libx32"},
	{"/var/run", "/run"}, {"/var/lock", "/run/lock"}}

// RealPath returns a clean path with Debian's links between directories resolved: /var/run is /run.
func RealPath(p string) string {
	p = path.Clean(p)
	for _, a := range aliases {
		if Below(p, a[0]) {
			return a[1] + strings.TrimPrefix(p, a[0])
		}
	}
	return p
}

// Below reports whether p is dir or below it. Both are clean.
func Below(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir) && p[len(dir)] == '/'
}

// ReservedDir returns the directory of the operating system, or the one common to many programs,
// that a path is, is in or contains, so that it cannot be given to the user of a service. It returns
// "" if there is none.
func ReservedDir(p string) string {
	resolved := RealPath(p)
	for _, dir := range systemDirs {
		if Below(resolved, dir) && (dir != "/usr" || !strings.HasPrefix(resolved, usrLocal+"/")) || Below(dir, resolved) {
			return dir
		}
	}
	if slices.Contains(sharedDirs, resolved) {
		return resolved
	}
	return ""
}
