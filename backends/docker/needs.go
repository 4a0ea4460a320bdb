package docker

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/moby/moby/api/types/container"
)

// harmlessFields are fields of the engine's HostConfig that concern the container itself only.
var harmlessFields = []string{"BlkioDeviceReadBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteBps", "BlkioDeviceWriteIOps", "BlkioWeight", "BlkioWeightDevice", "ConsoleSize", "CPUCount", "CPUPercent", "CPUPeriod", "CPUQuota",
	"CPURealtimePeriod", "CPURealtimeRuntime", "CPUShares", "CpusetCpus", "CpusetMems", "DNS", "DNSOptions", "DNSSearch", "ExtraHosts", "IOMaximumBandwidth", "IOMaximumIOps", "Isolation",
	"MemoryReservation", "MemorySwap", "MemorySwappiness", "ShmSize", "StorageOpt", "Tmpfs", "Ulimits", "Annotations"}

// need adds a need.
func (b *builder) need(kind graph.NeedKind, value string, field ...string) {
	b.layout.Needs = append(b.layout.Needs, graph.Need{Kind: kind, Value: value, Field: field})
}

// needPath adds the needs of access to a path of the machine.
func (b *builder) needPath(p string, write bool, otherwise graph.NeedKind, field ...string) {
	for _, kind := range graph.PathNeeds(p, write, otherwise) {
		value := p
		if !write {
			value += " (read-only)"
		}
		b.need(kind, value, field...)
	}
}

// needs adds what a container asks for.
func (b *builder) needs(c *Container) {
	first, _, _ := strings.Cut(c.User, ":")
	if first == "0" || first == "root" {
		b.need(graph.NeedRoot, "in its container", spec.At("user")...)
	}
	for _, name := range c.CapAdd {
		if !graph.PlainCapability(name) {
			b.need(graph.NeedCapability, name, "docker", "capabilities")
		}
	}
	if !slices.Contains(c.CapDrop, "ALL") {
		b.need(graph.NeedCapability, graph.EngineCapabilities, "docker", "capabilities")
	}
	if c.Network == "host" {
		b.need(graph.NeedHostNetwork, "", "docker", "network")
	}
	for _, d := range b.Run.Dirs {
		if d.Name == "" {
			b.needPath(d.Path, true, graph.NeedHostPath, d.At()...)
		}
	}
	for _, v := range b.Run.Options.Volumes {
		if v.Path != "" {
			b.needPath(v.Path, !v.ReadOnly, graph.NeedHostPath, "docker", "volumes")
		}
	}
	hostFiles := b.Run.HostFiles
	if b.Reload != nil {
		hostFiles = b.Reload.HostFiles
	}
	for _, p := range sets.Keys(hostFiles) {
		b.needPath(p, true, graph.NeedHostFile, spec.At("hostFiles", p)...)
	}
	b.hostConfigNeeds(c.Host)
	b.layout.Needs = graph.SortNeeds(b.layout.Needs)
}

// hostConfigNeeds adds the needs of additional fields of the engine's HostConfig.
func (b *builder) hostConfigNeeds(raw json.RawMessage) {
	if len(raw) == 0 {
		return
	}
	var h container.HostConfig
	if err := json.Unmarshal(raw, &h); err != nil {
		b.Fail([]string{"docker", "host"}, "%v", err)
		return
	}
	v := reflect.ValueOf(h)
	for _, f := range reflect.VisibleFields(v.Type()) {
		if f.Anonymous || v.FieldByIndex(f.Index).IsZero() || slices.Contains(harmlessFields, f.Name) {
			continue
		}
		b.hostFieldNeeds(f.Name, &h)
	}
}

// joins returns whether a mode of a namespace joins that of the machine, or of another container.
func joins(mode string) (machine, other bool) {
	return mode == "host", strings.HasPrefix(mode, "container:") || strings.HasPrefix(mode, "ns:") || strings.HasPrefix(mode, "service:")
}

// hostFieldNeeds adds the needs of one field of HostConfig, which is not zero.
func (b *builder) hostFieldNeeds(name string, h *container.HostConfig) {
	at := func(field string) []string { return []string{"docker", "host", field} }
	namespace := func(kind graph.NeedKind, field, mode string) {
		if machine, other := joins(mode); machine {
			b.need(kind, "", at(field)...)
		} else if other {
			b.need(graph.NeedNamespace, field+" "+mode, at(field)...)
		}
	}
	switch name {
	case "Privileged":
		b.need(graph.NeedPrivileged, "", at(name)...)
	case "PidMode":
		namespace(graph.NeedHostPID, name, string(h.PidMode))
	case "IpcMode":
		namespace(graph.NeedHostIPC, name, string(h.IpcMode))
	case "UTSMode":
		namespace(graph.NeedHostUTS, name, string(h.UTSMode))
	case "UsernsMode":
		namespace(graph.NeedHostUser, name, string(h.UsernsMode))
	case "CgroupnsMode":
		namespace(graph.NeedHostCgroup, name, string(h.CgroupnsMode))
	case "VolumesFrom":
		for _, from := range h.VolumesFrom {
			b.need(graph.NeedNamespace, "volumes of "+from, at(name)...)
		}
	case "Devices":
		for _, d := range h.Devices {
			b.need(graph.NeedDevice, d.PathOnHost, at(name)...)
		}
	case "DeviceCgroupRules":
		for _, rule := range h.DeviceCgroupRules {
			b.need(graph.NeedDevice, rule, at(name)...)
		}
	case "DeviceRequests":
		for _, r := range h.DeviceRequests {
			b.need(graph.NeedDevice, strings.TrimSpace(r.Driver+" "+strings.Join(r.DeviceIDs, " ")+" of the engine's drivers"), at(name)...)
		}
	case "GroupAdd":
		for _, g := range h.GroupAdd {
			b.need(graph.GroupNeed(g), g, at(name)...)
		}
	case "SecurityOpt":
		for _, o := range h.SecurityOpt {
			if o != "no-new-privileges" && o != "no-new-privileges:true" && o != "no-new-privileges=true" {
				b.need(graph.NeedNoHardening, "the engine's restrictions ("+o+")", at(name)...)
			}
		}
	case "MaskedPaths", "ReadonlyPaths":
		b.need(graph.NeedNoHardening, "the engine's "+name, at(name)...)
	case "Sysctls":
		for _, k := range sets.Keys(h.Sysctls) {
			b.need(graph.SettingNeed(k, h.Sysctls[k]), k+" = "+h.Sysctls[k]+" in its container", at(name)...)
		}
	case "OomScoreAdj":
		if h.OomScoreAdj < 0 {
			b.need(graph.NeedEngineOption, name, at(name)...)
		}
	case "LogConfig":
		if h.LogConfig.Type != "" && h.LogConfig.Type != "json-file" && h.LogConfig.Type != "local" && h.LogConfig.Type != "none" {
			b.need(graph.NeedEngineOption, "LogConfig "+h.LogConfig.Type, at(name)...)
		}
	default:
		b.need(graph.NeedEngineOption, name, at(name)...)
	}
}
