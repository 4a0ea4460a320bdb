package compose

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/defx-dev/defx/deploy/lock"
	"github.com/defx-dev/defx/internal/sets"
)

// fields are the fields of a service in the file. Each is removed when it is
// converted, so that the rest was not.
type fields map[string]json.RawMessage

// take removes a field and decodes it into v. It reports whether the field had a
// valid value.
func (f fields) take(name string, v any) bool {
	raw, ok := f[name]
	delete(f, name)
	if !ok || string(raw) == "null" {
		return false
	}
	return json.Unmarshal(raw, v) == nil
}

// directConfig are the fields that Docker's Config has under another name.
var directConfig = map[string]string{"hostname": "Hostname", "domainname": "Domainname", "tty": "Tty", "stdin_open": "OpenStdin", "working_dir": "WorkingDir"}

// directHost are the fields that Docker's HostConfig has under another name.
var directHost = map[string]string{"pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode", "userns_mode": "UsernsMode", "cgroup": "CgroupnsMode", "cgroup_parent": "CgroupParent",
	"runtime": "Runtime", "group_add": "GroupAdd", "privileged": "Privileged", "security_opt": "SecurityOpt", "dns": "Dns", "dns_opt": "DnsOptions", "dns_search": "DnsSearch",
	"sysctls": "Sysctls", "storage_opt": "StorageOpt", "device_cgroup_rules": "DeviceCgroupRules", "oom_score_adj": "OomScoreAdj", "oom_kill_disable": "OomKillDisable",
	"cpu_shares": "CpuShares", "cpuset": "CpusetCpus", "annotations": "Annotations", "isolation": "Isolation"}

// unsupportedReasons has the reason why a field is not converted, or "" if it needs
// no report.
var unsupportedReasons = map[string]string{
	"build": "defx makes images from packages, not from Dockerfiles: build it separately and set image", "container_name": "defx names containers; the name is an alias in the network instead",
	"develop": "it is only used during development", "extends": "", "external_links": "services of other deployments are not visible: declare them as external",
	"platform": "the machine's platform is used", "pull_policy": "images are pinned by digest", "profiles": "", "attach": "", "provider": "defx does not run providers",
	"credential_spec": "it is only for Windows", "gpus": "use docker.host.DeviceRequests", "volumes_from": "list the volumes instead", "models": "defx does not run models",
	"post_start": "defx runs no command after a start; migrate and initializer run before it", "mac_address": "the engine assigns addresses",
	"label_file": "", "scale": "", "use_api_socket": "use docker.volumes with the path of the socket", "pre_start": "use initializer or migrate",
	"cpu_count": "it is only for Windows", "cpu_percent": "it is only for Windows", "cpu_rt_period": "use docker.host.CpuRealtimePeriod", "cpu_rt_runtime": "use docker.host.CpuRealtimeRuntime",
}

// keyRE matches names of environment variables.
var keyRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// functionality converts a service.
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
	var command []string
	if f.take("entrypoint", &command) && command != nil {
		service["command"] = stringList(command)
	}
	if command = nil; f.take("command", &command) && command != nil {
		service["args"] = stringList(command)
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
	docker["aliases"] = stringList(slices.Compact(aliases))
	m.dependencies(s, f, out)
	m.resources(s, f, service, host)
	m.lifecycle(s, f, service)
	m.capabilities(s, f, docker)

	for _, k := range sets.Keys(directConfig) {
		var v any
		if f.take(k, &v) {
			config[directConfig[k]] = plainJSON(v)
		}
	}
	for _, k := range sets.Keys(directHost) {
		var v any
		if f.take(k, &v) {
			host[directHost[k]] = plainJSON(v)
		}
	}
	if p, _ := host["PidMode"].(string); strings.Contains(p, ":") && p != "host" {
		m.report("pid", "other containers have different names in defx")
		delete(host, "PidMode")
	}
	if p, _ := host["IpcMode"].(string); strings.HasPrefix(p, "service:") || strings.HasPrefix(p, "container:") {
		m.report("ipc", "other containers have different names in defx")
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
		host["ShmSize"] = number(int64(s.ShmSize))
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
	for _, k := range sets.Keys(f) {
		reason, known := unsupportedReasons[k]
		switch {
		case known && reason == "" || strings.HasPrefix(k, "x-") || string(f[k]) == "null" || string(f[k]) == "{}" || string(f[k]) == "[]" || string(f[k]) == `""`:
		case known:
			m.report(k, "%s", reason)
		default:
			m.report(k, "defx has no field for it")
		}
	}
	return out, nil
}

// plainJSON returns v with the types of this package for its objects and lists.
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

// environment converts environment variables.
func (m *importer) environment(s types.ServiceConfig, f fields, service object) {
	env := object{}
	for _, k := range sets.Keys(s.Environment) {
		v := s.Environment[k]
		switch {
		case !keyRE.MatchString(k):
			m.report("environment."+k, "it is not a valid variable name")
		case v == nil:
			m.report("environment."+k, "its value comes from the environment of the user, which defx does not read")
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
