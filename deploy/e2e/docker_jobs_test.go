package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/machinetest"
)

// jobs has a job that takes a while, and two that are due once a day.
const jobs = `
local job(name, more) = { package: toy, command: ['toy', 'write', '$STATE_DIRECTORY/log', 'begin WORD', 'sleep', '2s', 'write', '$STATE_DIRECTORY/log', 'end WORD'], dirs: { state: name } } + more;
{
  long: { service: job('long', { schedule: { every: '5s', missed: 'run' }, MORE }) },
  daily: { BACKEND service: job('daily', { schedule: { cron: '0 0 * * *', missed: 'run' } }) },
  skip: { service: job('skip', { schedule: { cron: '0 0 * * *' } }) },
  odd: { service: job('odd', { schedule: { every: '7h' } }) },
}
`

// wrote is what a job has written into its volume.
func wrote(m *machinetest.Machine, job string) string {
	out, _ := m.Try("cat $(docker volume inspect --format '{{.Mountpoint}}' defx-default-dock.state." + job + ")/log 2>/dev/null")
	return out
}

// TestATimerKeepsTheTimeOfAJob: where systemd runs it starts the jobs of containers. What a container of ours kept
// before goes over, and neither a crash nor a boot makes a run twice, or loses one that is to be made up for.
func TestATimerKeepsTheTimeOfAJob(t *testing.T) {
	s := newDock(t, 1)
	m := s.lab.Machines[0]
	say := func(word string, pairs ...string) {
		t.Helper()
		s.dock(jobs, append(pairs, "WORD", word, "MORE", "", "BACKEND", "")...)
	}
	eventually := func(what string, f func() bool) {
		t.Helper()
		for range 600 {
			if f() {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Fatalf("it never came to this: %s\n%s\n%s", what, wrote(m, "long"), m.Exec("cat /var/lib/defx/runs/*; systemctl list-timers --all 'defx*'; journalctl -n 50 --no-pager -u 'defx*'; docker ps -a"))
	}
	record := func(job string) string {
		out, _ := m.Try("cat /var/lib/defx/runs/defx-default-dock-d-" + job + ".jsonl 2>/dev/null")
		return out
	}
	timers := func() string {
		return strings.Join(strings.Fields(m.Exec("cd /etc/systemd/system; ls -d defx*.timer 2>/dev/null | sed s/defx-default-dock-d-//")), " ")
	}
	whole := func(word string) func() bool {
		return func() bool {
			log := wrote(m, "long")
			return strings.Contains(log, "begin "+word) && strings.Count(log, "begin "+word) == strings.Count(log, "end "+word)
		}
	}
	under := func() bool { // a run is under way
		log := wrote(m, "long")
		return strings.Count(log, "begin") > strings.Count(log, "end")
	}

	// Where no units may be written, a container keeps the time.
	m.Exec("mount --bind /etc/systemd/system /etc/systemd/system && mount -o remount,bind,ro /etc/systemd/system")
	say("one")
	s.wants(0, "4 created")
	if got := m.Docker("ps", "--format", "{{.Names}}") + "\n"; !strings.Contains(got, "d-long\n") || !strings.Contains(got, "d-daily") || timers() != "" {
		t.Fatalf("%s, timers %q", got, timers())
	}
	eventually("a run by the container", under)

	// The next version goes over, in the middle of a run, which comes to its end.
	m.Exec("umount /etc/systemd/system")
	say("two")
	s.wants(0, "4 updated")
	if got := m.Docker("ps", "--format", "{{.Names}}") + "\n"; strings.Contains(got, "d-long\n") || !strings.Contains(got, "d-odd\n") || timers() != "daily.timer long.timer skip.timer" {
		t.Errorf("%s, timers %q", got, timers())
	}
	eventually("the run that was under way ends", whole("one"))
	eventually("a run by the timer", whole("two"))
	s.wants(0, "No changes")
	eventually("it is told how it went", func() bool { _, out := s.run("status", "--refresh"); return strings.Contains(out, "ran well") })

	eventually("its log tells of its runs", func() bool { _, out := s.run("logs", "d/long"); return strings.Contains(out, "exit code 0") })

	// Who waits for a run is killed: the run goes on, and how it ended is found out.
	eventually("a run", under)
	m.Exec("pkill -9 -x job; true")
	eventually("its end", whole("two"))
	eventually("all ends are written down", func() bool {
		r := record("long")
		return strings.Contains(r, `"ended"`) && strings.Count(r, `"ended"`) >= strings.Count(r, "\n")-1
	})

	// A version that fails leaves the one before on time; to another backend and back there is one timer.
	say("three", "MORE", "migrate: ['toy', 'fail', '4']")
	s.wants(3, "migrate.once, which runs before it, fails: it ended with exit code 4", "the version before it runs again")
	before := strings.Count(wrote(m, "long"), "begin two")
	eventually("the version before runs on time", func() bool { return strings.Count(wrote(m, "long"), "begin two") > before })
	say("three", "BACKEND", "backend: 'systemd',")
	s.wants(0, "d/daily")
	say("three")
	s.wants(0, "d/daily")
	if got := timers(); got != "daily.timer long.timer skip.timer" {
		t.Errorf("timers %q", got)
	}
	if _, out := s.run("status", "--refresh"); strings.Contains(out, "edited") || strings.Contains(out, "missing") {
		t.Error("drift where there is none")
	}

	// What came due while the machine was down is made up for, once, if that was asked for.
	if got := wrote(m, "daily") + wrote(m, "skip"); got != "" {
		t.Errorf("a run before its time: %q", got)
	}
	for _, job := range []string{"daily", "skip"} {
		at := time.Now().Add(-72 * time.Hour).UTC().Format(time.RFC3339)
		m.Exec(fmt.Sprintf(`echo '{"due":"%[2]s","begun":"%[2]s","ended":"%[2]s","code":0}' > /var/lib/defx/runs/defx-default-dock-d-%[1]s.jsonl`, job, at))
	}
	ends := func() int { return strings.Count(wrote(m, "long"), "end three") }
	n := ends()
	m.Exec("sync")
	m.Reboot()
	m.StartDocker()
	eventually("the missed run", func() bool { return strings.Contains(wrote(m, "daily"), "end three") })
	eventually("the other job", func() bool { return ends() > n })
	s.wants(0, "No changes")
	if got := wrote(m, "daily"); strings.Count(got, "begin") != 1 || wrote(m, "skip") != "" {
		t.Errorf("%q, and who skips: %q", got, wrote(m, "skip"))
	}
	m.Exec("systemctl restart defx-default-dock-d-daily.timer") // asks again, and owes nothing
	due := map[string]int{}
	for line := range strings.Lines(record("long")) {
		at, _, _ := strings.Cut(line, ",")
		if strings.Contains(line, `"cut":true`) { // it is made up for
			continue
		}
		if due[at]++; due[at] > 1 {
			t.Errorf("two runs for one time:\n%s", record("long"))
		}
	}

	if code, _ := s.run("destroy", "--yes", "--confirm", "default", "--allow-delete", "d/long", "--allow-delete", "d/daily", "--allow-delete", "d/skip", "--allow-delete", "d/odd"); code != 0 {
		t.Error("no destroy")
	}
	if got := wrote(m, "daily"); strings.Count(got, "begin") != 1 {
		t.Errorf("a run that was made twice: %q", got)
	}
	if got := m.Exec("ls -d /etc/systemd/system/*defx* /var/lib/defx/runs/* /var/lib/defx/containers/* 2>/dev/null; systemctl list-units --all --no-legend --plain 'defx-*' | grep -v slice; docker ps -aq; true"); got != "" {
		t.Errorf("left behind: %s", got)
	}
	if code, _ := s.run("gc", "--keep", "1"); code != 0 {
		t.Error("no gc")
	}
	if got, _ := m.Try("ls /var/lib/defx/bin"); strings.Contains(got, "job") {
		t.Errorf("the runner is left: %s", got)
	}
}
