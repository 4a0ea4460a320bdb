package compose

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/defx-dev/defx/deploy/lock"
	"github.com/defx-dev/defx/internal/size"
)

// fields is a service as the file has it. What is taken is taken out: what is
// left at the end was not carried over.
type fields map[string]json.RawMessage

func (f fields) take(name string, into any) bool {
	raw, ok := f[name]
	delete(f, name)
	if !ok || string(raw) == "null" {
		return false
	}
	return json.Unmarshal(raw, into) == nil
}

// direct are fields that an engine's Config or HostConfig calls otherwise and
// that mean the same.
var directConfig = map[string]string{"hostname": "Hostname", "domainname": "Domainname", "tty": "Tty", "stdin_open": "OpenStdin", "working_dir": "WorkingDir"}

var directHost = map[string]string{"pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode", "userns_mode": "UsernsMode", "cgroup": "CgroupnsMode", "cgroup_parent": "CgroupParent",
	"runtime": "Runtime", "group_add": "GroupAdd", "privileged": "Privileged", "security_opt": "SecurityOpt", "dns": "Dns", "dns_opt": "DnsOptions", "dns_search": "DnsSearch",
	"sysctls": "Sysctls", "storage_opt": "StorageOpt", "device_cgroup_rules": "DeviceCgroupRules", "oom_score_adj": "OomScoreAdj", "oom_kill_disable": "OomKillDisable",
	"cpu_shares": "CpuShares", "cpuset": "CpusetCpus", "annotations": "Annotations", "isolation": "Isolation"}

var whyLeft = map[string]string{
	"build": "defx makes images of packages, not of Dockerfiles: build it where you build, and name it in image", "container_name": "containers are named by defx; it is an alias in the network instead",
	"develop": "it is for working on the source", "extends": "", "external_links": "a deployment does not see into others: declare what it needs as external",
	"platform": "the machine's own is taken", "pull_policy": "images are pinned by digest", "profiles": "", "attach": "", "provider": "defx runs no providers",
	"credential_spec": "it is for Windows", "gpus": "write docker.host.DeviceRequests", "volumes_from": "name the volumes", "models": "defx runs no models",
	"post_start": "defx runs nothing after a start: migrate and initializer run before", "mac_address": "addresses are the engine's",
	"label_file": "", "scale": "", "use_api_socket": "write docker.volumes with the socket's path", "pre_start": "write it as initializer or migrate",
	"cpu_count": "it is for Windows", "cpu_percent": "it is for Windows", "cpu_rt_period": "write docker.host.CpuRealtimePeriod", "cpu_rt_runtime": "write docker.host.CpuRealtimeRuntime",
}

var keyRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (m *importer) functionality(s types.ServiceConfig) (object, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	f := fields{}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, err
	}
	service, docker, config, host := object{}, object{}, object{}, object{}
	out := object{"service": service, "backend": "docker"}

	image := ""
	if f.take("image", &image); image == "" {
		image = m.project.Name + "-" + s.Name
	}
	if service["image"] = image; !lock.HasDigest(image) {
		m.images[image] = true
	}
	var words []string
	if f.take("entrypoint", &words) && words != nil {
		service["command"] = strs(words)
	}
	if words = nil; f.take("command", &words) && words != nil {
		service["args"] = strs(words)
	}
	m.environment(s, f, service)
	m.ports(s, f, service, docker)
	m.files(s, f, service)
	m.volumes(s, f, service, docker, host)
	aliases := []string{s.Name}
	if s.ContainerName != "" {
		aliases = append(aliases, s.ContainerName)
	}
	aliases = append(aliases, m.networks(s, f, docker)...)
	slices.Sort(aliases)
	docker["aliases"] = strs(slices.Compact(aliases))
	m.dependencies(s, f, out)
	m.limits(s, f, service, host)
	m.ending(s, f, service)
	m.capabilities(s, f, docker)

	for _, k := range slices.Sorted(maps.Keys(directConfig)) {
		var v any
		if f.take(k, &v) {
			config[directConfig[k]] = plainJSON(v)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(directHost)) {
		var v any
		if f.take(k, &v) {
			host[directHost[k]] = plainJSON(v)
		}
	}
	if p, _ := host["PidMode"].(string); strings.Contains(p, ":") && p != "host" {
		m.leave("pid", "other containers have names of their own here")
		delete(host, "PidMode")
	}
	if p, _ := host["IpcMode"].(string); strings.HasPrefix(p, "service:") || strings.HasPrefix(p, "container:") {
		m.leave("ipc", "other containers have names of their own here")
		delete(host, "IpcMode")
	}
	var user string
	if f.take("user", &user) {
		service["user"] = user
	}
	var on bool
	if f.take("read_only", &on) && on {
		docker["readOnly"] = true
	}
	if on = false; !f.take("init", &on) || !on {
		docker["init"] = false
	}
	if len(s.Labels) > 0 {
		labels := object{}
		for k, v := range s.Labels {
			labels[k] = v
		}
		config["Labels"] = labels
	}
	delete(f, "labels")
	m.health(s, f, config)
	var n json.Number
	if f.take("shm_size", &n) {
		host["ShmSize"] = bytesOf(int64(s.ShmSize))
	}
	if len(s.ExtraHosts) > 0 {
		hosts := list{}
		for _, h := range s.ExtraHosts.AsList(":") {
			hosts = append(hosts, h)
		}
		host["ExtraHosts"] = hosts
	}
	delete(f, "extra_hosts")
	if s.Logging != nil {
		l := object{"Type": s.Logging.Driver}
		if len(s.Logging.Options) > 0 {
			o := object{}
			for k, v := range s.Logging.Options {
				o[k] = v
			}
			l["Config"] = o
		}
		if s.Logging.Driver == "" {
			l["Type"] = "json-file"
		}
		host["LogConfig"] = l
	}
	delete(f, "logging")
	m.devices(s, f, host)

	if len(config) > 0 {
		docker["config"] = config
	}
	if len(host) > 0 {
		docker["host"] = host
	}
	out["docker"] = docker
	for _, k := range slices.Sorted(maps.Keys(f)) {
		why, known := whyLeft[k]
		switch {
		case known && why == "" || strings.HasPrefix(k, "x-") || string(f[k]) == "null" || string(f[k]) == "{}" || string(f[k]) == "[]" || string(f[k]) == `""`:
		case known:
			m.leave(k, "%s", why)
		default:
			m.leave(k, "defx has no word for it")
		}
	}
	return out, nil
}

// plainJSON gives objects and lists of JSON the types that are written here.
func plainJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		o := object{}
		for k, x := range v {
			o[k] = plainJSON(x)
		}
		return o
	case []any:
		l := list{}
		for _, x := range v {
			l = append(l, plainJSON(x))
		}
		return l
	}
	return v
}

func (m *importer) environment(s types.ServiceConfig, f fields, service object) {
	env := object{}
	for _, k := range slices.Sorted(maps.Keys(s.Environment)) {
		v := s.Environment[k]
		switch {
		case !keyRE.MatchString(k):
			m.leave("environment."+k, "it is no name of a variable")
		case v == nil:
			m.leave("environment."+k, "it is to come from the environment of whoever deploys, and defx looks at none")
		default:
			env[k] = *v
		}
	}
	if len(env) > 0 {
		service["env"] = env
	}
	delete(f, "environment")
	delete(f, "env_file")
}

func (m *importer) ports(s types.ServiceConfig, f fields, service, docker object) {
	ports, inner, address := object{}, object{}, map[string]bool{}
	for _, p := range s.Ports {
		field := fmt.Sprintf("ports.%d", p.Target)
		outer, err := strconv.Atoi(p.Published)
		if err != nil {
			m.leave(field, "the machine's port must be one number, not %q", p.Published)
			continue
		}
		if p.Protocol != "tcp" && p.Protocol != "udp" {
			m.leave(field, "protocol %s", p.Protocol)
			continue
		}
		name := "p" + strconv.Itoa(int(p.Target))
		if p.Protocol == "udp" {
			name += "-udp"
		}
		if _, twice := ports[name]; twice {
			name += "-" + strconv.Itoa(outer)
		}
		if ports[name] = any(outer); p.Protocol == "udp" {
			ports[name] = object{"port": outer, "protocol": "udp"}
		}
		if int(p.Target) != outer {
			inner[name] = int(p.Target)
		}
		address[p.HostIP] = true
	}
	if len(ports) > 0 {
		service["ports"] = ports
	}
	if len(inner) > 0 {
		docker["ports"] = inner
	}
	if len(address) > 1 {
		m.leave("ports", "all ports of a service are on one address of the machine, or on all")
	} else if a := strings.Join(slices.Collect(maps.Keys(address)), ""); a != "" && a != "0.0.0.0" {
		if _, err := netip.ParseAddr(a); err == nil {
			docker["publish"] = a
		}
	}
	delete(f, "ports")
	delete(f, "expose") // all in a network reach each other
}

func (m *importer) volumes(s types.ServiceConfig, f fields, service, docker, host object) {
	var volumes list
	tmpfs := object{}
	for _, v := range s.Volumes {
		field := "volumes." + v.Target
		one := object{"target": filepath.Clean(v.Target)}
		if v.ReadOnly {
			one["readOnly"] = true
		}
		switch v.Type {
		case types.VolumeTypeVolume:
			if one["name"] = v.Source; v.Source == "" {
				one["name"] = "anonymous-" + strings.Trim(wrongRE.ReplaceAllString(strings.ToLower(s.Name+"-"+v.Target), "-"), "-")
				m.leave(field, "a volume without a name is called %s: it outlives its container", one["name"])
			}
			if v.Volume != nil && (v.Volume.NoCopy || v.Volume.Subpath != "") {
				m.leave(field, "a volume is shown whole")
			}
		case types.VolumeTypeBind:
			if info, err := os.Stat(v.Source); err == nil && info.Mode().IsRegular() && v.ReadOnly && m.near(v.Source) { // it can travel
				files, _ := service["files"].(object)
				if files == nil {
					files = object{}
					service["files"] = files
				}
				files[v.Target] = object{"from": m.artifact(v.Source)}
				continue
			}
			one["path"] = v.Source
			m.leave(field, "%s is a path of the machine, and must be there: files and configs travel", v.Source)
			if v.Bind != nil && (v.Bind.Propagation != "" || v.Bind.SELinux != "") {
				m.leave(field, "propagation and SELinux labels")
			}
		case types.VolumeTypeTmpfs:
			o := []string{}
			if v.Tmpfs != nil && v.Tmpfs.Size > 0 {
				o = append(o, fmt.Sprintf("size=%d", int64(v.Tmpfs.Size)))
			}
			if v.Tmpfs != nil && v.Tmpfs.Mode != 0 {
				o = append(o, fmt.Sprintf("mode=%o", v.Tmpfs.Mode))
			}
			tmpfs[v.Target] = strings.Join(o, ",")
			continue
		default:
			m.leave(field, "a volume of type %s", v.Type)
			continue
		}
		volumes = append(volumes, one)
	}
	for _, t := range s.Tmpfs {
		target, o, _ := strings.Cut(t, ":")
		tmpfs[target] = o
	}
	if len(volumes) > 0 {
		docker["volumes"] = volumes
	}
	if len(tmpfs) > 0 {
		host["Tmpfs"] = tmpfs
	}
	delete(f, "volumes")
	delete(f, "tmpfs")
}

// files carries configs and secrets over.
func (m *importer) files(s types.ServiceConfig, f fields, service object) {
	files := object{}
	for _, c := range s.Configs {
		def, target := m.project.Configs[c.Source], c.Target
		if target == "" {
			target = "/" + c.Source
		}
		one := object{}
		switch {
		case def.Content != "":
			one["text"] = def.Content
		case def.File != "":
			one["from"] = m.artifact(def.File)
		case def.Environment != "":
			if v, ok := m.project.Environment[def.Environment]; ok {
				one["text"] = v
				m.leave("configs."+c.Source, "the value that %s has now was written down", def.Environment)
				break
			}
			fallthrough
		default:
			m.leave("configs."+c.Source, "its content is not in the file")
			continue
		}
		if c.UID != "" && c.UID != "0" || c.GID != "" && c.GID != "0" {
			m.leave("configs."+c.Source, "files belong to root; everybody may read them")
		}
		if c.Mode != nil && one["from"] == nil {
			if mode := int64(*c.Mode) &^ 0o222; mode&0o004 != 0 {
				one["mode"] = fmt.Sprintf("%04o", mode)
			}
		}
		files[target] = one
	}
	if len(files) > 0 {
		service["files"] = files
	}
	secrets := object{}
	for _, c := range s.Secrets {
		target := c.Target
		if target == "" {
			target = c.Source
		}
		name := strings.TrimPrefix(target, "/run/secrets/")
		if !keyRE.MatchString(name) {
			m.leave("secrets."+c.Source, "a secret is a file below /run/secrets whose name is letters, digits and _: it is %s there", strings.ReplaceAll(wrongRE.ReplaceAllString(strings.ToLower(c.Source), "_"), "-", "_"))
			name = strings.ReplaceAll(wrongRE.ReplaceAllString(strings.ToLower(c.Source), "_"), "-", "_")
		}
		secrets[name] = expression("defx.secret(" + quote(c.Source) + ")")
		m.secrets[c.Source] = true
	}
	if len(secrets) > 0 {
		service["secrets"] = secrets
	}
	delete(f, "configs")
	delete(f, "secrets")
}

// near tells whether a file lies with the compose file: it is not of the machine.
func (m *importer) near(file string) bool {
	rel, err := filepath.Rel(m.project.WorkingDir, file)
	return err == nil && filepath.IsLocal(rel)
}

// artifact names a file, seen from the library.
func (m *importer) artifact(file string) expression {
	if rel, err := filepath.Rel(m.out, file); err == nil {
		file = "./" + filepath.ToSlash(rel)
	}
	return expression("defx.artifact(" + quote(strings.Replace(file, "./../", "../", 1)) + ")")
}

// networks gives the names that a service has in networks.
func (m *importer) networks(s types.ServiceConfig, f fields, docker object) []string {
	var aliases []string
	switch mode := s.NetworkMode; {
	case mode == "host":
		docker["network"] = "host"
	case mode != "":
		m.leave("network_mode", "%s: a service is in the network of its deployment, or in the machine's", mode)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Networks)) {
		n := s.Networks[name]
		if n == nil {
			continue
		}
		aliases = append(aliases, n.Aliases...)
		if n.Ipv4Address != "" || n.Ipv6Address != "" || n.MacAddress != "" || len(n.LinkLocalIPs) > 0 || len(n.DriverOpts) > 0 {
			m.leave("networks."+name, "addresses are the engine's")
		}
	}
	for _, l := range s.Links {
		if target, alias, has := strings.Cut(l, ":"); has && alias != target {
			m.leave("links", "the name %s for %s: give that one docker.aliases", alias, target)
		}
	}
	for _, k := range []string{"networks", "network_mode", "links"} {
		delete(f, k)
	}
	return aliases
}

func (m *importer) dependencies(s types.ServiceConfig, f fields, out object) {
	requires, after := list{}, list{}
	for _, name := range slices.Sorted(maps.Keys(s.DependsOn)) {
		d := s.DependsOn[name]
		ours, known := m.names[name]
		switch {
		case !known:
			if d.Required {
				m.leave("depends_on."+name, "it is not among the services")
			}
			continue
		case d.Condition == types.ServiceConditionCompletedSuccessfully:
			m.leave("depends_on."+name, "what ends is initializer or migrate of whoever waits for it; here it only goes first")
			after = append(after, ours)
		case !d.Required:
			after = append(after, ours)
		default:
			requires = append(requires, ours)
		}
		if d.Restart {
			m.leave("depends_on."+name+".restart", "only a change of a value that it reads restarts a service")
		}
	}
	for _, l := range s.Links {
		name, _, _ := strings.Cut(l, ":")
		if ours, known := m.names[name]; known && !slices.Contains(requires, any(ours)) {
			requires = append(requires, ours)
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

func bytesOf(n int64) json.RawMessage { return json.RawMessage(strconv.FormatInt(n, 10)) }

func (m *importer) limits(s types.ServiceConfig, f fields, service, host object) {
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
				m.leave("deploy.resources.reservations", "nothing but memory is reserved; devices: docker.host.DeviceRequests")
			}
		}
		if d.Mode == "global" {
			m.leave("deploy.mode", "write place: { every: 'machine' }")
		}
		for field, set := range map[string]bool{"update_config": d.UpdateConfig != nil, "rollback_config": d.RollbackConfig != nil, "endpoint_mode": d.EndpointMode != "",
			"placement": len(d.Placement.Constraints)+len(d.Placement.Preferences) > 0, "labels": len(d.Labels) > 0} {
			if set {
				m.leave("deploy."+field, "it is for Swarm: see update and place")
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
		host["MemoryReservation"] = bytesOf(reserved)
	}
	if s.MemSwapLimit != 0 {
		host["MemorySwap"] = bytesOf(int64(s.MemSwapLimit))
	}
	if s.MemSwappiness != 0 {
		host["MemorySwappiness"] = bytesOf(int64(s.MemSwappiness))
	}
	for name, n := range map[string]float64{"CpuQuota": float64(s.CPUQuota), "CpuPeriod": float64(s.CPUPeriod)} {
		if n != 0 {
			host[name] = bytesOf(int64(n))
		}
	}
	var ulimits list
	for _, name := range slices.Sorted(maps.Keys(s.Ulimits)) {
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
				l = append(l, object{"Path": d.Path, "Rate": bytesOf(int64(d.Rate))})
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

// ending says when it is started again, and how it ends.
func (m *importer) ending(s types.ServiceConfig, f fields, service object) {
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
		m.leave("restart", "an engine that keeps a container over boots starts it again however it ended")
		if times != "" {
			m.leave("restart", "it is tried more than %s times", times)
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
		stop["command"] = strs(s.PreStop[0].Command)
		if p := s.PreStop[0]; len(s.PreStop) > 1 || p.User != "" || p.Privileged || p.WorkingDir != "" || len(p.Environment) > 0 {
			m.leave("pre_stop", "one command, as the service's user, in its surroundings")
		}
	}
	if len(stop) > 0 {
		service["stop"] = stop
	}
	for _, k := range []string{"restart", "stop_grace_period", "pre_stop"} {
		delete(f, k)
	}
}

func (m *importer) capabilities(s types.ServiceConfig, f fields, docker object) {
	caps := list{"default"}
	if slices.Contains(s.CapDrop, "ALL") {
		caps = list{}
	}
	plain := func(c string) string { return strings.TrimPrefix(strings.ToUpper(c), "CAP_") }
	for _, c := range s.CapAdd {
		caps = append(caps, plain(c))
	}
	for _, c := range s.CapDrop {
		if c != "ALL" && len(caps) > 0 {
			caps = append(caps, "-"+plain(c))
		}
	}
	docker["capabilities"] = caps
	delete(f, "cap_add")
	delete(f, "cap_drop")
}

func (m *importer) health(s types.ServiceConfig, f fields, config object) {
	if h := s.HealthCheck; h != nil {
		one := object{}
		if h.Disable {
			one["Test"] = list{"NONE"}
		} else if len(h.Test) > 0 {
			one["Test"] = strs(h.Test)
		}
		for name, d := range map[string]*types.Duration{"Interval": h.Interval, "Timeout": h.Timeout, "StartPeriod": h.StartPeriod, "StartInterval": h.StartInterval} {
			if d != nil {
				one[name] = bytesOf(int64(*d))
			}
		}
		if h.Retries != nil {
			one["Retries"] = bytesOf(int64(*h.Retries))
		}
		config["Healthcheck"] = one
	}
	delete(f, "healthcheck")
}

func (m *importer) devices(s types.ServiceConfig, f fields, host object) {
	var devices list
	for _, d := range s.Devices {
		perm := d.Permissions
		if perm == "" {
			perm = "rwm"
		}
		if strings.Contains(d.Source, "=") {
			m.leave("devices", "%s: devices of CDI", d.Source)
			continue
		}
		devices = append(devices, object{"PathOnHost": d.Source, "PathInContainer": d.Target, "CgroupPermissions": perm})
	}
	if len(devices) > 0 {
		host["Devices"] = devices
	}
	delete(f, "devices")
}
