package reference

// example is what a field may hold, in Jsonnet: as the page shows it and a test
// evaluates it. defx is the library.
type example struct {
	value string
	with  string // fields that must stand beside it, in Jsonnet
	key   string // where the example of what its values hold stands, if the field is a map
}

// examples holds one for each field, by object and field. A field without one fails a test.
var examples = map[string]example{
	"deployment.name":       {value: `'shop'`},
	"deployment.machines":   {value: `{ web1: { connect: 'ssh://deploy@web1.example.com' } }`, key: "web1"},
	"deployment.defaults":   {value: `{ place: { pool: 'prod' } }`},
	"deployment.libs":       {value: `{ shop: import 'shop/functionalities.libsonnet' }`, key: "shop"},
	"deployment.overrides":  {value: `{ 'shop/web': { place+: { replicas: 4 } } }`},
	"deployment.transforms": {value: `[{ each: function(name, f) f { service+: { labels+: { of: name } } } }]`},
	"deployment.resources":  {value: `{ backups: { type: 'aws.s3' } }`},
	"deployment.moved":      {value: `{ 'shop/site': 'shop/web' }`},

	"defaults.backend": {value: `'systemd'`},
	"defaults.place":   {value: `{ pool: 'prod' }`},

	"machine.connect":  {value: `'ssh://deploy@web1.example.com'`},
	"machine.address":  {value: `'10.0.0.11'`},
	"machine.hostKey":  {value: `'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKkF4gN0c1kAbzYwP4Vv7Q0Dd2kq3YyT5G8W8d0b2f1u'`},
	"machine.via":      {value: `'ssh://deploy@gate.example.com'`},
	"machine.pool":     {value: `'prod'`},
	"machine.roles":    {value: `['web']`},
	"machine.labels":   {value: `{ disk: 'nvme' }`},
	"machine.capacity": {value: `{ memory: '64Gi' }`},
	"machine.location": {value: `'eu-west'`},

	"functionality.service":  {value: `{ command: ['/usr/bin/web'] }`},
	"functionality.group":    {value: `{ web: { service: { command: ['/usr/bin/web'] } } }`, with: `service: null`, key: "web"},
	"functionality.external": {value: `{ host: 'db.example.com', ports: { sql: 5432 } }`, with: `service: null, requires: null`},
	"functionality.resource": {value: `{ type: 'aws.s3' }`, with: `service: null, requires: null`},
	"functionality.exports":  {value: `{ url: 'http://%s:%s/shop' % [defx.me.host, defx.me.port('http')] }`},
	"functionality.host":     {value: `{ packages: ['nginx'], sysctl: { 'net.core.somaxconn': 4096 } }`},
	"functionality.requires": {value: `{ db: 'postgres/main', queue: 'db' }`},
	"functionality.connects": {value: `['postgres/main']`},
	"functionality.after":    {value: `['db']`},
	"functionality.place":    {value: `{ roles: ['web'], replicas: 2 }`},
	"functionality.backend":  {value: `'systemd'`},
	"functionality.fqdn":     {value: `'shop.example.com'`},
	"functionality.systemd":  {value: `{ hardening: { ProtectHome: 'no' } }`},
	"functionality.docker":   {value: `{}`},
	"functionality.ec2":      {value: `{}`},

	"member.service":  {value: `{ command: ['/usr/bin/worker'] }`},
	"member.requires": {value: `['db']`, with: `service: { command: ['/usr/bin/worker'] }`},
	"member.connects": {value: `{ db: 'postgres/main' }`, with: `service: { command: ['/usr/bin/worker'] }`},
	"member.after":    {value: `['db']`, with: `service: { command: ['/usr/bin/worker'] }`},
	"member.systemd":  {value: `{ hardening: false }`, with: `service: { command: ['/usr/bin/worker'] }`},
	"member.docker":   {value: `{}`, with: `service: { command: ['/usr/bin/worker'] }`},
	"member.ec2":      {value: `{}`, with: `service: { command: ['/usr/bin/worker'] }`},

	"place.machine":  {value: `'web1'`},
	"place.every":    {value: `'machine'`},
	"place.with":     {value: `'postgres/main'`},
	"place.pool":     {value: `'prod'`},
	"place.roles":    {value: `['web']`},
	"place.labels":   {value: `{ disk: 'nvme' }`},
	"place.location": {value: `'eu-west'`},
	"place.except":   {value: `['web1']`},
	"place.spread":   {value: `'machine'`},
	"place.replicas": {value: `3`},

	"service.command":     {value: `['/usr/bin/web', '--port', defx.me.port('http')]`},
	"service.args":        {value: `['--verbose']`},
	"service.image":       {value: `'ghcr.io/acme/web@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae'`},
	"service.package":     {value: `defx.artifact('./dist/web.tar.gz')`},
	"service.env":         {value: `{ DB: 'postgres://%s:%s/shop' % [defx.dep('db').host, defx.dep('db').port('sql')] }`},
	"service.secrets":     {value: `{ DB_PASSWORD: defx.secret('shop/db-password') }`},
	"service.files":       {value: `{ '/etc/shop.ini': std.manifestIni({ main: {}, sections: { log: { level: 'info' } } }) }`, key: "/etc/shop.ini"},
	"service.hostFiles":   {value: `{ '/etc/shop.json': { json: { port: defx.me.port('http') } } }`, key: "/etc/shop.json"},
	"service.dirs":        {value: `{ state: 'shop' }`},
	"service.ports":       {value: `{ http: 8080 }`, key: "http"},
	"service.user":        {value: `'www-data'`},
	"service.update":      {value: `{ atOnce: 1, soak: '10s' }`},
	"service.ready":       {value: `{ http: '/health', port: 'http' }`},
	"service.initializer": {value: `['/usr/bin/web', 'create-database']`},
	"service.migrate":     {value: `['/usr/bin/web', 'migrate']`},
	"service.schedule":    {value: `{ cron: '30 3 * * *', timezone: 'Europe/Berlin' }`},
	"service.sockets":     {value: `{ http: { port: 'http' } }`, key: "http"},
	"service.limits":      {value: `{ memory: '512Mi', cpu: '0.5' }`},
	"service.restart":     {value: `'always'`},
	"service.reload":      {value: `{ signal: 'HUP' }`},
	"service.stop":        {value: `{ signal: 'QUIT', timeout: '1m' }`},
	"service.protect":     {value: `true`},
	"service.links":       {value: `[{ rel: 'runbook', href: 'https://wiki.example.com/shop' }]`},
	"service.labels":      {value: `{ team: 'shop' }`},

	"file.text":  {value: `'listen = %s' % defx.me.port('http')`},
	"file.json":  {value: `{ port: defx.me.port('http'), log: { level: 'info' } }`},
	"file.yaml":  {value: `{ targets: defx.dep('db').each(function(r) r.host) }`},
	"file.toml":  {value: `{ server: { port: 8080 } }`},
	"file.ini":   {value: `{ main: { level: 'info' } }`},
	"file.env":   {value: `{ LOG: 'info' }`},
	"file.from":  {value: `defx.artifact('./shop.conf')`},
	"file.mode":  {value: `'0555'`, with: `text: 'x'`},
	"file.owner": {value: `'root'`, with: `text: 'x'`},

	"external.host":   {value: `'db.example.com'`},
	"external.ports":  {value: `{ sql: 5432 }`, with: `host: 'db.example.com'`, key: "sql"},
	"external.labels": {value: `{ version: '16' }`, with: `host: 'db.example.com'`},

	"host.packages": {value: `['nginx', 'jq=1.7.1']`},
	"host.sysctl":   {value: `{ 'vm.swappiness': 10 }`},
	"host.modules":  {value: `['br_netfilter']`},
	"host.users":    {value: `{ deploy: { home: '/srv/deploy' } }`, key: "deploy"},

	"user.uid":    {value: `900`},
	"user.groups": {value: `['adm']`},
	"user.home":   {value: `'/srv/deploy'`},
	"user.shell":  {value: `'/bin/sh'`},

	"dirs.state":   {value: `'shop'`},
	"dirs.cache":   {value: `'shop'`},
	"dirs.logs":    {value: `'shop'`},
	"dirs.runtime": {value: `'shop'`},

	"port.port":     {value: `8301`},
	"port.protocol": {value: `'udp'`, with: `port: 8301`},

	"update.atOnce":  {value: `2`},
	"update.soak":    {value: `'30s'`},
	"update.healthy": {value: `['/usr/bin/web', 'cluster-health']`},
	"ready.http":     {value: `'/health'`},
	"ready.tcp":      {value: `true`},
	"ready.exec":     {value: `['/usr/bin/web', 'ping']`},
	"ready.notify":   {value: `true`},
	"ready.port":     {value: `'http'`, with: `tcp: true`},
	"ready.interval": {value: `'500ms'`, with: `tcp: true`},
	"ready.timeout":  {value: `'2m'`, with: `tcp: true`},
	"ready.retries":  {value: `3`, with: `tcp: true`},
	"ready.count":    {value: `2`, with: `tcp: true`},

	"schedule.cron":     {value: `'30 3 * * 1-5'`},
	"schedule.every":    {value: `'15m'`},
	"schedule.timezone": {value: `'Asia/Singapore'`, with: `every: '1h'`},
	"schedule.jitter":   {value: `'30s'`, with: `every: '1h'`},
	"schedule.missed":   {value: `'run'`, with: `every: '1h'`},

	"socket.port": {value: `'http'`},
	"socket.path": {value: `'/run/shop/web.sock'`},
	"socket.mode": {value: `'0660'`, with: `path: '/run/shop/web.sock'`},

	"limits.cpu":       {value: `'0.5'`},
	"limits.memory":    {value: `'512Mi'`},
	"limits.tasks":     {value: `200`},
	"limits.openFiles": {value: `65536`},

	"reload.signal":  {value: `'HUP'`},
	"reload.command": {value: `['/usr/bin/web', 'reload']`},

	"stop.signal":  {value: `'QUIT'`},
	"stop.command": {value: `['/usr/bin/web', 'drain']`},
	"stop.timeout": {value: `'90s'`},

	"link.rel":  {value: `'runbook'`, with: `href: 'https://wiki.example.com/shop'`},
	"link.href": {value: `'https://wiki.example.com/shop'`, with: `rel: 'runbook'`},
}
