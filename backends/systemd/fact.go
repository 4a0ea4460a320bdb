package systemd

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
)

// A fact of a machine (a kernel setting, a kernel module, a package or a user) is a unit of its own:
// a file that the system reads at every boot, and a service that applies it now, before the services
// that need it start.

const (
	factsDir    = "/var/lib/defx/facts"    // original values of kernel settings
	packagesDir = "/var/lib/defx/packages" // one file for each requested package
)

// factPayload is the payload of a fact.
type factPayload struct {
	Deployment  string          `json:"deployment"`
	Environment string          `json:"environment"`
	Kind        string          `json:"kind"`
	Key         string          `json:"key"`
	Value       json.RawMessage `json:"value"`
}

func (r *renderer) fact() payload {
	f := r.In.Service.Fact
	return payload{Fact: &factPayload{Deployment: r.In.Deployment, Environment: r.In.Environment, Kind: f.Kind, Key: f.Key, Value: f.Value}}
}

var keyRE = regexp.MustCompile(`[^A-Za-z0-9_.]`)

// keyFileName returns the key as part of a file name. A key with other characters gets a digest, so
// that different keys have different names.
func keyFileName(key string) string {
	s := keyRE.ReplaceAllString(key, "_")
	if s != key {
		s += "_" + digest.Bytes([]byte(key)).Brief()
	}
	return s
}

// keyGrammars check the names of facts, by kind. Those of packages are checked with their version.
var keyGrammars = map[string]func(string) (problem, hint string){"sysctl": graph.CheckSetting, "modules": graph.CheckModule, "users": graph.CheckUser}

func (f *factPayload) build() (backends.Layout, diag.List) {
	subject := fmt.Sprintf("host/%s/%s", f.Kind, f.Key)
	var errs diag.List
	fail := func(format string, args ...any) *diag.Error {
		e := diag.Errorf(subject, format, args...).At()
		errs = append(errs, e)
		return e
	}
	check := func(problem, hint string) {
		if problem != "" {
			fail("%s", problem).WithHint("%s", hint)
		}
	}
	switch grammar := keyGrammars[f.Kind]; {
	case !graph.ValidKey(f.Key):
		fail("%q is not a valid name for %s", f.Key, f.Kind)
	case grammar != nil:
		check(grammar(f.Key))
	}
	if len(errs) > 0 {
		return backends.Layout{}, errs
	}
	n := namesOf(f.Environment, f.Deployment, graph.Address{Lib: graph.HostLib, Name: f.Kind, Member: f.Key}, "")
	base, name := n.base, n.alias()
	l := backends.Layout{Name: name, Unit: name, Start: []string{name}, Claims: f.claims(base)}
	addFile := func(path, content string) string {
		l.Files = append(l.Files, backends.File{Path: path, Content: []byte(content), Mode: 0o644})
		return path
	}
	var u unitText
	u.section("Unit")
	u.set("Description", "defx "+f.Environment+"/"+f.Deployment+" "+subject)
	u.section("Service")
	u.set("Type", "oneshot")
	u.set("RemainAfterExit", "yes")
	run := func(directive string, s script, args ...string) {
		text, err := shell(":", s, args...)
		if err != nil {
			fail("%s %v", f.Kind, err)
		}
		u.set(directive, text)
	}
	switch f.Kind {
	case "sysctl":
		var value string
		json.Unmarshal(f.Value, &value)
		check(graph.CheckSettingValue(value))
		l.Needs = f.needs(value)
		conf := addFile("/etc/sysctl.d/60-"+base+".conf", f.Key+" = "+value+"\n")
		original, proc := factsDir+"/"+keyFileName(f.Key), procPath(f.Key)
		l.Leftovers = []string{original}
		// The original value is saved once and restored when no service needs the setting any more.
		run("ExecStartPre", saveScript, original, proc)
		u.set("ExecStart", "/lib/systemd/systemd-sysctl "+conf)
		run("ExecStop", restoreScript, original, proc)
	case "modules":
		l.Needs = f.needs("")
		addFile("/etc/modules-load.d/"+base+".conf", f.Key+"\n")
		u.set("ExecStart", "modprobe -- "+f.Key)
	case "packages":
		var version string
		json.Unmarshal(f.Value, &version)
		want := f.Key
		if version != "" {
			want += "=" + version
		}
		check(graph.CheckPackage(want))
		l.Needs = f.needs(want)
		addFile(packagesDir+"/"+keyFileName(f.Key), want+"\n")
		u.set("Environment", "DEBIAN_FRONTEND=noninteractive")
		run("ExecStart", installScript, f.Key, version)
		u.set("TimeoutStartSec", "10min")
	case "users":
		var user graph.User
		json.Unmarshal(f.Value, &user)
		l.Needs = userNeeds(f.Key, user)
		lines, err := declareUser(f.Key, user)
		if err != nil {
			fail("user %v", err)
		}
		conf := addFile("/etc/sysusers.d/defx-0-"+base+".conf", lines) // sorts before the files that services write for their users
		u.set("ExecStart", "systemd-sysusers "+conf)
	default:
		fail("unknown kind of fact %q", f.Kind)
	}
	u.section("X-Defx")
	u.set("Address", subject)
	l.Files = append(l.Files,
		backends.File{Path: unitDir + "/" + name, Content: u.bytes(), Mode: 0o644},
		backends.File{Path: unitDir + "/multi-user.target.wants/" + name, Link: "../" + name})
	return l, errs
}

// procPath returns the kernel's file for a setting. A key with a slash before any dot is written
// with slashes, so that its parts can contain dots.
func procPath(key string) string {
	if slash, dot := strings.IndexByte(key, '/'), strings.IndexByte(key, '.'); slash < 0 || dot >= 0 && dot < slash {
		key = strings.NewReplacer(".", "/", "/", ".").Replace(key)
	}
	return "/proc/sys/" + key
}
