package examples_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/defx-dev/defx/internal/diag"
)

// semanticMistake is a mistake that compiles as Jsonnet but is wrong: the text it replaces, the
// new text, and the expected message and hint.
type semanticMistake struct {
	name, file, old, new string
	want                 string // part of the expected message, including the hint
	fixed                string // replaces new, following the hint; empty: not tried
	first                string // correct text that is added to libs/managed.libsonnet first
}

var semanticMistakes = []semanticMistake{
	{name: "an override drops keys", file: "defx.jsonnet",
		old: "'rails/app': { place+: { replicas: size.apps } }", new: "'certificates/renew': { service+: { dirs: { cache: 'certbot' } } }", want: "drops",
		fixed: "'certificates/renew': { service+: { dirs+: { cache: 'certbot' } } }"},
	{name: "an override drops a whole field", file: "defx.jsonnet",
		old: "'rails/app': { place+: { replicas: size.apps } }", new: "'prometheus/node': { service: { command: ['/bin/x'] } }", want: "drops",
		fixed: "'prometheus/node': { service+: { command: ['/bin/x'] } }"},
	{name: "a patch drops keys", file: "defx.jsonnet",
		old: "members(['a', 'b', 'c'])", new: "{ a: {}, b: {}, c: { service+: { env: { ETCD_INITIAL_CLUSTER_STATE: 'existing' } } } }", want: "drops",
		fixed: "{ a: {}, b: {}, c: { service+: { env+: { ETCD_INITIAL_CLUSTER_STATE: 'existing' } } } }"},
	{name: "a patch of the wrong type", file: "defx.jsonnet",
		old: "members(['a', 'b', 'c'])", new: "{ a: {}, b: {}, c: { service+: { env+: { ETCD_INITIAL_CLUSTER_STATE: 5 } } } }", want: "'5'",
		fixed: "{ a: {}, b: {}, c: { service+: { env+: { ETCD_INITIAL_CLUSTER_STATE: '5' } } } }"},
	{name: "a patch with an unknown field", file: "defx.jsonnet",
		old: "members(['a', 'b', 'c'])", new: "{ a: {}, b: {}, c: { servce+: { env+: { A: 'b' } } } }", want: `"service"`,
		fixed: "{ a: {}, b: {}, c: { service+: { env+: { A: 'b' } } } }"},
	{name: "an ambiguous name", file: "libs/nginx.libsonnet", first: "  server: { service: { command: ['/bin/true'] } },\n",
		old: "connects: { web: 'rails/app/web',", new: "connects: { web: 'rails/app/web', other: 'server',", want: "consul/server",
		fixed: "connects: { web: 'rails/app/web', other: 'consul/server',"},
	{name: "a port that another has", file: "libs/prometheus.libsonnet", old: "ports: { http: 9090 }", new: "ports: { http: 9093 }", want: "9093"},
	{name: "a port of a customer that another has", file: "libs/customers.libsonnet", old: "ports: { http: port }", new: "ports: { http: 8500 }", want: "8500"},
	{name: "host of three", file: "libs/rails.libsonnet", old: "defx.dep('kafka').output('bootstrap')", new: "defx.dep('kafka').host", want: "each(function(r)",
		fixed: "defx.dep('kafka').join(',', function(r) r.host)"},
	{name: "a cycle", file: "libs/rails.libsonnet", old: "defx.dep('consul').here.host", new: "defx.dep('consul').host", want: "here"},
	{name: "a token as a key", file: "libs/etcd.libsonnet", old: "ETCD_NAME: defx.me.name", new: "[defx.me.name]: 'x'", want: "cannot be the name of a field"},
	{name: "a circle", file: "libs/postgres.libsonnet", old: "connects: ['standby']", new: "requires: ['standby']", want: "connects"},
	{name: "unequal facts", file: "libs/nginx.libsonnet", old: "sysctl: { 'net.core.somaxconn': 4096 }", new: "sysctl: { 'vm.overcommit_memory': 1 }", want: "use the same value",
		fixed: "sysctl: { 'vm.overcommit_memory': 2 }"},
	{name: "a number instead of a string", file: "libs/etcd.libsonnet", old: "ETCD_INITIAL_CLUSTER_TOKEN: 'clusters'", new: "ETCD_INITIAL_CLUSTER_TOKEN: 5", want: "'5'",
		fixed: "ETCD_INITIAL_CLUSTER_TOKEN: '5'"},
	{name: "a number in a command", file: "libs/rails.libsonnet", old: "'--concurrency', '10'", new: "'--concurrency', 10", want: "'10'"},
	{name: "an object in the environment", file: "libs/customers.libsonnet", old: "UPLOADS: defx.me.dir('state')", new: "UPLOADS: { dir: 'x' }", want: "std.manifestJson"},
	{name: "each inside text", file: "libs/kafka.libsonnet", old: "defx.peers.join(',', function(r) '%s:%s' % [r.host, r.port('broker')])",
		new: "'' + defx.peers.each(function(r) '%s:%s' % [r.host, r.port('broker')])", want: "join",
		fixed: "'' + defx.peers.join(',', function(r) '%s:%s' % [r.host, r.port('broker')])"},
	{name: "each in a format", file: "libs/prometheus.libsonnet", old: "global: { scrape_interval: '15s' }", new: "global: { scrape_interval: '%s' % [defx.dep('node').each(function(r) r.host)] }", want: "join",
		fixed: "global: { scrape_interval: '%s' % [defx.dep('node').join(',', function(r) r.host)] }"},
	{name: "each in the environment", file: "libs/customers.libsonnet", old: "UPLOADS: defx.me.dir('state')", new: "UPLOADS: defx.dep('consul').each(function(r) r.host)", want: "join",
		fixed: "UPLOADS: defx.dep('consul').join(',', function(r) r.host)"},
	{name: "join of a number", file: "libs/kafka.libsonnet", old: "function(r) '%s:%s' % [r.host, r.port('broker')]", new: "function(r) 9092", want: "returns a string",
		fixed: "function(r) '9092'"},
	{name: "join with a number", file: "libs/kafka.libsonnet", old: "defx.peers.join(',', function(r) '%s:%s'", new: "defx.peers.join(5, function(r) '%s:%s'", want: "the separator must be a string",
		fixed: "defx.peers.join('5', function(r) '%s:%s'"},
	{name: "join without a function", file: "libs/kafka.libsonnet", old: "defx.peers.join(',', function(r) '%s:%s' % [r.host, r.port('broker')])", new: "defx.peers.join(',', 'broker')", want: "a function of one replica",
		fixed: "defx.peers.join(',', function(r) 'broker')"},
	{name: "a set used as a value", file: "libs/rails.libsonnet", old: "defx.dep('kafka').output('bootstrap')", new: "defx.dep('kafka')", want: ".host",
		fixed: "defx.dep('kafka').join(',', function(r) r.host)"},
	{name: "place.with itself", file: "libs/pgbouncer.libsonnet", old: "with: 'primary'", new: "with: 'pgbouncer'", want: "itself"},
	{name: "requires itself", file: "libs/pgbouncer.libsonnet", old: "requires: { pg: 'primary' }", new: "requires: { pg: 'pgbouncer' }", want: "itself"},
	{name: "after itself", file: "libs/pgbouncer.libsonnet", old: "requires: { pg: 'primary' },", new: "requires: { pg: 'primary' }, after: ['pgbouncer'],", want: "itself"},
	{name: "every and a count", file: "libs/prometheus.libsonnet", old: "place: { every: 'machine' }", new: "place: { every: 'machine', replicas: 2 }", want: "every"},
	{name: "a misspelt pool", file: "defx.jsonnet", old: "place: { pool: env }", new: "place: { pool: 'prd' }", want: `"prod"`, fixed: "place: { pool: 'prod' }"},
	{name: "a misspelt machine", file: "libs/nginx.libsonnet", old: "roles: ['primary']", new: "machine: 'm11'", want: `"m1"`, fixed: "machine: 'm1'"},
	{name: "a secret in the environment", file: "libs/rails.libsonnet", old: "RAILS_ENV: 'production'", new: "RAILS_ENV: defx.secret('shop/rails')", want: "secrets"},
	{name: "a secret in a command", file: "libs/etcd.libsonnet", old: "command: ['/usr/bin/etcd']", new: "command: ['/usr/bin/etcd', defx.secret('x')]", want: "secrets"},
	{name: "two machines in one folder", file: "defx.jsonnet", old: "'dir:./machines/m%d' % i", new: "'dir:./machines/m'", want: "same folder"},
	{name: "an empty command", file: "libs/etcd.libsonnet", old: "command: ['/usr/bin/etcd']", new: "command: []", want: "command", fixed: "command: ['/usr/bin/etcd']"},
	{name: "a relative command without a package", file: "libs/etcd.libsonnet", old: "command: ['/usr/bin/etcd']", new: "command: ['etcd']", want: "package"},
	{name: "a command with null", file: "libs/etcd.libsonnet", old: "command: ['/usr/bin/etcd']", new: "command: ['/usr/bin/etcd', null]", want: "null"},
	{name: "external and service", file: "libs/managed.libsonnet", old: "    external: { host", new: "    service: { command: ['/x'] }, external: { host", want: "exactly one"},
	{name: "a missing artifact", file: "libs/customers.libsonnet", old: "'../portal'", new: "'../portl'", want: "portl"},
	{name: "an artifact outside", file: "libs/customers.libsonnet", old: "'../portal'", new: "'../../portal'", want: "portal"},
	{name: "ready at an unknown port", file: "libs/kafka.libsonnet", old: "port: 'broker', timeout", new: "port: 'brokr', timeout", want: `"broker"`, fixed: "port: 'broker', timeout"},
	{name: "ready at one of two ports", file: "libs/kafka.libsonnet", old: "tcp: true, port: 'broker'", new: "tcp: true", want: "port"},
	{name: "an unknown variable", file: "defx.jsonnet", old: "members(['a', 'b', 'c'])", new: "membres(['a', 'b', 'c'])", want: "membres"},
	{name: "an unknown field of a variable", file: "defx.jsonnet", old: "replicas: size.apps", new: "replicas: size.app", want: "app"},
	{name: "a token that was cut", file: "libs/etcd.libsonnet", old: "ETCD_NAME: defx.me.name", new: "ETCD_NAME: defx.me.name[0:9]", want: "broken token"},
	{name: "a port followed by a digit", file: "libs/databases.libsonnet", old: "schedule: { every: '15m'", new: "env: { P: '%s0' % defx.dep('pg').port('sql') }, schedule: { every: '15m'", want: "digit"},
	{name: "a deployment's name", file: "defx.jsonnet", old: "name: 'clusters'", new: "name: 'The Clusters'", want: "names are"},
	{name: "a library's name", file: "defx.jsonnet", old: "    kafka: import", new: "    Kafka: import", want: "names are"},
	{name: "a functionality's name", file: "libs/nginx.libsonnet", old: "  nginx: {\n", new: "  nginx_front: {\n", want: "names are"},
	{name: "a field twice", file: "libs/etcd.libsonnet", old: "dirs: { state: 'etcd' },", new: "dirs: { state: 'etcd' }, dirs: {},", want: "dirs"},
	{name: "moved to an unknown name", file: "defx.jsonnet", old: "  name: 'clusters',", new: "  name: 'clusters', moved: { 'etcd/old': 'etcd/etdc' },", want: `"etcd/etcd"`,
		fixed: "  name: 'clusters', moved: { 'etcd/old': 'etcd/etcd' },"},
	{name: "a selection in requires", file: "libs/prometheus.libsonnet", old: "connects: { targets:", new: "requires: { targets:", want: "connects"},
	{name: "a selection by nothing", file: "libs/prometheus.libsonnet", old: "defx.all({ port: 'metrics' })", new: "defx.all({ prt: 'metrics' })", want: "port"},
	{name: "two contents of a file", file: "libs/managed.libsonnet", old: "files: { '/etc/report.sql': '", new: "files: { '/etc/more': { text: 'x', json: {} }, '/etc/report.sql': '", want: "exactly one"},
	{name: "a missing comma", file: "libs/managed.libsonnet", old: "place: { roles: ['app'] },", new: "place: { roles: ['app'] } connects: [],", want: "comma"},
	{name: "a string without end", file: "libs/managed.libsonnet", old: "ports: { sql: 5432 }", new: "ports: { sql: 'x }", want: "quote"},
	{name: "a bad escape", file: "libs/managed.libsonnet", old: "schedule: { cron: '15", new: "schedule: { cron: '\\q15", want: `\\`},
	{name: "too few values for a format", file: "libs/kafka.libsonnet", old: "'%s@%s:%s' % [r.index, r.host, r.port('controller')]", new: "'%s@%s:%s' % [r.index, r.host]", want: "values"},
	{name: "an error of the library", file: "libs/kafka.libsonnet", old: "'num.partitions': 6", new: "'num.partitions': error 'no partitions'", want: "no partitions"},
	{name: "an endless recursion", file: "libs/kafka.libsonnet", old: "'num.partitions': 6", new: "'num.partitions': (local x = x + 1; x)", want: "calls itself"},
}

// knownGaps are mistakes that are not reported completely yet, and the reasons.
var knownGaps = map[string]string{

	"an error of the library": noHint,

	"a set used as a value": "it is reported at the functionality: an evaluation error has no field",
	"a number in a command": "concatenated lists have no positions",
	"a token as a key":      "it is reported at the object, because the key has no name yet",
	"an empty command":      "an empty list is the same as none: it is reported at the service",
	"a string without end":  "Jsonnet reads up to the next quote",
}

const noHint = "it has no hint yet"

// position returns the line at which the mistake starts, and the text with the mistake.
func (s semanticMistake) position(text string) (line int, mistaken string, err error) {
	at := strings.Index(text, s.old)
	if at < 0 || strings.Count(text, s.old) != 1 {
		return 0, "", fmt.Errorf("%s contains %q %d times", s.file, s.old, strings.Count(text, s.old))
	}
	return 1 + strings.Count(text[:at], "\n"), text[:at] + s.new + text[at+len(s.old):], nil
}

func TestMistakes_SemanticOnesHaveHints(t *testing.T) {
	files := texts(t)
	files["defx.jsonnet"] = strings.Replace(files["defx.jsonnet"], "customers: 20", "customers: 2", 1)
	slots := make(chan *folder, runtime.GOMAXPROCS(0))
	for range cap(slots) {
		slots <- folderOf(t, files)
	}
	for _, s := range semanticMistakes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			f := <-slots
			defer func() { slots <- f }()
			defer f.write(s.file, []byte(files[s.file]))
			if s.first != "" {
				managed := files["libs/managed.libsonnet"]
				f.write("libs/managed.libsonnet", []byte(strings.Replace(managed, "\n{\n", "\n{\n"+s.first, 1)))
				defer f.write("libs/managed.libsonnet", []byte(managed))
			}
			line, mistaken, err := s.position(files[s.file])
			if err != nil {
				t.Fatal(err)
			}
			f.write(s.file, []byte(mistaken))
			list, err := f.outcome()
			if err != nil {
				t.Fatal(err)
			}
			var here *diag.Error
			for _, e := range list {
				if e.Pos.File == s.file && e.Pos.Line == line && (here == nil || !strings.Contains(here.Error(), s.want)) {
					here = e
				}
			}
			report, complete := t.Errorf, true
			if reason := knownGaps[s.name]; reason != "" {
				report = func(format string, args ...any) { complete = false }
				defer func() {
					if complete {
						t.Error("it is reported completely now: remove it from knownGaps")
					} else {
						t.Logf("known gap: %s", reason)
					}
				}()
			}
			switch {
			case len(list) == 0:
				report("no error")
			case here == nil:
				report("no error at line %d, but:\n%s", line, list[:min(len(list), 3)])
			case here.Hint == "":
				report("no hint:\n%s", here)
			case !strings.Contains(here.Error(), s.want):
				report("%q is not in\n%s", s.want, here)
			}
			if s.fixed == "" {
				return
			}
			f.write(s.file, []byte(strings.Replace(mistaken, s.new, s.fixed, 1)))
			if list, err := f.outcome(); err != nil || len(list) > 0 {
				report("the hint does not help: %v %v", err, list[:min(len(list), 3)])
			}
		})
	}
}

// TestMistakes_AllOfOneRunAreReported makes many mistakes in many libraries at once.
func TestMistakes_AllOfOneRunAreReported(t *testing.T) {
	files := texts(t)
	f := folderOf(t, files)
	want := map[string]bool{}
	for _, name := range []string{"host of three", "a number instead of a string",
		"an override drops keys", "a misspelt machine", "a secret in the environment", "requires itself", "every and a count", "two contents of a file", "a missing artifact"} {
		for _, s := range semanticMistakes {
			if s.name != name {
				continue
			}
			line, mistaken, err := s.position(files[s.file])
			if err != nil {
				t.Fatal(err)
			}
			files[s.file] = mistaken
			f.write(s.file, []byte(mistaken))
			want[fmt.Sprintf("%s:%d", s.file, line)] = true
		}
	}
	list, err := f.outcome()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		delete(want, fmt.Sprintf("%s:%d", e.Pos.File, e.Pos.Line))
	}
	for pos := range want {
		t.Errorf("no error at %s:\n%s", pos, list)
	}
}
