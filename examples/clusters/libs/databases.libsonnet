// Ten databases with ten owners in one PostgreSQL server. psql, on the same machine,
// creates each one, and creates it again if it is missing.
local defx = import 'defx/v1.libsonnet';
local owners = ['shop', 'billing', 'search', 'stock', 'mail', 'wiki', 'metrics', 'support', 'reports', 'audit'];
{
  [owner]: {
    requires: { pg: 'postgres/primary' },
    connects: { pool: 'postgres/pgbouncer' },
    place: { with: 'postgres/primary' },
    exports: { url: '%s/%s?user=%s' % [defx.dep('pool').output('url'), owner, owner] },
    service: {
      command: ['/usr/bin/psql', '-h', defx.dep('pg').here.dir('runtime'), '-p', defx.dep('pg').port('sql'), '-v', 'ON_ERROR_STOP=1', '-f', '/etc/database.sql', 'postgres'],
      user: 'postgres',
      files: {
        // psql reads the password from its file, so it is in no argument and no log.
        '/etc/database.sql': |||
          \set owner %(owner)s
          \set password `cat "$PASSWORD_FILE"`
          SELECT format('CREATE ROLE %%I LOGIN', :'owner') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'owner') \gexec
          ALTER ROLE :"owner" PASSWORD :'password';
          SELECT format('CREATE DATABASE %%I OWNER %%I', :'owner', :'owner') WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'owner') \gexec
        ||| % { owner: owner },
      },
      secrets: { PASSWORD: defx.secret('databases/' + owner) },
      schedule: { every: '15m', missed: 'run' },
      labels: { owner: owner },
    },
  }
  for owner in owners
}
