package examples_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/lang"
)

var update = flag.Bool("update", false, "write the current results to the golden files")

// versionRE matches the unit of a version of a service.
var versionRE = regexp.MustCompile(`\.[0-9a-f]{12}\.service$`)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == lang.WorkerVerb {
		os.Exit(lang.Worker(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// folder is a copy of the clusters example.
type folder struct {
	t   *testing.T
	dir string
	env string // environment; empty: prod
}

func clusters(t *testing.T) *folder {
	t.Helper()
	f := &folder{t: t, dir: t.TempDir()}
	for _, name := range sources(t) {
		raw, err := os.ReadFile(filepath.Join("clusters", name))
		if err != nil {
			t.Fatal(err)
		}
		f.write(name, raw)
	}
	return f
}

// sources returns the files of the example, without those that running it creates.
func sources(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir("clusters", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel("clusters", p)
		if d.IsDir() && (rel == "machines" || rel == ".defx") {
			return fs.SkipDir
		}
		if !d.IsDir() {
			out = append(out, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (f *folder) write(name string, raw []byte) {
	f.t.Helper()
	name = filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(name, raw, 0o755); err != nil { // some are programs
		f.t.Fatal(err)
	}
}

func (f *folder) read(name string) string {
	f.t.Helper()
	raw, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(raw)
}

// edit replaces old, which must occur once, with new.
func (f *folder) edit(name, old, new string) {
	f.t.Helper()
	text := f.read(name)
	if n := strings.Count(text, old); n != 1 {
		f.t.Fatalf("%s contains %q %d times", name, old, n)
	}
	f.write(name, []byte(strings.Replace(text, old, new, 1)))
}

func (f *folder) open() *project.Project {
	f.t.Helper()
	p, err := project.Open(f.dir, "defx.jsonnet", "", lang.Config{Env: f.env}, backends.NewSet(systemd.New()))
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

func (f *folder) evaluate() (*project.Project, *project.Desired) {
	f.t.Helper()
	p := f.open()
	d, err := p.Evaluate(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, h := range d.Held {
		f.t.Fatal(h.Err)
	}
	return p, d
}

func (f *folder) plan() *plan.ChangeSet {
	f.t.Helper()
	p, d := f.evaluate()
	cs, err := p.Changes(context.Background(), d, p.ApplyRequest(d))
	if err != nil {
		f.t.Fatal(err)
	}
	return cs
}

func (f *folder) apply() *apply.Result {
	f.t.Helper()
	p, d := f.evaluate()
	w := p.ApplyRequest(d)
	w.OnEvent = func(e apply.Event) {
		if e.Err != nil {
			f.t.Errorf("%s %s: %v", e.Outcome, e.Action.Address, e.Err)
		}
	}
	res, err := apply.Run(context.Background(), w)
	if err != nil {
		f.t.Fatal(err)
	}
	return res
}

// summarize returns the actions of a change set, one per line, sorted.
func summarize(cs *plan.ChangeSet) string {
	var out []string
	for _, a := range cs.Actions {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", a.Op, cs.Names.Text(a.Address), a.Machine, a.Verb))+"\n")
	}
	for _, p := range cs.Protected {
		out = append(out, fmt.Sprintf("protected %s\n", cs.Names.Text(p.Address)))
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

func same(t *testing.T, what, got, want string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// repeated are libraries with many identical functionalities: the golden files contain only the
// first.
var repeated = map[string]string{"customers": "alder", "databases": "audit"}

func inGolden(a graph.Address) bool { return repeated[a.Lib] == "" || repeated[a.Lib] == a.Name }

// unitFiles returns the units of a service and the files that they mount, from the folder
// machine.
func (f *folder) unitFiles(s *graph.Service) []txtar.File {
	f.t.Helper()
	root := filepath.Join("machines", s.Machine)
	units := filepath.Join(root, "etc/systemd/system")
	var out []txtar.File
	entries, err := os.ReadDir(filepath.Join(f.dir, units))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		text := f.read(filepath.Join(units, e.Name()))
		if !strings.Contains(text, "\nAddress="+s.Address.String()+"\n") {
			continue
		}
		out = append(out, txtar.File{Name: s.Machine + "/" + e.Name(), Data: []byte(text)})
		if !versionRE.MatchString(e.Name()) {
			continue
		}
		for line := range strings.Lines(text) {
			mount, ok := strings.CutPrefix(strings.TrimSpace(line), "BindReadOnlyPaths=")
			if !ok {
				continue
			}
			from, to, ok := strings.Cut(mount, ":")
			if !ok {
				continue
			}
			if info, err := os.Stat(filepath.Join(f.dir, root, from)); err != nil || info.IsDir() {
				continue
			}
			out = append(out, txtar.File{Name: s.Machine + "/" + e.Name() + " " + to, Data: []byte(f.read(filepath.Join(root, from)))})
		}
	}
	return out
}

// TestClusters_RenderingMatchesGolden compares the graph and the units of each library with the
// golden files.
func TestClusters_RenderingMatchesGolden(t *testing.T) {
	f := clusters(t)
	f.apply()
	_, d := f.evaluate()
	made := map[string]*txtar.Archive{}
	nodes := map[string]string{}
	for _, s := range d.Graph.Services {
		lib := s.Address.Lib
		if !inGolden(s.Address) {
			continue
		}
		if made[lib] == nil {
			made[lib] = &txtar.Archive{}
		}
		nodes[lib] += node(t, s)
		made[lib].Files = append(made[lib].Files, f.unitFiles(s)...)
	}
	if len(made) != 12 { // eleven libraries, and host facts
		t.Errorf("%d libraries", len(made))
	}
	for lib, a := range made {
		a.Files = append([]txtar.File{{Name: "graph", Data: []byte(nodes[lib])}}, a.Files...)
		golden := filepath.Join("testdata", "clusters", lib+".txtar")
		got := txtar.Format(a)
		if *update {
			if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		same(t, golden, string(got), string(want))
	}
}

// node formats a service of the graph, one line per field.
func node(t *testing.T, s *graph.Service) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s\n", s.Address, s.Machine)
	for _, k := range []struct {
		name  string
		edges []graph.Edge
	}{{"requires", s.Requires}, {"connects", s.Connects}, {"after", s.After}} {
		for _, e := range k.edges {
			fmt.Fprintf(&b, "  %s %s:", k.name, e.Alias)
			for _, a := range e.To {
				fmt.Fprintf(&b, " %s", a)
			}
			b.WriteByte('\n')
		}
	}
	var plain bytes.Buffer
	enc := json.NewEncoder(&plain)
	enc.SetEscapeHTML(false)
	var what any = s.Spec
	if s.Fact != nil {
		what = s.Fact
	}
	if err := enc.Encode(what); err != nil {
		t.Fatal(err)
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(plain.Bytes(), &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		fmt.Fprintf(&b, "  %s: %s\n", name, fields[name])
	}
	return b.String()
}

// etcdPeers returns the ETCD_INITIAL_CLUSTER of an etcd member on a machine.
func (f *folder) etcdPeers(machine, member string) string {
	f.t.Helper()
	names, err := filepath.Glob(filepath.Join(f.dir, "machines", machine, "etc/systemd/system/defx-prod-clusters-etcd-etcd."+member+".????????????.service"))
	if err != nil || len(names) != 1 {
		f.t.Fatalf("units of etcd#%s on %s: %v, %v", member, machine, names, err)
	}
	raw, err := os.ReadFile(names[0])
	if err != nil {
		f.t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if v, ok := strings.CutPrefix(line, `Environment="ETCD_INITIAL_CLUSTER=`); ok {
			return strings.TrimSuffix(v, "\"\n")
		}
	}
	f.t.Fatalf("etcd#%s has no ETCD_INITIAL_CLUSTER", member)
	return ""
}

const reloadable = "machines/m1/var/lib/defx/units/defx-prod-clusters-"

func (f *folder) prometheus() string {
	return f.read(reloadable + "prometheus-prometheus.0/files/etc/prometheus/defx.yml")
}

func (f *folder) agent(machine string) string {
	return f.read(fmt.Sprintf("machines/%s/var/lib/defx/units/defx-prod-clusters-consul-agent.%[1]s/files/etc/consul.d/defx.json", machine))
}

// The following expected values are written by hand.
const (
	etcdOfThree = "etcd-a=http://10.0.0.1:2380,etcd-b=http://10.0.0.2:2380,etcd-c=http://10.0.0.3:2380"
	etcdOfFour  = etcdOfThree + ",etcd-d=http://10.0.0.4:2380"

	scrapeHead = `global:
  scrape_interval: 15s
scrape_configs:
  - job_name: all
    static_configs:
      - targets:
`
	scrapeOfThree = scrapeHead + `          - 10.0.0.1:8500
          - 10.0.0.2:8500
          - 10.0.0.3:8500
          - 10.0.0.2:8510
          - 10.0.0.3:8510
          - 10.0.0.1:8510
          - 10.0.0.1:2381
          - 10.0.0.2:2381
          - 10.0.0.3:2381
          - 10.0.0.1:9100
          - 10.0.0.2:9100
          - 10.0.0.3:9100
  - job_name: machines
    static_configs:
      - labels:
          machine: m1
        targets:
          - 10.0.0.1:9100
      - labels:
          machine: m2
        targets:
          - 10.0.0.2:9100
      - labels:
          machine: m3
        targets:
          - 10.0.0.3:9100
`
	scrapeOfFour = scrapeHead + `          - 10.0.0.1:8500
          - 10.0.0.2:8500
          - 10.0.0.3:8500
          - 10.0.0.4:8500
          - 10.0.0.2:8510
          - 10.0.0.3:8510
          - 10.0.0.1:8510
          - 10.0.0.1:2381
          - 10.0.0.2:2381
          - 10.0.0.3:2381
          - 10.0.0.4:2381
          - 10.0.0.1:9100
          - 10.0.0.2:9100
          - 10.0.0.3:9100
          - 10.0.0.4:9100
  - job_name: machines
    static_configs:
      - labels:
          machine: m1
        targets:
          - 10.0.0.1:9100
      - labels:
          machine: m2
        targets:
          - 10.0.0.2:9100
      - labels:
          machine: m3
        targets:
          - 10.0.0.3:9100
      - labels:
          machine: m4
        targets:
          - 10.0.0.4:9100
`
)

func agentOn(machine int) string {
	return fmt.Sprintf(`{
  "bind_addr": "10.0.0.%d",
  "data_dir": "/var/cache/defx/prod/clusters/consul-agent.m%[1]d/consul",
  "datacenter": "dc1",
  "node_name": "agent-m%[1]d",
  "ports": {
    "dns": 8600,
    "http": 8500,
    "serf_lan": 8301
  },
  "retry_join": [
    "10.0.0.2:8311",
    "10.0.0.3:8311",
    "10.0.0.1:8311"
  ],
  "telemetry": {
    "prometheus_retention_time": "1m"
  }
}
`, machine)
}

const (
	size    = "machines: 3, quorum: 3"
	bigger  = "machines: 4, quorum: 3"
	members = "members(['a', 'b', 'c'])"
)

// TestClusters_PeersFollowMachines checks peers, scrape targets and agents in the files on the
// machines while machines and members are added and removed.
func TestClusters_PeersFollowMachines(t *testing.T) {
	f := clusters(t)
	f.apply()
	check := func(when string, machines int, etcd, scrape string) {
		t.Helper()
		for i, m := range []string{"a", "b", "c", "d"}[:strings.Count(etcd, "http:")] {
			same(t, when+": etcd#"+m, f.etcdPeers(fmt.Sprintf("m%d", i+1), m), etcd)
		}
		same(t, when+": Prometheus", f.prometheus(), scrape)
		for i := range machines {
			same(t, when+": Consul", f.agent(fmt.Sprintf("m%d", i+1)), agentOn(i+1))
		}
	}
	check("three machines", 3, etcdOfThree, scrapeOfThree)

	f.edit("defx.jsonnet", size, bigger)
	f.apply()
	check("a fourth", 4, etcdOfThree, strings.Replace(scrapeOfFour, "          - 10.0.0.4:2381\n", "", 1))

	// The new etcd member joins an existing cluster, and its machine gets the role that members
	// require.
	f.edit("defx.jsonnet", "i <= size.quorum", "i <= size.machines")
	f.edit("defx.jsonnet", members, members+" + { d: { service+: { env+: { ETCD_INITIAL_CLUSTER_STATE: 'existing' } } } }")
	f.apply()
	check("a fourth member", 4, etcdOfFour, scrapeOfFour)

	f.edit("defx.jsonnet", members+" + { d: { service+: { env+: { ETCD_INITIAL_CLUSTER_STATE: 'existing' } } } }", members)
	cs := f.plan()
	if len(cs.Protected) != 3 || cs.Protected[0].Address != "etcd/etcd#d" { // and two host facts that it requires
		t.Errorf("protected: %v", cs.Protected)
	}
	f.allow("etcd/etcd#d")
	f.edit("defx.jsonnet", bigger, size)
	f.apply()
	check("three again", 3, etcdOfThree, scrapeOfThree)
	if left, _ := filepath.Glob(filepath.Join(f.dir, "machines/m4/etc/systemd/system/defx-*")); len(left) > 0 {
		t.Errorf("units left on the removed machine: %v", left)
	}
}

// allow applies with consent to delete an address.
func (f *folder) allow(delete string) {
	f.t.Helper()
	p, d := f.evaluate()
	w := p.ApplyRequest(d)
	w.AllowDelete = map[string]bool{delete: true}
	if res, err := apply.Run(context.Background(), w); err != nil || len(res.Failed) > 0 {
		f.t.Fatalf("%+v, %v", res, err)
	}
}

// TestClusters_PlanMatchesExpectedActions edits the applied example and compares the plan with
// a list that is written by hand.
func TestClusters_PlanMatchesExpectedActions(t *testing.T) {
	f := clusters(t)
	f.apply()
	for _, c := range []struct{ name, file, old, new, want string }{
		{"nothing", "defx.jsonnet", size, "quorum: 3, machines: 3", ""},
		{"a fourth machine", "defx.jsonnet", size, bigger, `
create consul/agent#m4 m4
create host/packages/consul@m4 m4
create host/packages/prometheus-node-exporter@m4 m4
create prometheus/node#m4 m4
update prometheus/prometheus m1 reload
`},
		{"the last replica of a counted set without data", "defx.jsonnet", "replicas: size.apps", "replicas: 1", `
delete host/packages/ruby-bundler@m3 m3
delete host/users/shop@m3 m3
delete rails/app/cron#1 m3
delete rails/app/web#1 m3
delete rails/app/worker#1 m3
update nginx/nginx m1 reload
`},
		{"the last replica of a counted set with data", "defx.jsonnet", "replicas: size.quorum", "replicas: 2", `
protected host/packages/default-jre-headless@m3
protected host/sysctl/vm.max_map_count@m3
protected kafka/kafka#2
update kafka/kafka#0 m1 restart
update kafka/kafka#1 m2 restart
update rails/app/cron#0 m2 restart
update rails/app/cron#1 m3 restart
update rails/app/web#0 m2 restart
update rails/app/web#1 m3 restart
update rails/app/worker#0 m2 restart
update rails/app/worker#1 m3 restart
`},
		{"one standby less", "defx.jsonnet", "replicas: size.standbys", "replicas: 1", `
protected host/packages/postgresql-16@m3
protected host/sysctl/vm.overcommit_memory@m3
protected postgres/standby#1
update postgres/primary m1 reload
`},
		{"the address of a machine", "defx.jsonnet", "address: '10.0.0.%d' % i", "address: if i == 3 then '10.0.1.3' else '10.0.0.%d' % i", `
update consul/agent#m1 m1 reload
update consul/agent#m2 m2 reload
update consul/agent#m3 m3 reload
update consul/server#alpha m2 reload
update consul/server#beta m3 reload
update consul/server#gamma m1 reload
update etcd/etcd#a m1 restart
update etcd/etcd#b m2 restart
update etcd/etcd#c m3 restart
update kafka/kafka#0 m1 restart
update kafka/kafka#1 m2 restart
update kafka/kafka#2 m3 restart
update nginx/nginx m1 reload
update postgres/primary m1 reload
update prometheus/prometheus m1 reload
update rails/app/cron#0 m2 restart
update rails/app/cron#1 m3 restart
update rails/app/web#0 m2 restart
update rails/app/web#1 m3 restart
update rails/app/worker#0 m2 restart
update rails/app/worker#1 m3 restart
`},
		{"a port of the node exporter", "libs/prometheus.libsonnet", "ports: { metrics: 9100 }", "ports: { metrics: 9101 }", `
update prometheus/node#m1 m1 restart
update prometheus/node#m2 m2 restart
update prometheus/node#m3 m3 restart
update prometheus/prometheus m1 reload
`},
		{"one customer less", "defx.jsonnet", "customers: 20", "customers: 19", `
protected customers/yew
update nginx/nginx m1 reload
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := &folder{t: t, dir: f.dir}
			before := g.read(c.file)
			defer g.write(c.file, []byte(before))
			g.edit(c.file, c.old, c.new)
			got := summarize(g.plan())
			same(t, "plan", got, strings.TrimPrefix(c.want, "\n"))
		})
	}
}

// TestClusters_RenameKeepsUnits renames libraries, functionalities and replicas with moved:
// units keep their machines and data.
func TestClusters_RenameKeepsUnits(t *testing.T) {
	f := clusters(t)
	f.apply()
	before := map[string]string{}
	_, d := f.evaluate()
	for _, s := range d.Graph.Services {
		before[s.Address.String()] = s.Machine
	}
	f.edit("libs/prometheus.libsonnet", "  node: {\n", "  exporter: {\n")
	f.edit("libs/prometheus.libsonnet", "node: 'node'", "node: 'exporter'")
	f.edit("libs/managed.libsonnet", "  report: {\n", "  nightly: {\n")
	f.edit("defx.jsonnet", "'a', 'b', 'c'", "'a', 'b', 'x'")
	f.edit("defx.jsonnet", "  name: 'clusters',", `  name: 'clusters',
  moved: { 'prometheus/node': 'prometheus/exporter', 'managed/report': 'managed/nightly', 'etcd/etcd#c': 'etcd/etcd#x' },`)
	cs := f.plan()
	for _, a := range cs.Actions {
		if a.Op != plan.Update {
			t.Errorf("%s %s %s", a.Op, a.Address, a.Machine)
		}
	}
	if len(cs.Protected) > 0 {
		t.Errorf("protected: %v", cs.Protected)
	}
	f.apply()
	now := map[string]string{"prometheus/exporter#m1": "prometheus/node#m1", "prometheus/exporter#m2": "prometheus/node#m2",
		"prometheus/exporter#m3": "prometheus/node#m3", "managed/nightly#0": "managed/report#0", "etcd/etcd#x": "etcd/etcd#c"}
	_, d = f.evaluate()
	for _, s := range d.Graph.Services {
		a := s.Address.String()
		if was := now[a]; was != "" {
			a = was
		}
		if before[a] != s.Machine {
			t.Errorf("%s is on %s, and was on %q", s.Address, s.Machine, before[a])
		}
	}
	if cs := f.plan(); !cs.Empty() {
		t.Errorf("after the apply: %s", summarize(cs))
	}
}

// TestClusters_EveryEnvironmentApplies applies each environment twice; the second apply must
// change nothing.
func TestClusters_EveryEnvironmentApplies(t *testing.T) {
	f := clusters(t)
	for env, machines := range map[string]int{"dev": 1, "staging": 2, "prod": 3} {
		f.env = env
		if _, d := f.evaluate(); len(d.Graph.Machines) != machines {
			t.Errorf("%s has %d machines", env, len(d.Graph.Machines))
		}
		f.write("defx.jsonnet", []byte(strings.Replace(f.read("defx.jsonnet"), "./machines/", "./machines/"+env+"-", 1)))
		if res := f.apply(); len(res.Failed) > 0 || res.Counts.Created == 0 {
			t.Errorf("%s: %+v", env, res)
		}
		if res := f.apply(); res.Wrote {
			t.Errorf("%s: the second apply wrote", env)
		}
		f.write("defx.jsonnet", []byte(strings.Replace(f.read("defx.jsonnet"), "./machines/"+env+"-", "./machines/", 1)))
	}
}

func TestClusters_LibrariesAreShort(t *testing.T) {
	for _, name := range sources(t) {
		raw, err := os.ReadFile(filepath.Join("clusters", name))
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(raw, []byte("\n")); strings.HasSuffix(name, ".libsonnet") && n >= 60 {
			t.Errorf("%s has %d lines", name, n)
		}
	}
}
