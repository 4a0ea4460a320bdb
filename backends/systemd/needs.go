package systemd

import (
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/sets"
)

// harmlessUnit and harmlessService are directives, and beginnings of directives if they end in "*",
// that concern the service itself only, or restrict it.
var (
	harmlessUnit = []string{"After", "AllowIsolate", "Assert*", "CollectMode", "Condition*", "DefaultDependencies", "Documentation", "IgnoreOnIsolate", "JobRunningTimeoutSec", "JobTimeoutSec",
		"RefuseManualStart", "RefuseManualStop", "Requisite", "RequiresMountsFor", "SourcePath", "StartLimitBurst", "StartLimitIntervalSec", "StopWhenUnneeded", "SurviveFinalKillSignal", "WantsMountsFor"}
	harmlessService = []string{"CPU*", "CapabilityBoundingSet", "CoredumpFilter", "CoredumpReceive", "DisableControllers", "ExecPaths", "FileDescriptorStoreMax", "FileDescriptorStorePreserve", "FinalKillSignal", "GuessMainPID",
		"IO*", "IPAccounting", "IPAddressAllow", "IPAddressDeny", "IgnoreSIGPIPE", "InaccessiblePaths", "KeyringMode", "KillMode", "Limit*", "LockPersonality", "Log*", "Memory*", "NUMA*", "Nice", "NoExecPaths", "NoNewPrivileges",
		"NonBlocking", "NotifyAccess", "OOMPolicy", "Private*", "ProcSubset", "Protect*", "ReadOnlyPaths", "RemoveIPC", "ReloadSignal", "Restart*", "Restrict*", "RuntimeMaxSec", "RuntimeRandomizedExtraSec", "SecureBits", "SendSIGHUP",
		"SendSIGKILL", "SocketBindAllow", "SocketBindDeny", "StandardError", "StandardInputData", "StandardInputText", "StandardOutput", "StartupCPU*", "StartupIO*", "StartupMemory*", "SuccessExitStatus", "Syslog*", "SystemCall*",
		"Tasks*", "TemporaryFileSystem", "TimeoutAbortSec", "TimeoutSec", "TimeoutStartFailureMode", "TimeoutStartSec", "TimeoutStopFailureMode", "TimerSlackNSec", "UMask", "WatchdogSec", "WatchdogSignal"}
)

// effectsOnOthers are directives that stop, start, delay or change other units or the machine.
var effectsOnOthers = []string{"Before", "BindsTo", "Conflicts", "FailureAction", "FailureActionExitStatus", "JobTimeoutAction", "JobTimeoutRebootArgument", "OnFailure", "OnFailureJobMode", "OnSuccess", "OnSuccessJobMode",
	"PropagatesReloadTo", "PropagatesStopTo", "RebootArgument", "ReloadPropagatedFrom", "Requires", "StartLimitAction", "StopPropagatedFrom", "SuccessAction", "SuccessActionExitStatus", "Upholds", "Wants"}

// namespaces are directives that join what belongs to another process.
var namespaces = []string{"IPCNamespacePath", "JoinsNamespaceOf", "NetworkNamespacePath", "UserNamespacePath"}

// writablePaths and readablePaths are directives that give a service paths of the machine.
var (
	writablePaths = []string{"BindPaths", "ReadWritePaths", "RootDirectory", "RootImage"}
	readablePaths = []string{"BindReadOnlyPaths", "ExtensionDirectories", "ExtensionImages", "MountImages"}
)

func listed(list []string, name string) bool {
	return slices.ContainsFunc(list, func(s string) bool {
		prefix, is := strings.CutSuffix(s, "*")
		return s == name || is && strings.HasPrefix(name, prefix)
	})
}

// asks collects the needs of a service.
type asks struct{ list []graph.Need }

func (a *asks) add(kind graph.NeedKind, value string, field ...string) {
	a.list = append(a.list, graph.Need{Kind: kind, Value: value, Field: field})
}

// path adds the needs of access to a path of the machine. A path that is not plain is one that only
// systemd can read, so it may be any.
func (a *asks) path(p string, write bool, otherwise graph.NeedKind, field ...string) {
	a.notedPath(p, "", write, otherwise, field...)
}

// notedPath is path with a note about the access.
func (a *asks) notedPath(p, note string, write bool, otherwise graph.NeedKind, field ...string) {
	if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "%\\\"'") {
		a.add(graph.NeedRootFiles, p, field...)
		return
	}
	for _, kind := range graph.PathNeeds(p, write, otherwise) {
		a.add(kind, p+note, field...)
	}
}

// needs returns what the service asks for.
func (b *builder) needs() []graph.Need {
	a := &asks{}
	switch user := b.Run.User; user {
	case "":
	case "root":
		a.add(graph.NeedRoot, "", spec.At("user")...)
	default:
		a.add(graph.NeedUser, user, spec.At("user")...)
	}
	if b.Run.LowPort {
		a.add(graph.NeedCapability, "NET_BIND_SERVICE", spec.At("ports")...)
	}
	for _, name := range sets.Keys(b.Meta.Ports) {
		p := b.Meta.Ports[name]
		a.add(graph.NeedPort, spec.PortText(p.Protocol, "", p.Port), spec.At("ports", name)...)
	}
	for _, l := range b.Run.Sockets {
		if l.Path != "" {
			a.path(l.Path, true, graph.NeedSocket, spec.At("sockets", l.Name)...)
		}
	}
	for _, d := range b.Run.Dirs {
		if d.Name == "" {
			a.path(d.Path, true, graph.NeedHostPath, d.At()...)
		}
	}
	for _, files := range b.allHostFiles() {
		for _, p := range sets.Keys(files) {
			a.path(p, true, graph.NeedHostFile, spec.At("hostFiles", p)...)
		}
	}
	o := b.Run.Options
	if h := o.Hardening; h != nil && h.Off {
		a.add(graph.NeedNoHardening, "any hardening", "systemd", "hardening")
	} else if h != nil {
		a.directives(h.Set, b.Run.User, "systemd", "hardening")
		for _, d := range hardeningDirectives {
			if v, set := h.Set[d.directive]; set && len(v) == 0 {
				a.add(graph.NeedNoHardening, d.directive, "systemd", "hardening", d.directive)
			}
		}
	}
	a.directives(o.Service, b.Run.User, "systemd", "service")
	for _, k := range sets.Keys(o.Unit) {
		for _, v := range o.Unit[k] {
			a.unitDirective(k, v, "systemd", "unit", k)
		}
	}
	return graph.SortNeeds(a.list)
}

// unitDirective adds the need of a directive of [Unit].
func (a *asks) unitDirective(k, v string, field ...string) {
	switch {
	case listed(harmlessUnit, k) || v == "" || strings.HasSuffix(k, "Action") && v == "none":
	case slices.Contains(namespaces, k):
		a.add(graph.NeedNamespace, k+"="+v, field...)
	case slices.Contains(effectsOnOthers, k):
		a.add(graph.NeedOthers, k+"="+v, field...)
	default:
		a.add(graph.NeedSystemdOption, k+"="+v, field...)
	}
}

// directives adds the needs of directives of [Service].
func (a *asks) directives(m map[string]values, user string, field ...string) {
	for _, k := range sets.Keys(m) {
		for _, v := range m[k] {
			a.serviceDirective(k, v, user, append(slices.Clone(field), k)...)
		}
	}
}

// serviceDirective adds the needs of a directive of [Service].
func (a *asks) serviceDirective(k, v, user string, field ...string) {
	words := strings.Fields(v)
	switch {
	case v == "":
	case k == "AmbientCapabilities":
		for _, c := range words {
			a.add(graph.NeedCapability, strings.TrimPrefix(c, "CAP_"), field...)
		}
	case k == "Group" || k == "SupplementaryGroups":
		for _, g := range words {
			a.add(graph.GroupNeed(g), g, field...)
		}
	case k == "DeviceAllow":
		a.add(graph.NeedDevice, v, field...)
	case k == "DevicePolicy":
		a.add(graph.NeedDevice, k+"="+v, field...)
	case slices.Contains(namespaces, k):
		a.add(graph.NeedNamespace, k+"="+v, field...)
	case slices.Contains(writablePaths, k):
		for _, p := range words {
			source, _, _ := strings.Cut(strings.TrimLeft(p, "-+"), ":")
			a.path(source, user == "root" || k != "ReadWritePaths", graph.NeedHostPath, field...)
		}
	case slices.Contains(readablePaths, k):
		for _, p := range words {
			source, _, _ := strings.Cut(strings.TrimLeft(p, "-+"), ":")
			a.notedPath(source, " (read-only)", false, graph.NeedHostPath, field...)
		}
	case k == "OpenFile": // systemd opens it as root
		source, _, _ := strings.Cut(v, ":")
		a.path(source, true, graph.NeedHostPath, field...)
	case k == "ConfigurationDirectory":
		for _, p := range words {
			source, _, _ := strings.Cut(p, ":")
			a.path("/etc/"+source, true, graph.NeedHostPath, field...)
		}
	case strings.HasPrefix(k, "Standard") && strings.ContainsRune(v, ':'): // opened by systemd as root
		if how, p, _ := strings.Cut(v, ":"); how != "fd" {
			a.path(p, true, graph.NeedHostPath, field...)
		}
	case weakens(k, v):
		a.add(graph.NeedNoHardening, k+" ("+k+"="+v+")", field...)
	case listed(harmlessService, k):
	default:
		a.add(graph.NeedSystemdOption, k+"="+v, field...)
	}
}

// weakens reports whether a value of a directive of the default hardening is another one.
func weakens(k, v string) bool {
	on := slices.Contains([]string{"yes", "true", "on", "1", "y", "t"}, strings.TrimSpace(v))
	for _, d := range hardeningDirectives {
		if d.directive == k {
			return d.value != strings.TrimSpace(v) && !(on && (d.value == "yes" || k == "ProtectHome")) && k != "InaccessiblePaths"
		}
	}
	return false
}

// needs returns what a fact asks for.
func (f *factPayload) needs(value string) []graph.Need {
	need := func(kind graph.NeedKind, value string) []graph.Need {
		return []graph.Need{{Kind: kind, Value: value, Field: spec.At()}}
	}
	switch f.Kind {
	case "sysctl":
		return need(graph.SettingNeed(f.Key, value), f.Key+" = "+value)
	case "modules":
		return need(graph.NeedModule, f.Key)
	case "packages":
		return need(graph.NeedPackage, value)
	}
	return nil
}

// userNeeds returns what a user that a machine must have asks for.
func userNeeds(name string, u graph.User) []graph.Need {
	out := []graph.Need{{Kind: graph.NeedUser, Value: name, Field: spec.At()}}
	if u.UID != 0 {
		out[0].Value += " (" + strconv.Itoa(u.UID) + ")"
	}
	for _, g := range u.Groups {
		out = append(out, graph.Need{Kind: graph.GroupNeed(g), Value: g, Field: spec.At()})
	}
	return graph.SortNeeds(out)
}
