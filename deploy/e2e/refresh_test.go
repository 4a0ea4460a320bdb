package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/defx-dev/defx/deploy/machinetest"
)

// watched is a library with all that a machine's administrator can change: a service with files,
// data and a package, one that reloads, one that is never restarted, and a job.
const watched = `local defx = import 'defx/v1.libsonnet';
{
  web: { place: { machine: 'm1' }, service: { package: defx.artifact('../build/server'),
    command: ['server', '-listen', '0.0.0.0:' + defx.me.port('http')], env: { GREETING: 'WORD' }, ports: { http: 7001 }, ready: { http: '/health', timeout: '10s' },
    files: { '/etc/web.conf': 'stored\n' }, hostFiles: { '/etc/shop.conf': 'host\n' }, dirs: { state: 'shop' }, user: 'root' } },
  conf: { place: { machine: 'm1' }, service: { command: ['/bin/sh', '-c', 'trap : HUP; while :; do sleep 1; done'], reload: { signal: 'HUP' }, files: { '/etc/conf': 'copy\n' } } },
  once: { place: { machine: 'm1' }, service: { command: ['/bin/sleep', '1000'], restart: 'no' } },
  job: { place: { machine: 'm1' }, service: { command: ['/bin/true'], schedule: { every: '1h' } } },
}
`

// data is the folder of web's data.
const data = "/var/lib/$(systemctl show -P StateDirectory defx-default-w-w-web.0.service)"

func (s *site) writeWatched(word string) {
	s.t.Helper()
	s.file("libs/watched.libsonnet", strings.ReplaceAll(watched, "WORD", word), 0o644)
	s.file("defx.jsonnet", "{ name: 'w', libs: { w: import 'libs/watched.libsonnet' }, machines: { m1: { connect: 'ssh://root@"+s.lab.Machines[0].Address+"' } } }\n", 0o644)
}

// differences returns what status --refresh reports: "ADDRESS FIELD: CAUSE", one a line.
func (s *site) differences(wantCode int) string {
	s.t.Helper()
	code, out := s.run("status", "--refresh", "--json")
	if code != wantCode {
		s.t.Errorf("status --refresh ends with %d, not %d", code, wantCode)
	}
	var doc struct {
		Units []struct {
			Address     string
			Differences []struct{ Field, Cause, Detail string }
		}
	}
	line, _, _ := strings.Cut(out, "\n")
	if err := json.Unmarshal([]byte(line), &doc); err != nil {
		s.t.Fatal(err)
	}
	var b strings.Builder
	for _, u := range doc.Units {
		for _, d := range u.Differences {
			fmt.Fprintf(&b, "%s %s: %s\n", u.Address, d.Field, d.Cause)
		}
	}
	return b.String()
}

// driftCase is one change of a machine and the difference that it must be reported as.
type driftCase struct{ name, change, want string }

// check makes the changes of each batch, wants all to be reported, and repairs them.
func (s *site) check(m *machinetest.Machine, batches [][]driftCase) {
	s.t.Helper()
	if got := s.differences(0); got != "" {
		s.t.Fatalf("before any change: %s", got)
	}
	for _, cases := range batches {
		for _, c := range cases {
			if out, err := m.Try(c.change); err != nil {
				s.t.Errorf("%s: %v %s", c.name, err, out)
			}
		}
		got := s.differences(3)
		for _, c := range cases {
			if !regexp.MustCompile(`(?m)^` + c.want + `$`).MatchString(got) {
				s.t.Errorf("%s: not reported as %q in\n%s", c.name, c.want, got)
			}
		}
		if code, _ := s.run("apply", "--yes", "--repair", "--allow-empty", "@m1"); code != 0 {
			s.t.Errorf("%s: the repair ends with %d", cases[0].name, code)
		}
		if got := s.differences(0); got != "" {
			s.t.Errorf("%s: not repaired: %s", cases[0].name, got)
			s.run("apply", "--yes", "--repair", "--allow-empty", "@m1")
		}
	}
}

func TestRefresh_SystemdDriftByField(t *testing.T) {
	s := newSite(t, 1)
	m := s.lab.Machines[0]
	s.writeWatched("one")
	s.wants(0, "4 created")
	m.Exec("echo data > " + data + "/db")
	const unit = "U=$(basename $(readlink -f /etc/systemd/system/defx-default-w-w-web.0.service)); "
	const object = `O=$(grep -o 'BindReadOnlyPaths=/var/lib/defx/store/[0-9a-f-]*' /etc/systemd/system/$U | cut -d= -f2); `
	const pkg = `P=$(grep -o '/var/lib/defx/store/[0-9a-f]*/' /etc/systemd/system/$U | head -1); `
	s.check(m, [][]driftCase{
		{
			{"stopped", "systemctl stop defx-default-w-w-web.0.service", `w/web(?:#0)? \S+: stopped, not by defx`},
			{"failed", "systemctl kill -s KILL defx-default-w-w-once.0.service; sleep 0.3", `w/once(?:#0)? \S+: failed`},
			{"timer stopped", "systemctl stop defx-default-w-w-job.0.timer", `w/job(?:#0)? \S+\.timer: stopped, not by defx`},
			{"copy edited", "echo mine > /var/lib/defx/units/defx-default-w-w-conf.0/files/etc/conf", `w/conf(?:#0)? \S+/etc/conf: file edited`},
		},
		{
			{"stored file removed", unit + object + "rm $O", `w/web(?:#0)? /var/lib/defx/store/\S+: stored content missing`},
			{"edited", unit + "echo '# mine' >> /etc/systemd/system/$U", `w/web(?:#0)? /etc/systemd/system/\S+: unit file edited`},
			{"alias removed", "rm /etc/systemd/system/defx-default-w-w-web.0.service", `w/web(?:#0)? /etc/systemd/system/defx-default-w-w-web\.0\.service: unit file missing`},
			{"host file edited", "echo mine >> /etc/shop.conf", `w/web(?:#0)? /etc/shop\.conf: host file edited`},
			{"copy removed", "rm /var/lib/defx/units/defx-default-w-w-conf.0/files/etc/conf", `w/conf(?:#0)? \S+/etc/conf: file missing`},
		},
		{
			{"removed", unit + "rm /etc/systemd/system/$U", `w/web(?:#0)? /etc/systemd/system/\S+: unit file missing`},
			{"disabled", "rm /etc/systemd/system/defx-default-w.target.wants/defx-default-w-w-web.0.service", `w/web(?:#0)? \S+wants\S+: not enabled`},
			{"host file removed", "rm /etc/shop.conf", `w/web(?:#0)? /etc/shop\.conf: host file missing`},
			{"data emptied", "rm " + data + "/db", `w/web(?:#0)? /var/lib/defx/\S+: its data is gone`},
			{"drop-in of a prefix", "mkdir /etc/systemd/system/defx-default-.service.d; printf '[Service]\\nNice=3\\n' > /etc/systemd/system/defx-default-.service.d/all.conf", `w/web(?:#0)? \S+/all\.conf: drop-in added`},
		},
		{
			{"stored file damaged", unit + object + "chmod u+w $O; echo derots > $O; chmod u-w $O", `w/web(?:#0)? /var/lib/defx/store/\S+: stored content damaged`},
			{"mode", unit + "chmod 666 /etc/systemd/system/$U", `w/web(?:#0)? /etc/systemd/system/\S+: mode of the unit file changed`},
			{"alias changed", "ln -sf ssh.service /etc/systemd/system/defx-default-w-w-web.0.service", `w/web(?:#0)? \S+: alias changed`},
			{"host file mode", "chmod 600 /etc/shop.conf", `w/web(?:#0)? /etc/shop\.conf: mode of the host file changed`},
		},
		{
			{"edited and restarted", unit + "sed -i s/GREETING=one/GREETING=two/ /etc/systemd/system/$U; systemctl daemon-reload; systemctl restart $U", `w/web(?:#0)? /etc/systemd/system/\S+: unit file edited`},
			{"drop-in", unit + "mkdir /etc/systemd/system/$U.d; printf '[Service]\\nNice=3\\n' > /etc/systemd/system/$U.d/mine.conf; systemctl daemon-reload", `w/web(?:#0)? /etc/systemd/system/\S+/mine\.conf: drop-in added`},
			{"host file of the same size", "echo tsoh > /etc/shop.conf", `w/web(?:#0)? /etc/shop\.conf: host file edited`},
			{"package removed", unit + pkg + "rm -r $P", `w/web(?:#0)? /var/lib/defx/store/\S+: stored content missing`},
		},
		{
			{"property", unit + "systemctl set-property $U CPUWeight=50", `w/web(?:#0)? /etc/systemd/system\.control/\S+: drop-in added`},
			{"drop-in at run time", unit + "mkdir -p /run/systemd/system/$U.d; printf '[Service]\\nNice=3\\n' > /run/systemd/system/$U.d/mine.conf", `w/web(?:#0)? /run/systemd/system/\S+/mine\.conf: drop-in added`},
			{"host file linked", "ln -sf /etc/hostname /etc/shop.conf", `w/web(?:#0)? /etc/shop\.conf: host file edited`},
			{"package damaged", unit + pkg + "chmod -R u+w $P; printf x | dd of=$(find $P -type f | head -1) conv=notrunc bs=1 seek=100000 2>/dev/null || { cp $(find $P -type f) /root/p; printf x | dd of=/root/p conv=notrunc bs=1 seek=100000 2>/dev/null; cp --remove-destination /root/p $(find $P -type f); }", `w/web(?:#0)? /var/lib/defx/store/\S+: stored content damaged`},
		},
		{
			{"data removed", "rm -r " + data, `w/web(?:#0)? /var/lib/defx/\S+: its data is gone`},
			{"masked", unit + "ln -sf /dev/null /etc/systemd/system/$U; systemctl daemon-reload", `w/web(?:#0)? /etc/systemd/system/\S+: masked`},
		},
		{
			{"removed and stopped", unit + "systemctl stop $U; rm /etc/systemd/system/$U; systemctl daemon-reload", `w/web(?:#0)? /etc/systemd/system/\S+: unit file missing`},
		},
		{
			{"unread", unit + "cp -a /etc/systemd/system/$U /root/u; echo 'Nice=3' >> /etc/systemd/system/$U; systemctl daemon-reload; sleep 0.1; cat /root/u > /etc/systemd/system/$U", `w/web(?:#0)? \S+: unit file not read by systemd`},
		},
		{
			{"hidden", unit + "mkdir -p /run/systemd/transient; cp /etc/systemd/system/$U /run/systemd/transient/$U", `w/web(?:#0)? /run/systemd/transient/\S+: drop-in added`},
		},
	})
	for range number("DEFX_TEST_IDLE", 10) {
		if code, out := s.run("apply", "--yes"); code != 0 || !strings.Contains(out, "No changes: 4 units match; 1 machine asked.") {
			t.Fatalf("an idle apply ends with %d: %s", code, out)
		}
	}
}

func TestRefresh_StopRebootReinstall(t *testing.T) {
	s := newSite(t, 1)
	m := s.lab.Machines[0]
	s.writeWatched("one")
	s.wants(0, "4 created")
	m.Exec("echo data > " + data + "/db")

	// What defx stop stopped stays so across applies and boots.
	s.says("w/web stopped on m1", "stop", "w/web", "--reason", "moving house")
	running := func() string {
		return strings.TrimSpace(m.Exec("systemctl is-active defx-default-w-w-web.0.service || true"))
	}
	s.says("moving house", "status", "--refresh")
	s.wants(0, "No changes: 4 units match")
	s.writeWatched("two")
	s.wants(0, "stays stopped", "1 updated")
	m.Reboot()
	if got := running(); got == "active" {
		t.Error("it runs again after a boot")
	}
	m.Exec("systemctl start defx-default-w-w-web.0.service")
	if got := running(); got == "active" {
		t.Error("a start by hand overrides defx stop")
	}
	s.says(" stopped, protected ", "status", "--refresh")
	s.wants(0, "No changes: 4 units match")
	s.says("w/web started on m1", "start", "w/web")
	if got := m.Exec("systemctl show -P Environment defx-default-w-w-web.0.service; curl -sf http://127.0.0.1:7001/health"); !strings.Contains(got, "GREETING=two") {
		t.Errorf("after the start: %q", got)
	}
	s.wants(0, "No changes: 4 units match")
	m.Reboot()
	s.wants(0, "No changes: 4 units match")
	if got := running(); got != "active" {
		t.Errorf("after a boot it is %s", got)
	}

	// Consent for what somebody stopped; none for what is missing.
	m.Exec("systemctl stop defx-default-w-w-web.0.service")
	s.wants(3, "stopped on m1, not by defx", "left as it is; to repair it: defx apply --repair")
	if got := running(); got == "active" {
		t.Error("it was started without consent")
	}
	code, out := s.run("apply", "--yes", "--repair")
	if code != 0 || !strings.Contains(out, "✓ w/web  m1  started in") {
		t.Errorf("%d: %s", code, out)
	}

	// The records are lost while units run, then all of the machine.
	m.Exec("find /var/lib/defx -mindepth 1 -maxdepth 1 ! -name default -exec rm -r {} +") // all but the data
	s.writeWatched("three")                                                               // another version than the one that runs
	s.wants(0, "records lost", "1 created, 3 repaired")
	if got := m.Exec("ls /etc/systemd/system | grep -c 'w-w-web\\.0\\.[0-9a-f]*\\.service'; systemctl show -P Environment defx-default-w-w-web.0.service"); !strings.HasPrefix(got, "1\n") || !strings.Contains(got, "GREETING=three") {
		t.Errorf("%q", got)
	}
	if got := m.Exec("systemctl show -P NRestarts defx-default-w-w-web.0.service; cat " + data + "/db"); got != "0\ndata\n" {
		t.Errorf("%q", got)
	}
	m.Exec("systemctl stop defx-default-w.target; rm -r /var/lib/defx /etc/systemd/system/*defx* /etc/systemd/system/*.wants/*defx* /etc/shop.conf; systemctl daemon-reload")
	s.wants(1, "w/web: /var/lib/defx/", "is gone from m1", "--allow-empty w/web", "--allow-empty @m1")
	code, out = s.run("apply", "--yes", "--allow-empty", "w/web")
	if code != 0 || !strings.Contains(out, "create: machine reinstalled") || !strings.Contains(out, "4 repaired") {
		t.Errorf("%d: %s", code, out)
	}
	s.wants(0, "No changes: 4 units match; 1 machine asked.")

	// A version that never starts is listed with its reason and its log.
	entry := filepath.Join(s.dir, "libs/watched.libsonnet")
	text, err := os.ReadFile(entry)
	if err != nil {
		t.Fatal(err)
	}
	s.file("libs/watched.libsonnet", strings.Replace(string(text), "\n}\n", "\n  bad: { place: { machine: 'm1' }, service: { command: ['/bin/sh', '-c', 'echo no such luck; exit 7'], ready: { tcp: true, timeout: '3s' }, ports: { x: 7999 } } },\n}\n", 1), 0o644)
	s.wants(3, "✗ w/bad")
	out = s.says("w/bad", "status")
	if !regexp.MustCompile(`(?m)^w/bad .* failed .*\n +.*(exit code 7|not ready|keeps)`).MatchString(out) {
		t.Errorf("%s", out)
	}
	s.says("no such luck", "logs", "w/bad")
	s.says("w/bad on m1: failed: ", "history")
	s.file("libs/watched.libsonnet", strings.ReplaceAll(strings.Replace(string(text), "'server', '-listen'", "'server', '-no-such-flag', '-listen'", 1), "WORD", "two"), 0o644)
	s.wants(3, "✗ w/web")
	s.says("rolled back", "status")
	s.says("w/web on m1: rolled back: ", "history")
}

// contained is the same as watched for an engine.
const contained = `
local serve(port) = { package: multiTool, command: ['multi-tool', 'serve', '0.0.0.0:' + defx.me.port('http')], ports: { http: port }, ready: { http: '/' }, env: { WHO: 'WORD' } };
{
  web: { service: serve(7001) + { files: { '/etc/web.conf': 'stored\n' }, hostFiles: { '/etc/shop.conf': 'host\n' }, dirs: { state: 'web', runtime: 'web' }, user: '1000',
    limits: { cpu: '0.5', memory: '64Mi', tasks: 50, openFiles: 500 }, stop: { signal: 'SIGINT', timeout: '3s' } }, docker: { aliases: ['www'], capabilities: ['NET_BIND_SERVICE'] } },
  tick: { service: { package: multiTool, command: ['multi-tool', 'say', 'x'], schedule: { every: '1h' } } },
  pair: defx.group({ one: { service: serve(7002) } }),
}
`

func TestRefresh_DockerDriftByField(t *testing.T) {
	s := newDock(t, 1)
	m := s.lab.Machines[0]
	s.dock(contained, "WORD", "one")
	s.wants(0, "3 created")
	if t.Failed() {
		t.FailNow()
	}
	const name = "N=$(docker ps -a --format '{{.Names}}' --filter label=dev.defx.address=d/web#0); "
	const volume = "V=$(docker inspect -f '{{range .Mounts}}{{if eq .Type \"volume\"}}{{.Name}}{{end}}{{end}}' $N); "
	const labels = `L=$(docker inspect -f '{{range $k, $v := .Config.Labels}}--label {{$k}}={{$v}} {{end}}' $N); I=$(docker inspect -f '{{.Config.Image}}' $N); `
	const object = `O=$(docker inspect -f '{{range .Mounts}}{{if eq .Destination "/etc/web.conf"}}{{.Source}}{{end}}{{end}}' $N); `
	m.Exec(name + volume + "echo data > $(docker volume inspect -f '{{.Mountpoint}}' $V)/db")
	field := func(f string) string { return `d/web(?:#0)? container\.` + f + ": container changed" }
	s.check(m, [][]driftCase{
		{
			{"stopped", name + "docker stop $N", `d/web(?:#0)? container\.state: stopped, not by defx`},
			{"schedule stopped", "systemctl stop defx-default-dock-d-tick.0.timer", `d/tick(?:#0)? \S+: stopped, not by defx`},
			{"pod removed", "docker rm -f $(docker ps -a --format '{{.Names}}' --filter label=dev.defx.scope | grep -v -e d-web -e d-tick -e 'one\\.')", `d/pair/one(?:#0)? \S+: container missing`},
		},
		{
			{"removed", name + "docker rm -f $N", `d/web(?:#0)? \S+: container missing`},
			{"host file edited", "echo mine >> /etc/shop.conf", `d/web(?:#0)? /etc/shop\.conf: host file edited`},
		},
		{
			{"paused", name + "docker pause $N", `d/web(?:#0)? container\.state: container paused`},
			{"file edited", name + "F=/var/lib/defx/containers/$N.container; cat $F >> /root/f; echo >> $F", `d/web(?:#0)? /var/lib/defx/containers/\S+: unit file edited`},
		},
		{
			{"killed", name + "docker kill $N", `d/web(?:#0)? container\.state: stopped, not by defx`},
			{"file removed", name + "rm /var/lib/defx/containers/$N.container", `d/web(?:#0)? /var/lib/defx/containers/\S+: unit file missing`},
			{"stored file removed", name + object + "rm $O", `d/web(?:#0)? /var/lib/defx/store/\S+: stored content missing`},
		},
		{
			{"memory", name + "docker update --memory 100m --memory-swap 200m $N", field("memory")},
			{"cores", name + "docker update --cpus 0.7 $N", field("cpus")},
			{"processes", name + "docker update --pids-limit 60 $N", field("pidsLimit")},
			{"shares", name + "docker update --cpu-shares 512 $N", field("cpuShares")},
			{"restart", name + "docker update --restart no $N", field("restart")},
			{"reservation", name + "docker update --memory-reservation 50m $N", field("memoryReservation")},
			{"connected", name + "docker network create other; docker network connect other $N", field("network")},
			{"data emptied", name + volume + "rm $(docker volume inspect -f '{{.Mountpoint}}' $V)/db", `d/web(?:#0)? volume:\S+: its data is gone`},
		},
		{{"disconnected", name + "docker network disconnect $(docker inspect -f '{{.HostConfig.NetworkMode}}' $N) $N", field("network")}},
		{{"aliases", name + "NET=$(docker inspect -f '{{.HostConfig.NetworkMode}}' $N); docker network disconnect $NET $N; docker network connect $NET $N", field("aliases")}},
		{
			{"created by hand", name + labels + "docker rm -f $N; docker create --name $N $L --entrypoint /app/multi-tool --workdir /tmp --privileged --oom-score-adj 10 --pid host --dns 9.9.9.9 -e EXTRA=1 $I serve 0.0.0.0:7001", field("command")},
			{"entrypoint", "true", field("entrypoint")}, {"work folder", "true", field("workDir")}, {"environment", "true", field("env")}, {"user", "true", field("user")},
			{"signal", "true", field("stopSignal")}, {"stop time", "true", field("stopTimeout")}, {"mounts", "true", field("mounts")}, {"ports", "true", field("ports")},
			{"read-only", "true", field("readOnly")}, {"dropped", "true", field("capDrop")}, {"added", "true", field("capAdd")}, {"options", "true", field("securityOpt")},
			{"folders in memory", "true", field("tmpfs")}, {"open files", "true", field("ulimits")}, {"log", "true", field("logs")}, {"privileged", "true", field("privileged")},
			{"score", "true", field("oomScoreAdj")}, {"processes of the machine", "true", field("pidMode")}, {"names", "true", field("dns")},
		},
		{{"another image", name + labels + "docker tag $I mine:1; docker rm -f $N; docker run -d --name $N $L --entrypoint /app/multi-tool mine:1 serve 0.0.0.0:7001", field("image")}},
	})
	m.Exec(name + labels + "docker rm -f $N; docker create --name $N --entrypoint /app/multi-tool $I serve 0.0.0.0:7001; echo $N > /root/n")
	if got := s.differences(3); !strings.Contains(got, "d/web#0 container.labels: container changed") {
		t.Errorf("a foreign container of the same name: %s", got)
	}
	if code, out := s.run("apply", "--yes", "--repair"); code != 3 || !strings.Contains(out, "not managed by defx") {
		t.Errorf("a foreign container: %d %s", code, out)
	}
	m.Exec("docker rm $(cat /root/n)")
	s.wants(0, "d/web")
	for range number("DEFX_TEST_IDLE", 10) {
		if code, out := s.run("apply", "--yes"); code != 0 || !strings.Contains(out, "No changes: 3 units match; 1 machine asked.") {
			t.Fatalf("an idle apply ends with %d: %s", code, out)
		}
	}

	// What defx stop stopped stays so, also when the engine starts again.
	id := containers(m)["d/web"]
	s.says("d/web stopped on m1", "stop", "d/web", "--reason", "moving house")
	s.wants(0, "No changes: 3 units match")
	m.StopDocker("TERM")
	m.StartDocker()
	if got := containers(m)["d/web"]; !strings.HasSuffix(got, "/exited") || got[:12] != id[:12] {
		t.Errorf("%s, before %s", got, id)
	}
	s.wants(0, "No changes: 3 units match")
	s.dock(contained, "WORD", "two")
	s.wants(0, "stays stopped", "updated")
	s.says("d/web started on m1", "start", "d/web")
	if got := m.Exec("curl -s http://127.0.0.1:7001/"); !strings.Contains(got, "two") {
		t.Errorf("after the start: %q", got)
	}

	// The machine is reinstalled.
	m.Docker("volume", "create", "keep")
	m.Exec("docker rm -f $(docker ps -aq); docker volume rm $(docker volume ls -q); systemctl stop 'defx-*.timer' || true; rm -r /var/lib/defx /etc/systemd/system/*defx* /etc/systemd/system/*.wants/*defx* /etc/shop.conf; systemctl daemon-reload")
	s.wants(1, "is gone from m1", "--allow-empty d/web")
	code, out := s.run("apply", "--yes", "--allow-empty", "@m1")
	if code != 0 || !strings.Contains(out, "3 repaired") {
		t.Errorf("%d: %s", code, out)
	}
	s.wants(0, "No changes: 3 units match; 1 machine asked.")
}
