package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/machinetest"
)

// jobs has a job that takes some seconds, and two that are due once a day.
const jobs = `
local job(name, more) = { package: multiTool, command: ['multi-tool', 'write', '$STATE_DIRECTORY/log', 'begin WORD', 'sleep', '2s', 'write', '$STATE_DIRECTORY/log', 'end WORD'], dirs: { state: name } } + more;
{
  long: { service: job('long', { schedule: { every: '5s', missed: 'run' }, MORE }) },
  daily: { BACKEND service: job('daily', { schedule: { cron: '0 0 * * *', missed: 'run' } }) },
  skip: { service: job('skip', { schedule: { cron: '0 0 * * *' } }) },
  odd: { service: job('odd', { schedule: { every: '7h' } }) },
}
`

// wrote returns what a job has written to its volume.
func wrote(m *machinetest.Machine, job string) string {
	out, _ := m.Try("cat " + volume(job) + "/log 2>/dev/null")
	return out
}

// TestJob_SystemdTimer: if systemd runs on the machine, its timers start the jobs of
// containers, and take over from a scheduler container. Neither a crash nor a boot repeats a
// run, or misses one that has to be made up for.
func TestJob_SystemdTimer(t *testing.T) {
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
		t.Fatalf("timed out waiting for: %s\n%s\n%s", what, wrote(m, "long"), m.Exec("cat /var/lib/defx/runs/*; systemctl list-timers --all 'defx*'; journalctl -n 50 --no-pager -u 'defx*'; docker ps -a"))
	}
	record := func(job string) string {
		out, _ := m.Try("cat /var/lib/defx/runs/defx-default-dock-d-" + job + ".0.jsonl 2>/dev/null")
		return out
	}
	timers := func() string {
		return strings.Join(strings.Fields(m.Exec("cd /etc/systemd/system; ls -d defx*.timer 2>/dev/null | sed s/defx-default-dock-d-//")), " ")
	}
	complete := func(word string) func() bool {
		return func() bool {
			log := wrote(m, "long")
			return strings.Contains(log, "begin "+word) && strings.Count(log, "begin "+word) == strings.Count(log, "end "+word)
		}
	}
	inProgress := func() bool { // a run is in progress
		log := wrote(m, "long")
		return strings.Count(log, "begin") > strings.Count(log, "end")
	}

	// Where no unit files can be written, a container schedules the job.
	m.Exec("mount --bind /etc/systemd/system /etc/systemd/system && mount -o remount,bind,ro /etc/systemd/system")
	say("one")
	s.wants(0, "4 created")
	if got := m.Docker("ps", "--format", "{{.Names}}") + "\n"; !strings.Contains(got, "d-long.0\n") || !strings.Contains(got, "d-daily") || timers() != "" {
		t.Fatalf("%s, timers %q", got, timers())
	}
	eventually("a run by the container", inProgress)

	// The next version takes over during a run, which finishes.
	m.Exec("umount /etc/systemd/system")
	say("two")
	s.wants(0, "4 updated")
	if got := m.Docker("ps", "--format", "{{.Names}}") + "\n"; strings.Contains(got, "d-long.0\n") || !strings.Contains(got, "d-odd.0\n") || timers() != "daily.0.timer long.0.timer skip.0.timer" {
		t.Errorf("%s, timers %q", got, timers())
	}
	eventually("the run in progress ends", complete("one"))
	eventually("a run by the timer", complete("two"))
	s.wants(0, "No changes")
	eventually("status shows the result", func() bool { _, out := s.run("status", "--refresh"); return strings.Contains(out, "succeeded") })

	eventually("its log shows its runs", func() bool { _, out := s.run("logs", "d/long"); return strings.Contains(out, "exit code 0") })

	// The process that waits for a run is killed: the run continues, and its result is found
	// out.
	eventually("a run", inProgress)
	m.Exec("pkill -9 -x job; true")
	eventually("its end", complete("two"))
	eventually("all results are recorded", func() bool {
		r := record("long")
		return strings.Contains(r, `"ended"`) && strings.Count(r, `"ended"`) >= strings.Count(r, "\n")-1
	})

	// After a failed version the previous one is still scheduled. A change to another
	// backend and back leaves one timer.
	say("three", "MORE", "migrate: ['multi-tool', 'fail', '4']")
	s.wants(3, "migrate.once, which runs before it, failed: it ended with exit code 4", "the previous version runs again")
	before := strings.Count(wrote(m, "long"), "begin two")
	eventually("the previous version runs on schedule", func() bool { return strings.Count(wrote(m, "long"), "begin two") > before })
	for _, backend := range []string{"systemd", "docker"} {
		say("three", "BACKEND", "backend: '"+backend+"',")
		s.wants(3, `d/daily: it would give up the directory "daily"`, "--give-up-data d/daily")
		if code, out := s.run("apply", "--yes", "--give-up-data", "d/daily"); code != 0 || !strings.Contains(out, "✓ d/daily") {
			t.Errorf("exit code %d", code)
		}
	}
	say("three")
	s.wants(0, "No changes")
	if got := timers(); got != "daily.0.timer long.0.timer skip.0.timer" {
		t.Errorf("timers %q", got)
	}
	if _, out := s.run("status", "--refresh"); strings.Contains(out, "edited") || strings.Contains(out, "missing") {
		t.Error("unexpected drift")
	}

	// What was due while the machine was down is made up for, once, if requested.
	if got := wrote(m, "daily") + wrote(m, "skip"); got != "" {
		t.Errorf("a run before it was due: %q", got)
	}
	for _, job := range []string{"daily", "skip"} {
		at := time.Now().Add(-72 * time.Hour).UTC().Format(time.RFC3339)
		m.Exec(fmt.Sprintf(`echo '{"due":"%[2]s","begun":"%[2]s","ended":"%[2]s","code":0}' > /var/lib/defx/runs/defx-default-dock-d-%[1]s.0.jsonl`, job, at))
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
		t.Errorf("catch-up %q, no catch-up %q", got, wrote(m, "skip"))
	}
	m.Exec("systemctl restart defx-default-dock-d-daily.0.timer") // checks for missed runs again, and finds none
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
		t.Error("destroy failed")
	}
	if got := wrote(m, "daily"); strings.Count(got, "begin") != 1 {
		t.Errorf("a run was repeated: %q", got)
	}
	if got := m.Exec("ls -d /etc/systemd/system/*defx* /var/lib/defx/runs/* /var/lib/defx/containers/* 2>/dev/null; systemctl list-units --all --no-legend --plain 'defx-*' | grep -v slice; docker ps -aq; true"); got != "" {
		t.Errorf("left behind: %s", got)
	}
	if code, _ := s.run("gc", "--keep", "1"); code != 0 {
		t.Error("gc failed")
	}
	if got, _ := m.Try("ls /var/lib/defx/bin"); strings.Contains(got, "job") {
		t.Errorf("the runner is left: %s", got)
	}
}
