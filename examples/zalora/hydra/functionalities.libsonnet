local defx = import 'defx/v1.libsonnet';

local database = 'dbi:Pg:dbname=hydra;host=%s;port=%s;user=hydra' % [defx.dep('db').host, defx.dep('db').port('sql')];

local hydra(command, more={}) = {
  command: ['/usr/bin/' + command[0]] + command[1:],
  user: 'hydra',
  env: { HYDRA_DBI: database, HYDRA_DATA: '/var/lib/hydra' },
  secrets: { HYDRA_DB_PASSWORD: defx.secret('hydra/db-password') },
} + more;

{
  'hydra-db': {
    place: { roles: ['db'] },
    service: {
      command: ['/usr/lib/postgresql/15/bin/postgres', '-D', defx.me.dir('state'), '-p', defx.me.port('sql'), '-c', 'config_file=/etc/hydra-db/postgresql.conf'],
      user: 'postgres',
      dirs: { state: 'hydra-db' },
      ports: { sql: 5432 },
      files: { '/etc/hydra-db/postgresql.conf': "listen_addresses = '*'\nmax_connections = 200\n" },
      reload: { signal: 'HUP' },
      initializer: ['/usr/lib/postgresql/15/bin/initdb', '-D', defx.me.dir('state')],
      ready: { tcp: true },
      stop: { signal: 'INT', timeout: '60s' },
    },
  },
  'hydra-web': {
    requires: { db: 'hydra-db' },
    connects: ['git/gitolite'],
    place: { roles: ['web'], replicas: 2, spread: 'machine' },
    fqdn: 'hydra.zalora.example',
    service: hydra(['hydra-server', '-p', defx.me.port('http')], {
      ports: { http: 3000 },
      ready: { http: '/', timeout: '60s' },
      migrate: ['/usr/bin/hydra-init'],
    }),
  },
  // One placement; each member restarts alone.
  build: {
    requires: { db: 'hydra-db' },
    connects: ['git/gitolite'],
    place: { roles: ['build'], location: 'frankfurt' },
  } + defx.group({
    evaluator: { service: hydra(['hydra-evaluator']) },
    'queue-runner': { after: ['evaluator'], service: hydra(['hydra-queue-runner', '-v'], { limits: { tasks: 500 } }) },
  }),
}
