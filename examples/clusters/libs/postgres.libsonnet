// PostgreSQL: one primary, standbys that stream from it, and pgbouncer.
// https://www.postgresql.org/docs/16/warm-standby.html#STREAMING-REPLICATION
local defx = import 'defx/v1.libsonnet';
local bin = '/usr/lib/postgresql/16/bin/';
local server = {
  command: [bin + 'postgres', '-D', defx.me.dir('state') + '/data', '-c', 'config_file=/etc/postgresql/defx.conf'],
  user: 'postgres',
  files: {
    '/etc/postgresql/defx.conf': |||
      listen_addresses = '*'
      port = %s
      hba_file = '/etc/postgresql/defx.hba'
      unix_socket_directories = '%s'
      wal_level = replica
      hot_standby = on
    ||| % [defx.me.port('sql'), defx.me.dir('runtime')],
    '/etc/postgresql/defx.hba': |||
      local all postgres peer
      local all all scram-sha-256
      host all all 10.0.0.0/8 scram-sha-256
    |||,
  },
  dirs: { state: 'postgres', runtime: 'postgres' },
  ports: { sql: 5432 },
  ready: { exec: [bin + 'pg_isready', '-h', '127.0.0.1', '-p', defx.me.port('sql')] },
  reload: { signal: 'HUP' },
  stop: { signal: 'INT', timeout: '2m' },
};
local once(command) = ['/bin/sh', '-c', '[ -s "$0/PG_VERSION" ] || exec "$@"', defx.me.dir('state') + '/data'] + command;
{
  primary: {
    place: { roles: ['primary'] },
    connects: ['standby'],
    host: { packages: ['postgresql-16'], sysctl: { 'vm.overcommit_memory': 2 } },
    service: server {
      initializer: once([bin + 'initdb', '-D', defx.me.dir('state') + '/data']),
      files+: { '/etc/postgresql/defx.hba'+: defx.dep('standby').join('', function(r) 'host replication replicator %s/32 scram-sha-256\n' % r.host) },
    },
  },
  standby: {
    requires: ['primary'],
    place: { roles: ['standby'], replicas: 2, spread: 'machine' },
    host: { packages: ['postgresql-16'], sysctl: { 'vm.overcommit_memory': 2 } },
    service: server {
      local pg = defx.dep('primary'),
      // libpq reads the path of its password file from a different variable.
      local passfile = ['/bin/sh', '-c', 'PGPASSFILE=$PGPASS_FILE exec "$0" "$@"'],
      command: passfile + super.command,
      initializer: passfile + once([bin + 'pg_basebackup', '-R', '-D', defx.me.dir('state') + '/data', '-h', pg.host, '-p', pg.port('sql'), '-U', 'replicator']),
      secrets: { PGPASS: defx.secret('postgres/replicator-pgpass') },
    },
  },
  pgbouncer: (import 'pgbouncer.libsonnet'),
}
