package project_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const cluster = `
-- defx.jsonnet --
{
  name: 'c',
  libs: { etcd: import 'etcd.libsonnet', watch: import 'watch.libsonnet' },
  machines: { ['m%d' % i]: { connect: 'dir:m%d' % i, address: '10.0.0.%d' % i, pool: 'p' } for i in std.range(1, 3) },
  defaults: { place: { pool: 'p' } },
}
-- etcd.libsonnet --
local defx = import 'defx/v1.libsonnet';
{
  etcd: {
    place: { replicas: { a: {}, b: {}, c: { service+: { env+: { ROLE: 'last' } } } }, spread: 'machine' },
    exports: { endpoints: defx.peers.join(',', function(r) 'http://%s:%s' % [r.host, r.port('client')]) },
    service: {
      command: ['/usr/bin/etcd', '--name', defx.me.name, '--at', defx.me.host, '--initial-cluster',
                defx.peers.join(',', function(r) '%s=http://%s:%s' % [r.name, r.host, r.port('peer')])],
      env: { ROLE: 'any' },
      dirs: { state: 'etcd' },
      ports: { client: 2379, peer: 2380 },
    },
  },
}
-- watch.libsonnet --
local defx = import 'defx/v1.libsonnet';
{
  agent: { place: { every: 'machine' }, service: { command: ['/bin/agent'], ports: { metrics: 9100 } } },
  scraper: {
    connects: { all: defx.all({ port: 'metrics' }), etcd: 'etcd' },
    service: {
      command: ['/bin/scraper', defx.dep('etcd').output('endpoints')],
      files: { '/etc/scraper.json': { json: { targets: defx.dep('all').each(function(r) r.host + ':' + r.port('metrics')), port: defx.me.port('http') } } },
      ports: { http: 9090 },
    },
  },
  beside: { connects: ['agent'], place: { every: 'machine', with: 'etcd' }, service: { command: ['/bin/beside', defx.dep('agent').here.host, defx.dep('agent').here.port('metrics')] } },
}
`

// unitText returns the only unit file on a machine that matches pattern.
func (w *world) unitText(machine, pattern string) string {
	w.t.Helper()
	found, _ := filepath.Glob(filepath.Join(w.dir, machine, "etc/systemd/system", pattern))
	if len(found) != 1 {
		w.t.Fatalf("%s on %s: %v", pattern, machine, found)
	}
	raw, err := os.ReadFile(found[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return string(raw)
}

func TestPeers_AreRenderedInEveryMember(t *testing.T) {
	w := newWorld(t, cluster)
	w.apply()
	etcd := w.unitText("m2", "defx-default-c-etcd-etcd.b.*.service")
	if want := "ExecStart=:/usr/bin/etcd --name etcd-b --at 10.0.0.2 --initial-cluster etcd-a=http://10.0.0.1:2380,etcd-b=http://10.0.0.2:2380,etcd-c=http://10.0.0.3:2380\n"; !strings.Contains(etcd, want) {
		t.Errorf("no line %q in\n%s", want, etcd)
	}
	if !strings.Contains(w.unitText("m3", "defx-default-c-etcd-etcd.c.*.service"), "ROLE=last") {
		t.Error("the patch of replica c is missing")
	}
	if beside := w.unitText("m2", "defx-default-c-watch-beside.m2.*.service"); !strings.Contains(beside, "ExecStart=:/bin/beside 127.0.0.1 9100\n") {
		t.Errorf("beside does not read the agent of its own machine:\n%s", beside)
	}
	raw, err := filepath.Glob(filepath.Join(w.dir, "m*/var/lib/defx/store/*-0444"))
	if err != nil || len(raw) != 1 {
		t.Fatalf("%v %v", raw, err)
	}
	got, _ := os.ReadFile(raw[0])
	want := `{
  "port": 9090,
  "targets": [
    "10.0.0.1:9100",
    "10.0.0.2:9100",
    "10.0.0.3:9100"
  ]
}
`
	if string(got) != want {
		t.Errorf("the scrape list is\n%s", got)
	}
}

func TestMachineAdded_ChangesItsUnitsAndTheirReaders(t *testing.T) {
	w := newWorld(t, cluster)
	w.apply()
	w.edit("defx.jsonnet", "std.range(1, 3)", "std.range(1, 4)")
	_, cs := w.plan()
	if got, want := ops(cs), "create watch/agent#m4, update watch/scraper"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	w.apply()
	w.edit("defx.jsonnet", "std.range(1, 4)", "std.range(1, 3)")
	_, cs = w.plan()
	if got, want := ops(cs), "update watch/scraper, delete watch/agent#m4"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestMoved_RenamedUnitsStayOnTheirMachines(t *testing.T) {
	w := newWorld(t, cluster)
	w.apply()
	before := map[string]string{}
	d, _ := w.plan()
	for _, s := range d.Graph.Services {
		before[s.Address.String()] = s.Machine
	}
	w.edit("defx.jsonnet", "watch: import", "seen: import")
	w.edit("defx.jsonnet", "name: 'c',", "name: 'c', moved: { watch: 'seen', 'etcd/etcd': 'etcd/store', 'etcd/store#c': 'etcd/store#z' },")
	w.edit("etcd.libsonnet", "  etcd: {", "  store: {")
	w.edit("etcd.libsonnet", "c: { service+", "z: { service+")
	w.edit("watch.libsonnet", "etcd: 'etcd'", "etcd: 'store'")
	w.edit("watch.libsonnet", "with: 'etcd'", "with: 'store'")
	_, cs := w.plan()
	for _, a := range cs.Actions {
		if a.PreviousAddress == "" || a.Op != "update" {
			t.Errorf("%s %s, formerly %q", a.Op, a.Address, a.PreviousAddress)
		}
		if s := before[a.PreviousAddress]; s != a.Machine {
			t.Errorf("%s was on %s and is on %s", a.PreviousAddress, s, a.Machine)
		}
	}
	if len(cs.Actions) != 10 {
		t.Errorf("%d actions, want 10", len(cs.Actions))
	}
	if res := w.apply(); len(res.Failed) > 0 || res.Counts.Updated != 10 {
		t.Errorf("%+v", res)
	}
	if old, _ := filepath.Glob(filepath.Join(w.dir, "m*/etc/systemd/system/*watch*")); len(old) > 0 {
		t.Errorf("old units left: %v", old)
	}
	if _, cs := w.plan(); !cs.Empty() {
		t.Errorf("plan after the apply: %s", ops(cs))
	}
}

func TestMoved_BrokenLibraryIsHeldUnderItsNewName(t *testing.T) {
	w := newWorld(t, cluster)
	w.apply()
	w.edit("defx.jsonnet", "watch: import", "seen: import")
	w.edit("defx.jsonnet", "name: 'c',", "name: 'c', moved: { watch: 'seen' },")
	w.edit("watch.libsonnet", "agent: {", "agent: { {")
	d, cs := w.plan()
	if !cs.Empty() || len(d.Held) != 4-1 {
		t.Errorf("held %v, actions %s", d.Held, ops(cs))
	}
}

// clusterErrors evaluates an edited cluster and returns its errors.
func clusterErrors(t *testing.T, file, old, new string) string {
	t.Helper()
	w := newWorld(t, cluster)
	w.edit(file, old, new)
	d, err := w.open().Evaluate(context.Background())
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, h := range d.Held {
		all = append(all, h.Err.Error())
	}
	return strings.Join(all, "\n")
}

func TestEvaluate_ContractMistakesHaveHints(t *testing.T) {
	for name, c := range map[string]struct{ file, old, new, want string }{
		"host of three": {"watch.libsonnet", "defx.dep('etcd').output('endpoints')", "defx.dep('etcd').host",
			"watch.libsonnet:7:33: watch/scraper: .host of etcd/etcd, which has 3 replicas\n    hint: use each(function(r) …) or join"},
		"an unknown output": {"watch.libsonnet", "output('endpoints')", "output('endpoint')", "has no export \"endpoint\"\n    hint: did you mean \"endpoints\"?"},
		"a list in a text":  {"watch.libsonnet", "json: { targets: defx.dep('all').each(function(r) r.host + ':' + r.port('metrics'))", "json: { targets: std.join(',', defx.dep('all').each(function(r) r.host))", "is a list, but a single string is required"},
		"none here":         {"watch.libsonnet", "place: { every: 'machine' }, service: { command: ['/bin/agent']", "place: { machine: 'm1' }, service: { command: ['/bin/agent']", "machine m2 has 0 replicas of watch/agent"},
		"a dropped key":     {"etcd.libsonnet", "env+: { ROLE", "env: { OTHER", `etcd.libsonnet:4:57: etcd/etcd: the patch of replica "c" drops "service.env.ROLE"`},
		"a wrong patch":     {"etcd.libsonnet", "env+: { ROLE: 'last' }", "env+: { ROLE: 3 }", "etcd.libsonnet:4:65: etcd/etcd#c: a string is required, not the number 3"},
		"r outside":         {"etcd.libsonnet", "defx.me.host", "(import 'defx/v1.libsonnet').peers.host", ".host of etcd/etcd, which has 3 replicas"},
		"with nothing":      {"watch.libsonnet", "with: 'etcd'", "with: 'etc'", "runs with \"etc\", which no library defines\n    hint: did you mean \"etcd\"?"},
		"every and count":   {"watch.libsonnet", "every: 'machine' }, service: { command: ['/bin/agent']", "every: 'machine', replicas: 2 }, service: { command: ['/bin/agent']", "cannot be combined with machine, replicas or spread"},
		"moved to nowhere":  {"defx.jsonnet", "name: 'c',", "name: 'c', moved: { 'etcd/x': 'etcd/etc' },", `moved: no library defines "etcd/etc"`},
		"moved and there":   {"defx.jsonnet", "name: 'c',", "name: 'c', moved: { 'watch/agent': 'etcd/etcd' },", `"watch/agent" still exists`},
		"moved in a circle": {"defx.jsonnet", "name: 'c',", "name: 'c', moved: { 'watch/agent': 'etcd/etcd', 'etcd/etcd': 'watch/agent' },", `"etcd/etcd" and "watch/agent" are renamed in a circle`},
		"a circle of libs":  {"defx.jsonnet", "name: 'c',", "name: 'c', moved: { watch: 'etcd', 'etcd/agent': 'watch/agent' },", `are renamed in a circle`},
		"moved on, there":   {"defx.jsonnet", "name: 'c',", "name: 'c', moved: { 'watch/agent': 'old/agent', 'old/agent': 'etcd/etcd' },", `"watch/agent" still exists`},
		"two contents":      {"watch.libsonnet", "json: {", "text: 'x', json: {", "exactly one of text, json, yaml"},
		"unequal facts":     {"watch.libsonnet", "agent: {", "one: { host: { sysctl: { 'vm.x': 1 } }, place: { machine: 'm1' }, service: { command: ['/x'] } }, two: { host: { sysctl: { 'vm.x': 2 } }, place: { machine: 'm1' }, service: { command: ['/x'] } }, agent: {", `asks for sysctl vm.x = "1" on machine m1, and watch/two asks for "2"`},
		"two owners":        {"watch.libsonnet", "agent: {", "one: { place: { machine: 'm1' }, service: { command: ['/x'], hostFiles: { '/etc/x': 'a' } } }, two: { place: { machine: 'm1' }, service: { command: ['/x'], hostFiles: { '/etc/x': 'a' } } }, agent: {", `writes /etc/x on machine m1, and so does watch/two`},
		"a resource":        {"watch.libsonnet", "agent: {", "bucket: { resource: { type: 'aws.s3' } }, agent: {", `unknown resource type "aws.s3"`},
		"a placed external": {"watch.libsonnet", "agent: {", "ext: { external: { host: 'x' }, place: { pool: 'p' } }, agent: {", `"place" has no meaning here, because this does not run on a machine`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := clusterErrors(t, c.file, c.old, c.new); !strings.Contains(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestTransforms_EachAndAll(t *testing.T) {
	w := newWorld(t, cluster)
	w.edit("defx.jsonnet", "name: 'c',", `name: 'c',
  transforms: [
    { each: function(name, f) if std.objectHas(f, 'service') then f { service+: { env+: { NAME: name } } } else f },
    { each: function(f) f },
    { all: function(m) m { 'extra/more': { place: { machine: 'm1' }, service: { command: ['/bin/more', '%d' % std.length(m)] } }, 'watch/scraper': null } },
  ],`)
	w.apply()
	c := w.unitText("m*", "defx-default-c-etcd-etcd.c.*.service")
	if !strings.Contains(c, "NAME=etcd/etcd") || !strings.Contains(c, "ROLE=last") {
		t.Errorf("the replica lost its patch or the transform:\n%s", c)
	}
	if more := w.unitText("m1", "defx-default-c-extra-more.0.*.service"); !strings.Contains(more, "ExecStart=:/bin/more 4\n") {
		t.Errorf("the functionality that a transform added:\n%s", more)
	}
	// A functionality that breaks is held in its transformed version.
	w.edit("watch.libsonnet", "agent: {", "agent: { {")
	d, cs := w.plan()
	if !cs.Empty() || len(d.Held) != 2 {
		t.Errorf("held %v, actions %s", d.Held, ops(cs))
	}
	w.edit("watch.libsonnet", "agent: { {", "agent: {")
	if _, cs := w.plan(); !cs.Empty() {
		t.Errorf("after the fix: %s", ops(cs))
	}
	w.edit("watch.libsonnet", "['/bin/agent']", "3")
	d, cs = w.plan()
	if !cs.Empty() || len(d.Held) != 1 {
		t.Errorf("held %v, actions %s", d.Held, ops(cs))
	}
	if res := w.apply(); res.Wrote {
		t.Errorf("%+v", res)
	}
}

func TestTransforms_ErrorFailsTheRun(t *testing.T) {
	for text, want := range map[string]string{
		"[{ each: function(f) f.nothing }]": "defx.jsonnet:2:47: transform 0: ",
		"[{ each: 3 }]":                     "{ each: function(f) … } or { all: function(map) … }",
		"3":                                 "a list of { each: function }",
		"[{ all: function(m) 3 }]":          "all must return an object",
		"[{ all: function(m) { x: m['etcd/etcd'] } }]": `"x" is not the name of a functionality`,
	} {
		if got := clusterErrors(t, "defx.jsonnet", "name: 'c',", "name: 'c', transforms: "+text+","); !strings.Contains(got, want) {
			t.Errorf("%s: got %s\nwant %s", text, got, want)
		}
	}
}

func TestProtected_UnitKeepsItsHostSettings(t *testing.T) {
	w := newWorld(t, cluster)
	w.edit("etcd.libsonnet", "    place: {", "    host: { sysctl: { 'vm.x': 1 } },\n    place: {")
	w.apply()
	w.edit("etcd.libsonnet", "a: {}, b: {},", "b: {},")
	_, cs := w.plan()
	for _, a := range cs.Actions {
		if a.Op == "delete" && strings.HasPrefix(a.Address, "host/") {
			t.Errorf("%s is deleted, but etcd/etcd#a still runs", a.Address)
		}
	}
	var kept []string
	for _, p := range cs.Protected {
		kept = append(kept, p.Address)
	}
	if want := "etcd/etcd#a host/sysctl/vm.x@"; !strings.HasPrefix(strings.Join(kept, " "), want) {
		t.Errorf("protected: %v", kept)
	}
}

func TestReplicaSets_NestedJoin(t *testing.T) {
	w := newWorld(t, cluster)
	w.edit("watch.libsonnet", "'/bin/scraper',", "'/bin/scraper', defx.dep('all').join(' ', function(r) r.name + '>' + defx.dep('etcd').join(',', function(q) q.name + ':' + r.port('metrics') + '/')),")
	w.apply()
	got := w.unitText("m*", "defx-default-c-watch-scraper.0.*.service")
	if want := "agent-m1>etcd-a:9100/,etcd-b:9100/,etcd-c:9100/ agent-m2>etcd-a:9100/"; !strings.Contains(got, want) {
		t.Errorf("no %q in\n%s", want, got)
	}
}
