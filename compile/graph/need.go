package graph

import (
	"slices"
	"strings"
)

// Need is a right that a unit asks for, or an effect that it has, beyond running as a process of its
// own. Backends compute the needs of a unit when they render it; they are in no digest. A plan shows
// them, and the entry file allows them (Graph.Allow).
type Need struct {
	Kind  NeedKind `json:"kind"`
	Value string   `json:"value,omitempty"` // what exactly: a path, a name, NAME=VALUE
	Field []string `json:"-"`               // path of the field in the entry's value that asks for it
}

// NeedKind is the kind of a need, as allow names it.
type NeedKind string

// Kinds of needs.
const (
	NeedRoot          NeedKind = "root"
	NeedUser          NeedKind = "user"
	NeedGroup         NeedKind = "group"
	NeedRootGroup     NeedKind = "root-group"
	NeedCapability    NeedKind = "capability"
	NeedNoHardening   NeedKind = "no-hardening"
	NeedPrivileged    NeedKind = "privileged"
	NeedHostPID       NeedKind = "host-pid"
	NeedHostIPC       NeedKind = "host-ipc"
	NeedHostNetwork   NeedKind = "host-network"
	NeedHostUTS       NeedKind = "host-uts"
	NeedHostUser      NeedKind = "host-user"
	NeedHostCgroup    NeedKind = "host-cgroup"
	NeedNamespace     NeedKind = "namespace"
	NeedDevice        NeedKind = "device"
	NeedHostPath      NeedKind = "host-path"
	NeedHostFile      NeedKind = "host-file"
	NeedRootFiles     NeedKind = "root-files"
	NeedDefxFiles     NeedKind = "defx-files"
	NeedEngineSocket  NeedKind = "engine-socket"
	NeedSocket        NeedKind = "socket"
	NeedSetting       NeedKind = "kernel-setting"
	NeedKernelProgram NeedKind = "kernel-program"
	NeedModule        NeedKind = "kernel-module"
	NeedPackage       NeedKind = "package"
	NeedProgram       NeedKind = "program"
	NeedPort          NeedKind = "port"
	NeedPublic        NeedKind = "public"
	NeedOthers        NeedKind = "others"
	NeedSystemdOption NeedKind = "systemd-option"
	NeedEngineOption  NeedKind = "engine-option"
	NeedSecretOfOther NeedKind = "secret-of-others"
)

// NeedRule is what is known about a kind of need.
type NeedRule struct {
	Kind   NeedKind
	Text   string // how a plan says it, before the value
	Denied bool   // it is an error unless the entry file allows it
	Warned bool   // lint warns about it unless the entry file allows it
	About  string // what it is, for the reference
}

// NeedRules are the kinds of needs, in the order in which plans show them.
var NeedRules = []NeedRule{
	{NeedPrivileged, "privileged", true, false, "a container with all rights of the machine's root"},
	{NeedHostPID, "processes of the machine", true, false, "the machine's process namespace"},
	{NeedHostIPC, "shared memory of the machine", true, false, "the machine's IPC namespace"},
	{NeedHostNetwork, "network of the machine", true, false, "the machine's network namespace, for a container"},
	{NeedHostUTS, "host name of the machine", true, false, "the machine's UTS namespace"},
	{NeedHostUser, "users of the machine", true, false, "the machine's user namespace"},
	{NeedHostCgroup, "control groups of the machine", true, false, "the machine's cgroup namespace"},
	{NeedNamespace, "namespace of another", true, false, "namespaces or volumes of another container or process"},
	{NeedEngineSocket, "container engine", true, false, "the socket of a container engine, which gives all rights of root"},
	{NeedDefxFiles, "defx's own files", true, false, "`/var/lib/defx` and the data and secrets of other services"},
	{NeedSecretOfOther, "secret of another library", true, false, "a secret whose name begins with the name of another library"},
	{NeedRootFiles, "files that give root", true, false, "files of the machine from which root runs programs or takes rights, such as `/etc/sudoers.d`, and those that only root may read"},
	{NeedRootGroup, "group that gives root", true, false, "a group such as `docker`, `disk` or `sudo`"},
	{NeedKernelProgram, "program run by the kernel", true, false, "a kernel setting that names a program, such as `kernel.core_pattern = |…`"},
	{NeedProgram, "program on this machine", false, true, "a program that runs where `defx apply` runs: an external provider, or a provider of Terraform that is not AWS's"},
	{NeedRoot, "root", false, false, "a process of the user root"},
	{NeedUser, "user", false, false, "a user of the machine that stays"},
	{NeedGroup, "group", false, false, "membership in a group"},
	{NeedCapability, "capability", false, true, "a capability of the kernel other than NET_BIND_SERVICE, CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID and SETUID"},
	{NeedNoHardening, "without", false, true, "a restriction that every other service has is lifted"},
	{NeedOthers, "effect on others", false, true, "options of systemd that stop, start or delay other units or the machine: FailureAction, Conflicts, OnFailure, …"},
	{NeedDevice, "device", false, true, "a device of the machine"},
	{NeedHostPath, "path of the machine", false, false, "a directory or file of the machine"},
	{NeedHostFile, "file of the machine", false, false, "a file that is written for all to see (`hostFiles`)"},
	{NeedSocket, "socket", false, false, "a unix socket on the machine"},
	{NeedSetting, "kernel setting", false, false, "`host.sysctl`"},
	{NeedModule, "kernel module", false, false, "`host.modules`"},
	{NeedPackage, "package", false, false, "`host.packages`: its scripts run as root"},
	{NeedPort, "port", false, false, "a port of the machine"},
	{NeedPublic, "open to", false, false, "reachable from the internet"},
	{NeedSystemdOption, "systemd", false, false, "another directive of systemd"},
	{NeedEngineOption, "engine", false, false, "another field of the engine's HostConfig"},
}

// Rule returns what is known about a kind of need.
func (k NeedKind) Rule() NeedRule {
	i := slices.IndexFunc(NeedRules, func(r NeedRule) bool { return r.Kind == k })
	if i < 0 {
		return NeedRule{Kind: k, Text: string(k)}
	}
	return NeedRules[i]
}

// order returns the position of a kind in NeedRules.
func (k NeedKind) order() int {
	return slices.IndexFunc(NeedRules, func(r NeedRule) bool { return r.Kind == k })
}

// String returns a need as people read it: "file of the machine /etc/x".
func (n Need) String() string {
	return strings.TrimSpace(n.Kind.Rule().Text + " " + n.Value)
}

// SortNeeds sorts needs and removes those that occur twice.
func SortNeeds(list []Need) []Need {
	slices.SortStableFunc(list, func(a, b Need) int {
		if d := a.Kind.order() - b.Kind.order(); d != 0 {
			return d
		}
		return strings.Compare(a.Value, b.Value)
	})
	return slices.CompactFunc(list, func(a, b Need) bool { return a.Kind == b.Kind && a.Value == b.Value })
}

// Allows reports whether the entry file allows a functionality a kind of need: under its name, or
// under its library's, "lib/*".
func (g *Graph) Allows(functionality string, kind NeedKind) bool {
	lib, _, _ := strings.Cut(functionality, "/")
	return slices.Contains(g.Allow[functionality], string(kind)) || slices.Contains(g.Allow[lib+"/*"], string(kind))
}

// HasLibrary reports whether a library of this name has something in the graph.
func (g *Graph) HasLibrary(name string) bool {
	has := func(s *Service) bool { return s.Address.Lib == name && s.Fact == nil }
	return slices.ContainsFunc(g.Services, has) || slices.ContainsFunc(g.Scaled, has) ||
		slices.ContainsFunc(g.Resources, func(r *Resource) bool { return r.Address.Lib == name })
}

// AllowLine returns the line of the entry file that allows a functionality more kinds of needs.
func (g *Graph) AllowLine(functionality string, kinds ...NeedKind) string {
	list := slices.Clone(g.Allow[functionality])
	for _, k := range kinds {
		list = append(list, string(k))
	}
	slices.Sort(list)
	return "allow: { '" + functionality + "': ['" + strings.Join(slices.Compact(list), "', '") + "'] }"
}

// engineSockets are the sockets through which containers are made.
var engineSockets = []string{"/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/crio/crio.sock"}

// defxDirs hold what belongs to defx and to other services.
var defxDirs = []string{"/var/lib/defx", "/var/cache/defx", "/var/log/defx", "/run/defx", "/run/credentials", "/var/lib/private", "/var/cache/private", "/var/log/private"}

// rootPaths are files, and directories with all that is below them, from which root runs programs,
// or which say who has which rights.
var rootPaths = []string{
	"/boot", "/dev", "/proc", "/root", "/sys", "/usr", "/lost+found",
	"/etc/NetworkManager", "/etc/anacrontab", "/etc/apt", "/etc/bash.bashrc", "/etc/binfmt.d", "/etc/ca-certificates", "/etc/ca-certificates.conf", "/etc/cloud", "/etc/containerd",
	"/etc/cron.allow", "/etc/cron.d", "/etc/cron.daily", "/etc/cron.deny", "/etc/cron.hourly", "/etc/cron.monthly", "/etc/cron.weekly", "/etc/crontab", "/etc/crypttab",
	"/etc/dbus-1", "/etc/default", "/etc/dhcp", "/etc/docker", "/etc/dpkg", "/etc/environment", "/etc/environment.d", "/etc/fstab", "/etc/group", "/etc/grub.d", "/etc/gshadow",
	"/etc/init.d", "/etc/initramfs-tools", "/etc/inittab", "/etc/kernel", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload", "/etc/login.defs", "/etc/logrotate.conf",
	"/etc/logrotate.d", "/etc/modprobe.d", "/etc/modules", "/etc/modules-load.d", "/etc/network", "/etc/nsswitch.conf", "/etc/pam.conf", "/etc/pam.d", "/etc/passwd", "/etc/polkit-1",
	"/etc/profile", "/etc/profile.d", "/etc/rc.local", "/etc/rsyslog.conf", "/etc/rsyslog.d", "/etc/securetty", "/etc/security", "/etc/selinux", "/etc/apparmor", "/etc/apparmor.d",
	"/etc/shadow", "/etc/shells", "/etc/ssh", "/etc/ssl/private", "/etc/subgid", "/etc/subuid", "/etc/sudo.conf", "/etc/sudoers", "/etc/sudoers.d", "/etc/sysctl.conf", "/etc/sysctl.d",
	"/etc/systemd", "/etc/sysusers.d", "/etc/tmpfiles.d", "/etc/udev", "/etc/update-motd.d", "/etc/vim", "/etc/X11",
	"/run/containerd", "/run/dbus", "/run/docker", "/run/systemd", "/run/udev", "/run/user",
	"/var/lib/apt", "/var/lib/cloud", "/var/lib/containerd", "/var/lib/dbus", "/var/lib/docker", "/var/lib/dpkg", "/var/lib/initramfs-tools", "/var/lib/machines", "/var/lib/polkit-1", "/var/lib/portables",
	"/var/lib/systemd", "/var/lib/ucf", "/var/cache/apt", "/var/cache/debconf", "/var/spool/cron", "/var/spool/at", "/var/backups",
}

// secretPaths are files and directories that only root may read, or that give rights even to those
// who only read them.
var secretPaths = []string{"/dev", "/etc/gshadow", "/etc/shadow", "/etc/ssh", "/etc/ssl/private", "/etc/sudoers", "/etc/sudoers.d", "/proc", "/root", "/run/containerd", "/run/docker", "/run/user",
	"/var/backups", "/var/lib/containerd", "/var/lib/docker", "/var/spool/cron"}

// PathNeeds returns the kinds of needs of access to a path of the machine, with all that is below
// it; otherwise is the kind of a path that nothing is known about.
func PathNeeds(p string, write bool, otherwise NeedKind) []NeedKind {
	resolved := RealPath(p)
	overlaps := func(dirs []string) bool {
		return slices.ContainsFunc(dirs, func(d string) bool { return Below(resolved, d) || Below(d, resolved) })
	}
	var out []NeedKind
	if overlaps(engineSockets) || strings.HasSuffix(resolved, "/docker.sock") || strings.HasSuffix(resolved, "/containerd.sock") || strings.HasSuffix(resolved, "/podman.sock") {
		out = append(out, NeedEngineSocket)
	}
	if overlaps(defxDirs) {
		out = append(out, NeedDefxFiles)
	}
	if write && (overlaps(rootPaths) || isRC(resolved)) || overlaps(secretPaths) {
		out = append(out, NeedRootFiles)
	}
	if len(out) == 0 {
		return []NeedKind{otherwise}
	}
	return out
}

// isRC reports whether a path is in a directory of init scripts, /etc/rc?.d.
func isRC(p string) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(p, "/etc/"), "/")
	return strings.HasPrefix(p, "/etc/rc") && len(name) == len("rc3.d") && strings.HasSuffix(name, ".d")
}

// rootGroups are groups whose members can get the rights of root, or read what only root may.
var rootGroups = []string{"root", "disk", "docker", "incus", "incus-admin", "kmem", "libvirt", "lxd", "shadow", "staff", "sudo", "wheel"}

// GroupNeed returns the kind of need of membership in a group.
func GroupNeed(name string) NeedKind {
	if slices.Contains(rootGroups, name) || name == "0" {
		return NeedRootGroup
	}
	return NeedGroup
}

// kernelPrograms are settings that name a program which the kernel runs as root.
var kernelPrograms = []string{"kernel.modprobe", "kernel.hotplug", "kernel.poweroff_cmd", "fs.binfmt_misc.register"}

// SettingNeed returns the kind of need of a kernel setting.
func SettingNeed(key, value string) NeedKind {
	key = strings.ReplaceAll(key, "/", ".")
	if slices.Contains(kernelPrograms, key) || key == "kernel.core_pattern" && strings.HasPrefix(strings.TrimSpace(value), "|") {
		return NeedKernelProgram
	}
	return NeedSetting
}

// plainCapabilities are those that ordinary servers have: to bind a low port, and to change the
// owner of their own files and their user.
var plainCapabilities = []string{"NET_BIND_SERVICE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"}

// EngineCapabilities is the value of a need for the capabilities that an engine gives by default.
const EngineCapabilities = "those of the engine's default"

// Warned reports whether lint warns about a need that the entry file does not allow.
func (n Need) Warned() bool {
	return n.Kind.Rule().Warned && !(n.Kind == NeedCapability && (PlainCapability(n.Value) || n.Value == EngineCapabilities))
}

// PlainCapability reports whether a capability is one that ordinary servers have.
func PlainCapability(name string) bool {
	return slices.Contains(plainCapabilities, strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
}
