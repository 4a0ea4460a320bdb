local defx = import 'defx/v1.libsonnet';
{
  // Has data (dirs.state), so removing these lines does not delete it.
  db: {
    service: {
      command: ['/usr/lib/postgresql/15/bin/postgres', '-D', defx.me.dir('state'), '-p', defx.me.port('sql')],
      user: 'postgres',
      dirs: { state: 'db' },
      ports: { sql: 5432 },
      ready: { tcp: true },
    },
  },
  cache: {
    service: {
      command: ['/usr/bin/redis-server', '--port', defx.me.port('redis'), '--save', ''],
      ports: { redis: 6379 },
      ready: { tcp: true },
      limits: { memory: '256Mi' },
    },
  },
}
