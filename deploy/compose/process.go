package compose

import (
	"encoding/json"
	"github.com/defx-dev/defx/internal/size"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/defx-dev/defx/internal/sets"
)

// dependencies converts depends_on, links and the number of replicas.
func (m *importer) dependencies(s types.ServiceConfig, f fields, out object) {
	requires, after := list{}, list{}
	for _, name := range sets.Keys(s.DependsOn) {
		d := s.DependsOn[name]
		target, known := m.names[name]
		switch {
		case !known:
			if d.Required {
				m.report("depends_on."+name, "there is no such service")
			}
			continue
		case d.Condition == types.ServiceConditionCompletedSuccessfully:
			m.report("depends_on."+name, "waiting for completion is not supported, it is only started first: use initializer or migrate of the dependent service")
			after = append(after, target)
		case !d.Required:
			after = append(after, target)
		default:
			requires = append(requires, target)
		}
		if d.Restart {
			m.report("depends_on."+name+".restart", "a service is restarted only if a value that it reads changes")
		}
	}
	for _, l := range s.Links {
		name, _, _ := strings.Cut(l, ":")
		if target, known := m.names[name]; known && !slices.Contains(requires, any(target)) {
			requires = append(requires, target)
		}
	}
	if len(requires) > 0 {
		out["requires"] = requires
	}
	if len(after) > 0 {
		out["after"] = after
	}
	delete(f, "depends_on")
	replicas := 1
	if s.Scale != nil {
		replicas = *s.Scale
	} else if s.Deploy != nil && s.Deploy.Replicas != nil {
		replicas = *s.Deploy.Replicas
	}
	if replicas != 1 {
		out["place"] = object{"replicas": replicas}
	}
}

// number returns n as a JSON number.
func number(n int64) json.RawMessage { return json.RawMessage(strconv.FormatInt(n, 10)) }

// resources converts limits, ulimits and deploy.resources.
func (m *importer) resources(s types.ServiceConfig, f fields, service, host object) {
	limits := object{}
	cpus, memory, pids, reserved := float64(s.CPUS), int64(s.MemLimit), s.PidsLimit, int64(s.MemReservation)
	if d := s.Deploy; d != nil {
		if l := d.Resources.Limits; l != nil {
			if l.NanoCPUs != 0 {
				cpus = float64(l.NanoCPUs)
			}
			if l.MemoryBytes != 0 {
				memory = int64(l.MemoryBytes)
			}
			if l.Pids != 0 {
				pids = l.Pids
			}
		}
		if r := d.Resources.Reservations; r != nil {
			if r.MemoryBytes != 0 {
				reserved = int64(r.MemoryBytes)
			}
			if r.NanoCPUs != 0 || len(r.Devices) > 0 || len(r.GenericResources) > 0 {
				m.report("deploy.resources.reservations", "only memory can be reserved; for devices use docker.host.DeviceRequests")
			}
		}
		if d.Mode == "global" {
			m.report("deploy.mode", "use place: { every: 'machine' }")
		}
		for field, set := range map[string]bool{"update_config": d.UpdateConfig != nil, "rollback_config": d.RollbackConfig != nil, "endpoint_mode": d.EndpointMode != "",
			"placement": len(d.Placement.Constraints)+len(d.Placement.Preferences) > 0, "labels": len(d.Labels) > 0} {
			if set {
				m.report("deploy."+field, "it is only for Swarm: use update and place")
			}
		}
	}
	if cpus > 0 {
		limits["cpu"] = strconv.FormatFloat(cpus, 'f', -1, 64)
	}
	if memory > 0 {
		limits["memory"] = size.Format(memory)
	}
	if pids > 0 {
		limits["tasks"] = pids
	}
	if reserved > 0 {
		host["MemoryReservation"] = number(reserved)
	}
	if s.MemSwapLimit != 0 {
		host["MemorySwap"] = number(int64(s.MemSwapLimit))
	}
	if s.MemSwappiness != 0 {
		host["MemorySwappiness"] = number(int64(s.MemSwappiness))
	}
	for name, n := range map[string]float64{"CpuQuota": float64(s.CPUQuota), "CpuPeriod": float64(s.CPUPeriod)} {
		if n != 0 {
			host[name] = number(int64(n))
		}
	}
	var ulimits list
	for _, name := range sets.Keys(s.Ulimits) {
		u := s.Ulimits[name]
		soft, hard := u.Soft, u.Hard
		if u.Single != 0 {
			soft, hard = u.Single, u.Single
		}
		ulimits = append(ulimits, object{"Name": name, "Soft": soft, "Hard": hard})
	}
	if len(ulimits) > 0 {
		host["Ulimits"] = ulimits
	}
	if len(limits) > 0 {
		service["limits"] = limits
	}
	if b := s.BlkioConfig; b != nil {
		if b.Weight != 0 {
			host["BlkioWeight"] = int(b.Weight)
		}
		throttle := func(name string, in []types.ThrottleDevice) {
			var l list
			for _, d := range in {
				l = append(l, object{"Path": d.Path, "Rate": number(int64(d.Rate))})
			}
			if len(l) > 0 {
				host[name] = l
			}
		}
		throttle("BlkioDeviceReadBps", b.DeviceReadBps)
		throttle("BlkioDeviceWriteBps", b.DeviceWriteBps)
		throttle("BlkioDeviceReadIOps", b.DeviceReadIOps)
		throttle("BlkioDeviceWriteIOps", b.DeviceWriteIOps)
		var w list
		for _, d := range b.WeightDevice {
			w = append(w, object{"Path": d.Path, "Weight": int(d.Weight)})
		}
		if len(w) > 0 {
			host["BlkioWeightDevice"] = w
		}
	}
	for _, k := range []string{"cpus", "mem_limit", "pids_limit", "mem_reservation", "memswap_limit", "mem_swappiness", "cpu_quota", "cpu_period", "ulimits", "deploy", "blkio_config"} {
		delete(f, k)
	}
}

// lifecycle converts when a service is restarted and how it is stopped.
func (m *importer) lifecycle(s types.ServiceConfig, f fields, service object) {
	restart := s.Restart
	if d := s.Deploy; d != nil && d.RestartPolicy != nil && restart == "" {
		restart = map[string]string{"any": "always", "": "always", "none": "no"}[d.RestartPolicy.Condition]
		if restart == "" {
			restart = d.RestartPolicy.Condition
		}
	}
	policy, times, _ := strings.Cut(restart, ":")
	switch policy {
	case "always", "unless-stopped":
		service["restart"] = "always"
	case "on-failure":
		service["restart"] = "on-failure"
		m.report("restart", "after a reboot the engine also starts a container that had succeeded")
		if times != "" {
			m.report("restart", "the limit of %s attempts is not supported", times)
		}
	default:
		service["restart"] = "no"
	}
	stop := object{}
	var signal string
	if f.take("stop_signal", &signal) && signal != "" {
		stop["signal"] = signal
	}
	if s.StopGracePeriod != nil {
		stop["timeout"] = time.Duration(*s.StopGracePeriod).String()
	}
	if len(s.PreStop) > 0 {
		stop["command"] = stringList(s.PreStop[0].Command)
		if p := s.PreStop[0]; len(s.PreStop) > 1 || p.User != "" || p.Privileged || p.WorkingDir != "" || len(p.Environment) > 0 {
			m.report("pre_stop", "only one command is supported, with the user and environment of the service")
		}
	}
	if len(stop) > 0 {
		service["stop"] = stop
	}
	for _, k := range []string{"restart", "stop_grace_period", "pre_stop"} {
		delete(f, k)
	}
}

// capabilities converts cap_add and cap_drop.
func (m *importer) capabilities(s types.ServiceConfig, f fields, docker object) {
	caps := list{"default"}
	if slices.Contains(s.CapDrop, "ALL") {
		caps = list{}
	}
	trim := func(c string) string { return strings.TrimPrefix(strings.ToUpper(c), "CAP_") }
	for _, c := range s.CapAdd {
		caps = append(caps, trim(c))
	}
	for _, c := range s.CapDrop {
		if c != "ALL" && len(caps) > 0 {
			caps = append(caps, "-"+trim(c))
		}
	}
	docker["capabilities"] = caps
	delete(f, "cap_add")
	delete(f, "cap_drop")
}

// health converts the health check.
func (m *importer) health(s types.ServiceConfig, f fields, config object) {
	if h := s.HealthCheck; h != nil {
		one := object{}
		if h.Disable {
			one["Test"] = list{"NONE"}
		} else if len(h.Test) > 0 {
			one["Test"] = stringList(h.Test)
		}
		for name, d := range map[string]*types.Duration{"Interval": h.Interval, "Timeout": h.Timeout, "StartPeriod": h.StartPeriod, "StartInterval": h.StartInterval} {
			if d != nil {
				one[name] = number(int64(*d))
			}
		}
		if h.Retries != nil {
			one["Retries"] = number(int64(*h.Retries))
		}
		config["Healthcheck"] = one
	}
	delete(f, "healthcheck")
}

// devices converts devices.
func (m *importer) devices(s types.ServiceConfig, f fields, host object) {
	var devices list
	for _, d := range s.Devices {
		perm := d.Permissions
		if perm == "" {
			perm = "rwm"
		}
		if strings.Contains(d.Source, "=") {
			m.report("devices", "%s: CDI devices are not supported", d.Source)
			continue
		}
		devices = append(devices, object{"PathOnHost": d.Source, "PathInContainer": d.Target, "CgroupPermissions": perm})
	}
	if len(devices) > 0 {
		host["Devices"] = devices
	}
	delete(f, "devices")
}
