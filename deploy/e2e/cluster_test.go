package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// etcd is a cluster of REPLICAS members that are updated one at a time while it is healthy.
const etcd = `local defx = import 'defx/v1.libsonnet';
{
  etcd: {
    place: { replicas: REPLICAS, spread: 'machine' },
    service: {
      command: [
        '/usr/bin/etcd', '--name', defx.me.machine, '--data-dir', defx.me.dir('state'), '--initial-cluster-token', 'e2e-test', '--initial-cluster-state', 'new',
        '--listen-client-urls', 'http://0.0.0.0:' + defx.me.port('client'),
        '--advertise-client-urls', 'http://%s:%s' % [defx.me.host, defx.me.port('client')],
        '--listen-peer-urls', 'http://0.0.0.0:' + defx.me.port('peer'),
        '--initial-advertise-peer-urls', 'http://%s:%s' % [defx.me.host, defx.me.port('peer')],
        '--initial-cluster', defx.peers.join(',', function(r) '%s=http://%s:%s' % [r.machine, r.host, r.port('peer')]),
      ] + FLAGS,
      ports: { client: 2379, peer: 2380 },
      dirs: { state: 'etcd-e2e' },
      ready: { http: '/health', port: 'client', timeout: 'TIMEOUT' },
      retire: ['/bin/sh', '-c', 'for i in $(seq 30); do id=$(etcdctl --endpoints "$1" member list | grep ", $0, " | cut -d, -f1); [ -n "$id" ] && etcdctl --endpoints "$1" member remove "$id" && exit 0; sleep 1; done; exit 1',
        defx.me.machine, defx.peers.join(',', function(r) 'http://%s:%s' % [r.host, r.port('client')])],
      update: { soak: '1s', healthy: ['/usr/bin/etcdctl', '--endpoints', defx.peers.join(',', function(r) 'http://%s:%s' % [r.host, r.port('client')]), 'endpoint', 'health'] },
    },
  },
}
`

// TestRolling_ClusterKeepsQuorum changes a flag of etcd while a client writes.
func TestRolling_ClusterKeepsQuorum(t *testing.T) {
	s := newSite(t, 3)
	replicas := 3
	say := func(flags, timeout string) {
		t.Helper()
		s.file("libs/kv.libsonnet", strings.NewReplacer("REPLICAS", fmt.Sprint(replicas), "FLAGS", flags, "TIMEOUT", timeout).Replace(etcd), 0o644)
		var machines, endpoints []string
		for _, m := range s.lab.Machines {
			machines = append(machines, fmt.Sprintf("%s: { connect: 'ssh://root@%s' }", m.Name, m.Address))
			endpoints = append(endpoints, "http://"+m.Address+":2379")
		}
		s.file("defx.jsonnet", "{ name: 'cluster', libs: { kv: import 'libs/kv.libsonnet' }, machines: { "+strings.Join(machines, ", ")+" } }\n", 0o644)
		s.extra = strings.Join(endpoints, ",")
	}
	m := s.lab.Machines[0]
	flags := func() string {
		var out []string
		for _, m := range s.lab.Machines {
			out = append(out, strings.TrimSpace(m.Exec("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done 2>/dev/null | grep '^/usr/bin/etcd ' | grep -o 'snapshot-count [0-9]*' || true")))
		}
		return strings.Join(out, ", ")
	}
	say("['--snapshot-count', '5000']", "60s")
	s.wants(0, "3 created")
	m.Exec("etcdctl --endpoints " + s.extra + " endpoint health")

	// A client writes all the time, and every write must be there afterwards. A write in
	// progress at a member that stops may be cut off with an unknown result; it is repeated
	// once.
	m.Exec("systemd-run -q --unit writer /bin/bash -c 'put() { etcdctl --endpoints " + s.extra + " --command-timeout 20s put k$1 v$1 >/dev/null 2>>$2; }; " +
		"for i in $(seq 100000); do put $i /root/cut || put $i /root/failed && echo $i > /root/written || echo failed $i >> /root/failed; done'")
	say("['--snapshot-count', '6000']", "60s")
	s.wants(0, "3 updated")
	if got := flags(); got != "snapshot-count 6000, snapshot-count 6000, snapshot-count 6000" {
		t.Errorf("%s", got)
	}
	m.Exec("systemctl stop writer")
	out := m.Exec("n=$(cat /root/written); cat /root/failed 2>/dev/null; echo $n writes; etcdctl --endpoints " + s.extra + " get k --prefix --keys-only | grep -c ^k")
	t.Logf("%s", out)
	var written, there int
	if n, err := fmt.Sscanf(out, "%d writes\n%d", &written, &there); n != 2 || there < written { // one more may be in progress
		t.Errorf("the writer: %v\n%s", err, out)
	}

	// A member that does not start stops the rolling update, and the others stay unchanged.
	say("['--snapshot-count', '7000', '--no-such-flag']", "5s")
	s.wants(3, "flag provided but not defined: -no-such-flag", "the rolling update stopped because kv/etcd#0 failed", "1 failed, 2 skipped")
	if got := flags(); got != "snapshot-count 6000, snapshot-count 6000, snapshot-count 6000" {
		t.Errorf("%s", got)
	}
	m.Exec("etcdctl --endpoints " + s.extra + " endpoint health")

	// While a member is down, only that one can be updated; then the others can.
	s.lab.Machines[2].Exec("systemctl stop defx-default-cluster-kv-etcd.2.service")
	say("['--snapshot-count', '8000']", "10s")
	s.wants(3, "not changed, because its replica set is not healthy", "✓ kv/etcd#2", "1 updated, 2 failed")
	if got := flags(); got != "snapshot-count 6000, snapshot-count 6000, snapshot-count 8000" {
		t.Errorf("%s", got)
	}
	s.wants(0, "2 updated")
	m.Exec("etcdctl --endpoints " + s.extra + " endpoint health")

	// A member that is deleted leaves the cluster first.
	replicas = 2
	say("['--snapshot-count', '8000']", "60s")
	s.wants(0, "stays: it keeps data of its own")
	code, out := s.run("apply", "--yes", "--allow-delete", "kv/etcd#2")
	if code != 0 || !strings.Contains(out, "1 deleted") {
		t.Errorf("exit code %d", code)
	}
	if got := m.Exec("etcdctl --endpoints http://" + m.Address + ":2379 member list | cut -d, -f3 | sort | tr -d '\n'"); got != " m1 m2" {
		t.Errorf("members: %q", got)
	}
}
