package e2e

import (
	"strings"
	"testing"
)

// kinds has one service of each kind.
const kinds = `local defx = import 'defx/v1.libsonnet';
local sh(text) = ['/bin/sh', '-c', text];
local probe(state, more) = { package: defx.artifact('../build/probe'), command: ['probe', 'serve'], dirs: { state: state }, env: { WHO: 'WORD' } } + more;
{
  tick: { service: { command: sh('echo WORD >> $STATE_DIRECTORY/ticks'), dirs: { state: 'tick' }, schedule: { every: '1s' } } },
  bad: { service: { command: sh('echo never mind >&2; exit 4'), schedule: { every: '2s' } } },
  rare: { service: { command: ['/bin/true'], schedule: { cron: '0 0 29 2 *', timezone: 'Asia/Singapore' } } },
  sock: { service: probe('sock', { ports: { talk: 7100 }, sockets: { talk: { port: 'talk' } } }) },
  notified: { service: probe('notified', { ready: { notify: true, timeout: '10s' } }) },
  slow: { service: { command: sh('rm -f $STATE_DIRECTORY/up; sleep 0.5; touch $STATE_DIRECTORY/up; exec sleep 1000'), env: { W: 'WORD' }, dirs: { state: 'slow' },
    ready: { exec: sh('test -e $STATE_DIRECTORY/up'), interval: '200ms', timeout: '10s' },
    initializer: sh('echo init >> $STATE_DIRECTORY/log'), migrate: sh('echo WORD >> $STATE_DIRECTORY/log; MIGRATE') } },
  after: { requires: ['slow'], service: { command: sh('test -e "$0/up" || exit 7; exec sleep 1000') + [defx.dep('slow').here.dir('state')], user: 'root' } },
  pair: defx.group({
    one: { service: { command: ['/bin/sleep', '1000'], env: { W: 'ONE' } } },
    two: { after: ['one'], service: { command: ['/bin/sleep', '1001'], env: { W: 'TWO' } } },
  }),
  again: { service: { command: sh('trap "cat /etc/again.conf >> $STATE_DIRECTORY/reloads" HUP; while :; do sleep 0.1; done'), dirs: { state: 'again' },
    files: { '/etc/again.conf': 'RELOAD\n' }, reload: { signal: 'HUP' } } },
}
`

func TestServices_EveryKind(t *testing.T) {
	s := newSite(t, 1)
	m := s.lab.Machines[0]
	s.builds("probe", "../../backends/systemd/testdata/probe")
	say := func(text string, pairs ...string) {
		t.Helper()
		s.file("libs/kinds.libsonnet", strings.NewReplacer(pairs...).Replace(text), 0o644)
		s.file("defx.jsonnet", "{ name: 'kinds', libs: { kinds: import 'libs/kinds.libsonnet' }, machines: { m1: { connect: 'ssh://root@"+m.Address+"' } } }\n", 0o644)
	}
	pid := func(name string) string {
		return strings.TrimSpace(m.Exec("systemctl show -P MainPID defx-default-kinds-kinds-" + name + ".0.service"))
	}
	state := func(name string) string { return "/var/lib/private/defx/default/kinds/kinds-" + name + ".0/" + name }
	has := func(path, want string) {
		t.Helper()
		if got := m.Exec("cat " + path); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}

	say(kinds, "WORD", "red", "MIGRATE", "true", "ONE", "1", "TWO", "2", "RELOAD", "first")
	s.wants(0, "10 created", "next runs: ")
	has(state("slow")+"/log", "init\nred\n")
	if got := m.Exec(`exec 3<>/dev/tcp/127.0.0.1/7100; timeout 5 cat <&3`); !strings.Contains(got, "hello from red") {
		t.Errorf("%q", got)
	}
	m.Exec("for i in $(seq 50); do test -s " + state("tick") + "/ticks && exit 0; sleep 0.1; done; exit 1")
	for _, name := range []string{"sock", "notified", "slow", "after", "pair-one", "pair-two", "again"} {
		if pid(name) == "0" {
			t.Errorf("%s does not run", name)
		}
	}

	// Only what changed.
	one, two, notified, again := pid("pair-one"), pid("pair-two"), pid("notified"), pid("again")
	say(kinds, "WORD", "red", "MIGRATE", "true", "ONE", "1", "TWO", "22", "RELOAD", "second")
	s.wants(0, "kinds/pair/two", "kinds/again", "reload", "2 updated; 8 unchanged")
	if pid("pair-one") != one || pid("pair-two") == two || pid("notified") != notified || pid("again") != again {
		t.Error("others than the changed member restarted")
	}
	m.Exec("for i in $(seq 50); do grep -q second " + state("again") + "/reloads && exit 0; sleep 0.1; done; exit 1")

	// Scheduled services show the result of their last run.
	m.Exec("for i in $(seq 100); do systemctl is-failed -q 'defx-default-kinds-kinds-bad.0.*' && exit 0; sleep 0.1; done; exit 1")
	out := ""
	for range 20 { // it may be running now
		if _, out = s.run("status", "--refresh"); strings.Contains(out, "succeeded") {
			break
		}
	}
	for _, want := range []string{"succeeded", "failed: it ended with exit code 4", "has not run yet, next "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	s.says("-02-29 00:00 Asia/Singapore", "explain", "kinds/rare")

	// A migration that fails: the old version continues.
	was := pid("slow")
	say(kinds, "WORD", "blue", "MIGRATE", "echo no table >&2; exit 4", "ONE", "1", "TWO", "22", "RELOAD", "second")
	s.wants(3, "✗ kinds/slow", "no table", "exit code 4", "the previous version runs again", "✓ kinds/sock", "✓ kinds/notified", "✓ kinds/tick")
	if pid("slow") == was || pid("slow") == "0" {
		t.Errorf("slow: %s, was %s", pid("slow"), was)
	}
	if got := m.Exec(`exec 3<>/dev/tcp/127.0.0.1/7100; timeout 5 cat <&3`); !strings.Contains(got, "hello from blue") {
		t.Errorf("%q", got)
	}
	m.Exec("for i in $(seq 50); do grep -q blue " + state("tick") + "/ticks && exit 0; sleep 0.1; done; exit 1")
	say(kinds, "WORD", "blue", "MIGRATE", "true", "ONE", "1", "TWO", "22", "RELOAD", "second")
	s.wants(0, "1 updated")
	has(state("slow")+"/log", "init\nred\n")
	has(state("slow")+"/log", "blue\n")

	// After a reboot everything runs again by itself.
	m.Reboot()
	m.Exec("for i in $(seq 100); do systemctl is-active defx-default-kinds-kinds-{after,slow,notified,pair-one,pair-two,again}.0.service >/dev/null && exit 0; sleep 0.2; done; systemctl list-units --all 'defx-*'; exit 1")
	s.wants(0, "No changes")

	args := []string{"destroy", "--confirm", "default"}
	for _, name := range []string{"tick", "sock", "notified", "slow", "again"} { // they keep data of their own
		args = append(args, "--allow-delete", "kinds/"+name)
	}
	if code, _ := s.run(args...); code != 0 {
		t.Errorf("destroy ends with %d", code)
	}
	if got := m.Exec("ls -d /etc/systemd/system/*defx* /var/lib/defx/units /var/lib/defx/done/* 2>/dev/null; systemctl list-units --all --no-legend --plain 'defx-*' | grep -v slice; true"); got != "" {
		t.Errorf("what is left: %s", got)
	}
}
