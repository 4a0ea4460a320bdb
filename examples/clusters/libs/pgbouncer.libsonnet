// pgbouncer pools connections, on the same machine as the primary.
// https://www.pgbouncer.org/config.html
local defx = import 'defx/v1.libsonnet';
{
  requires: { pg: 'primary' },
  place: { with: 'primary' },
  exports: { url: 'postgres://%s:%s' % [defx.me.host, defx.me.port('sql')] },
  host: { packages: ['pgbouncer'] },
  service: {
    command: ['/usr/sbin/pgbouncer', '/etc/pgbouncer/defx.ini'],
    user: 'postgres',
    files: {
      '/etc/pgbouncer/defx.ini': { ini: {
        databases: { '*': 'host=%s port=%s' % [defx.dep('pg').here.dir('runtime'), defx.dep('pg').port('sql')] },
        pgbouncer: {
          listen_addr: '*',
          listen_port: defx.me.port('sql'),
          auth_type: 'scram-sha-256',
          auth_user: 'postgres',  // connects by the socket, so it needs no password
          auth_query: 'SELECT usename, passwd FROM pg_shadow WHERE usename = $1',
          pool_mode: 'transaction',
          max_client_conn: 500,
        },
      } },
    },
    ports: { sql: 6432 },
    ready: { tcp: true },
    reload: { signal: 'HUP' },
    limits: { openFiles: 4096 },
  },
}
