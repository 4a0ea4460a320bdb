package project_test

// oracleText is a deployment that uses every field there is. Each @name@ is
// one field; oracleRows says what it may be and which units change with it.
const oracleText = `
local defx = import 'defx/v1.libsonnet';
{
  name: 'oracle',
  machines: {
    m1: { connect: 'dir:@m1.connect@', address: '@m1.address@', hostKey: '@m1.hostKey@', via: '@m1.via@', pool: 'p', roles: ['r', '@m1.role@'],
          labels: { l: 'x', extra: '@m1.label@' }, location: 'here', capacity: { memory: '@m1.capacity@' } },
    m2: { connect: 'dir:m2', address: '10.0.0.2', pool: 'q', roles: ['r'], labels: { l: 'x' }, location: 'there' },
  },
  defaults: { backend: 'systemd', place: { pool: '@defaults.pool@' } },
  libs: {
    a: {
      full: {
        requires: @full.requires@,
        connects: @full.connects@,
        after: @full.after@,
        place: { machine: '@full.machine@' },
        fqdn: '@full.fqdn@',
        systemd: { service: { Nice: '@full.nice@' } },
        docker: { anything: '@full.docker@' },
        ec2: { anything: '@full.ec2@' },
        service: {
          command: ['@full.program@', '@full.command@'],
          args: ['@full.args@'],
          package: defx.artifact('@full.package@'),
          env: { A: '@full.env@', LABEL: defx.me.label('read'), STATE: defx.me.dir('state') },
          secrets: { S: defx.secret('@full.secret@') },
          files: { '/etc/full.conf': { text: '@full.file@', mode: '@full.fileMode@', owner: '@full.fileOwner@' } },
          dirs: { state: '@full.state@', cache: '@full.cache@', logs: '@full.logs@', runtime: '@full.runtime@' },
          ports: { http: @full.port@, other: { port: @full.other@, protocol: '@full.protocol@' } },
          user: '@full.user@',
          ready: { http: '@full.readyHTTP@', port: 'http', interval: '@full.interval@', timeout: '@full.timeout@', retries: @full.retries@, count: @full.count@ },
          initializer: ['/bin/init', '@full.initializer@'],
          migrate: ['/bin/migrate', '@full.migrate@'],
          limits: { cpu: '@full.cpu@', memory: '@full.memory@', tasks: @full.tasks@, openFiles: @full.openFiles@ },
          restart: '@full.restart@',
          stop: { signal: '@full.stopSignal@', timeout: '@full.stopTimeout@', command: ['/bin/stop', '@full.stopCommand@'] },
          protect: @full.protect@,
          links: [{ rel: '@full.rel@', href: '@full.href@' }],
          labels: { read: '@full.labelRead@', unread: '@full.labelUnread@' },
        },
      },
      near: { place: { machine: 'm1' }, requires: { f: 'full' }, service: { command: ['/bin/near', defx.dep('f').host, defx.dep('f').port('http')] } },
      far: { place: { machine: 'm2' }, connects: { f: 'full' }, service: { command: ['/bin/far', defx.dep('f').host, defx.dep('f').machine] } },
      reload: {
        place: { machine: 'm1' },
        service: { command: ['/bin/reload'], reload: { signal: '@reload.signal@' }, files: { '/etc/reload.conf': '@reload.file@' }, user: 'root' },
      },
      reloader: {
        place: { machine: 'm1' },
        service: { command: ['/bin/reloader'], reload: { command: ['/bin/kick', '@reload.command@'] }, files: { '/etc/reload.conf': 'x' }, user: 'root' },
      },
      timer: { place: { machine: 'm1' }, service: { command: ['/bin/timer'], schedule: { cron: '@timer.cron@', timezone: '@timer.timezone@', jitter: '@timer.jitter@', missed: '@timer.missed@' } } },
      every: { place: { machine: 'm1' }, service: { command: ['/bin/every'], schedule: { every: '@every.every@' } } },
      socket: {
        place: { machine: 'm1' },
        service: { command: ['/bin/socket'], ports: { p: @socket.port@ }, sockets: { tcp: { port: 'p' }, unix: { path: '@socket.path@', mode: '@socket.mode@' } } },
      },
      notify: { place: { machine: 'm1' }, service: { command: ['/bin/notify'], ready: { notify: true, timeout: '@notify.timeout@' } } },
      exec: { place: { machine: 'm1' }, service: { command: ['/bin/exec'], ready: { exec: ['/bin/check', '@exec.check@'] } } },
      tcp: { place: { machine: 'm1' }, service: { command: ['/bin/tcp'], ports: { p: 4000, q: 4001 }, ready: { tcp: true, port: '@tcp.port@' } } },
      rep: { place: { pool: 'p', roles: @rep.roles@, labels: @rep.labels@, location: '@rep.location@', except: @rep.except@, replicas: @rep.replicas@ }, service: { command: ['/bin/rep', '@rep.command@'] } },
      g: {
        place: { machine: 'm1' },
        requires: @g.requires@,
        group: {
          x: { service: { command: ['/bin/x', '@g.x@'] }, systemd: { service: { Nice: '@g.x.nice@' } }, docker: { a: '@g.x.docker@' }, ec2: { a: '@g.x.ec2@' } },
          y: { requires: @g.y.requires@, connects: @g.y.connects@, after: @g.y.after@, service: { command: ['/bin/y', '@g.y@'] } },
        },
      },
      base: { place: { machine: 'm1' }, service: { command: ['/bin/base', '@base.command@'], ports: { b: @base.port@ } } },
      base2: { place: { machine: 'm1' }, service: { command: ['/bin/base2'] } },
    },
  },
}
`

type oracleRow struct {
	field  string   // the schema's name for what is edited
	name   string   // of the place in the text
	values []string // the first one is where it begins
	units  []string // that change, and no other
}

func one(field, name string, values []string, units ...string) oracleRow {
	return oracleRow{field, name, values, units}
}

func v(values ...string) []string { return values }

// oracleRows is written by hand and knows nothing of the program.
var oracleRows = []oracleRow{
	one("Machine.connect", "m1.connect", v("m1", "m1-elsewhere")),
	one("Machine.address", "m1.address", v("10.0.0.1", "10.0.0.9"), "a/far"),
	one("Machine.hostKey", "m1.hostKey", v("ssh-ed25519 AAAA", "ssh-ed25519 BBBB")),
	one("Machine.via", "m1.via", v("hop1", "hop2")),
	one("Machine.roles", "m1.role", v("r2", "r3")),
	one("Machine.labels", "m1.label", v("x", "y")),
	one("Machine.capacity", "m1.capacity", v("1Gi", "2Gi")),
	one("Defaults.place", "defaults.pool", v("p", "q")),
	one("Functionality.requires", "full.requires", v("['base']", "['base', 'base2']"), "a/full"),
	one("Functionality.connects", "full.connects", v("[]", "['near']")),
	one("Functionality.after", "full.after", v("[]", "['exec']"), "a/full"),
	one("Functionality.fqdn", "full.fqdn", v("a.example.com", "b.example.com")),
	one("Functionality.systemd", "full.nice", v("1", "2"), "a/full"),
	one("Functionality.docker", "full.docker", v("a", "b")),
	one("Functionality.ec2", "full.ec2", v("a", "b")),
	one("Functionality.group", "g.x", v("a", "b"), "a/g/x"),
	one("Functionality.place", "rep.command", v("a", "b"), "a/rep#*"),
	one("Spec.command", "full.command", v("one", "two", "three words", "$HOME %h"), "a/full"),
	one("Spec.command", "full.program", v("/bin/full", "/bin/full2", "run"), "a/full"),
	one("Spec.args", "full.args", v("x", "y"), "a/full"),
	one("Spec.package", "full.package", v("pkg1", "pkg2"), "a/full"),
	one("Spec.env", "full.env", v("1", "2", "with space", "per%cent"), "a/full"),
	one("Spec.secrets", "full.secret", v("s1", "s2"), "a/full"),
	one("Spec.files", "full.file", v("text", "other"), "a/full"),
	one("File.text", "full.file", v("text", "other"), "a/full"),
	one("File.mode", "full.fileMode", v("0444", "0555"), "a/full"),
	one("Dirs.state", "full.state", v("full", "full2"), "a/full"),
	one("Dirs.cache", "full.cache", v("c1", "c2"), "a/full"),
	one("Dirs.logs", "full.logs", v("l1", "l2"), "a/full"),
	one("Dirs.runtime", "full.runtime", v("r1", "r2"), "a/full"),
	one("Spec.dirs", "full.cache", v("c1", "c2"), "a/full"),
	one("Spec.ports", "full.port", v("8000", "8001"), "a/full", "a/near"),
	one("Port.port", "full.other", v("9000", "9001"), "a/full"),
	one("Port.protocol", "full.protocol", v("tcp", "udp"), "a/full"),
	one("Spec.user", "full.user", v("u1", "u2"), "a/full"),
	one("Spec.ready", "full.readyHTTP", v("/", "/health"), "a/full"),
	one("Ready.http", "full.readyHTTP", v("/", "/health"), "a/full"),
	one("Ready.interval", "full.interval", v("1s", "2s"), "a/full"),
	one("Ready.timeout", "full.timeout", v("30s", "40s"), "a/full"),
	one("Ready.retries", "full.retries", v("1", "2"), "a/full"),
	one("Ready.count", "full.count", v("1", "2"), "a/full"),
	one("Ready.notify", "notify.timeout", v("30s", "31s"), "a/notify"),
	one("Ready.exec", "exec.check", v("a", "b"), "a/exec"),
	one("Ready.port", "tcp.port", v("p", "q"), "a/tcp"),
	one("Ready.tcp", "tcp.port", v("p", "q"), "a/tcp"),
	one("Spec.initializer", "full.initializer", v("a", "b"), "a/full"),
	one("Spec.migrate", "full.migrate", v("a", "b"), "a/full"),
	one("Limits.cpu", "full.cpu", v("1", "0.5"), "a/full"),
	one("Limits.memory", "full.memory", v("1Gi", "2Gi"), "a/full"),
	one("Limits.tasks", "full.tasks", v("10", "20"), "a/full"),
	one("Limits.openFiles", "full.openFiles", v("100", "200"), "a/full"),
	one("Spec.limits", "full.tasks", v("10", "20"), "a/full"),
	one("Spec.restart", "full.restart", v("always", "no", "on-failure"), "a/full"),
	one("Stop.signal", "full.stopSignal", v("TERM", "INT"), "a/full"),
	one("Stop.timeout", "full.stopTimeout", v("10s", "20s"), "a/full"),
	one("Stop.command", "full.stopCommand", v("a", "b"), "a/full"),
	one("Spec.stop", "full.stopCommand", v("a", "b"), "a/full"),
	one("Spec.protect", "full.protect", v("true", "false"), "a/full"), // the process does not notice, the state must
	one("Link.rel", "full.rel", v("docs", "code")),
	one("Link.href", "full.href", v("https://a", "https://b")),
	one("Spec.links", "full.href", v("https://a", "https://b")),
	one("Spec.labels", "full.labelRead", v("a", "b"), "a/full"),
	one("Spec.labels", "full.labelUnread", v("a", "b")),
	one("Reload.signal", "reload.signal", v("HUP", "USR1"), "a/reload"),
	one("Reload.command", "reload.command", v("a", "b"), "a/reloader"),
	one("Spec.reload", "reload.file", v("a", "b"), "a/reload"),
	one("Spec.schedule", "timer.cron", v("0 3 * * *", "*/10 * * * *"), "a/timer"),
	one("Schedule.cron", "timer.cron", v("0 3 * * *", "*/10 * * * *"), "a/timer"),
	one("Schedule.timezone", "timer.timezone", v("Europe/Berlin", "Asia/Singapore"), "a/timer"),
	one("Schedule.jitter", "timer.jitter", v("5s", "10s"), "a/timer"),
	one("Schedule.missed", "timer.missed", v("run", "skip"), "a/timer"),
	one("Schedule.every", "every.every", v("1m", "90s"), "a/every"),
	one("Spec.sockets", "socket.path", v("/run/a.sock", "/run/b.sock"), "a/socket"),
	one("Socket.path", "socket.path", v("/run/a.sock", "/run/b.sock"), "a/socket"),
	one("Socket.mode", "socket.mode", v("0600", "0660"), "a/socket"),
	one("Socket.port", "socket.port", v("7000", "7001"), "a/socket"),
	one("Place.roles", "rep.roles", v("['r']", "[]")),
	one("Place.labels", "rep.labels", v("{ l: 'x' }", "{}")),
	one("Place.except", "rep.except", v("[]", "['m3']")),
	one("Place.replicas", "rep.replicas", v("2", "3"), "a/rep#2"),
	one("Functionality.requires", "g.requires", v("[]", "['base']"), "a/g/x", "a/g/y"),
	one("Member.systemd", "g.x.nice", v("1", "2"), "a/g/x"),
	one("Member.docker", "g.x.docker", v("1", "2")),
	one("Member.ec2", "g.x.ec2", v("1", "2")),
	one("Member.requires", "g.y.requires", v("[]", "['x']"), "a/g/y"),
	one("Member.connects", "g.y.connects", v("[]", "['near']")),
	one("Member.after", "g.y.after", v("[]", "['base2']"), "a/g/y"),
	one("Member.service", "g.y", v("a", "b"), "a/g/y"),
	one("Functionality.service", "base.command", v("a", "b"), "a/base"),
	one("Spec.ports", "base.port", v("6000", "6001"), "a/base"),
}

// oracleFixed are places in the text that other fields explain, with the value that they keep.
var oracleFixed = map[string]string{
	"full.machine":   "m1",
	"rep.location":   "",
	"full.fileOwner": "root",
}

// oracleLeft are fields that no edit can reach here, and why.
var oracleLeft = map[string]string{
	"Entry.name": "another name is another deployment", "Entry.machines": "its fields are edited", "Entry.defaults": "its fields are edited",
	"Defaults.backend": "this build has one backend", "Functionality.backend": "this build has one backend",
	"Machine.pool": "shown by moves in its own test", "Machine.location": "shown by moves in its own test",
	"Place.machine": "shown by moves in its own test", "Place.pool": "shown by moves in its own test", "Place.location": "shown by moves in its own test",
	"Place.spread": "shown by moves in its own test", "Spec.image": "refused by systemd", "File.owner": "refused but for root by systemd",
}
