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
      files: {
        '/etc/hydra-db/postgresql.conf': |||
          listen_addresses = '*'
          unix_socket_directories = ''
          max_connections = 200
          hba_file = '/etc/hydra-db/pg_hba.conf'
        |||,
        '/etc/hydra-db/pg_hba.conf': 'host hydra hydra samenet scram-sha-256\n',
      },
      reload: { signal: 'HUP' },
      // An interrupted run may have done any of these steps.
      initializer: [
        '/bin/sh',
        '-ec',
        |||
          PATH=/usr/lib/postgresql/15/bin:$PATH
          [ -e "$1/PG_VERSION" ] || initdb -D "$1"
          printf 'create role hydra login;\ncreate database hydra owner hydra;\n' | postgres --single -D "$1" postgres
        |||,
        'initializer',
        defx.me.dir('state'),
      ],
      ready: { tcp: true },
      stop: { signal: 'INT', timeout: '60s' },
    },
    systemd: { service: { StateDirectoryMode: '0700' } },  // required by postgres
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
  // The members are placed together and restart separately.
  build: {
    requires: { db: 'hydra-db' },
    after: ['hydra-web'],  // its migration creates the tables
    connects: ['git/gitolite'],
    place: { roles: ['build'], location: 'frankfurt' },
  } + defx.group({
    evaluator: { service: hydra(['hydra-evaluator']) },
    'queue-runner': { after: ['evaluator'], service: hydra(['hydra-queue-runner', '-v'], { limits: { tasks: 500 } }) },
  }),
}
