// Twelve systems on one, two or three machines. Environments differ only in size.
local sizes = {
  dev: { machines: 1, quorum: 1, standbys: 0, apps: 1, customers: 2 },
  staging: { machines: 2, quorum: 1, standbys: 1, apps: 2, customers: 5 },
  prod: { machines: 3, quorum: 3, standbys: 2, apps: 2, customers: 20 },
};
local trees = [
  'alder',
  'apple',
  'ash',
  'aspen',
  'beech',
  'birch',
  'cedar',
  'cherry',
  'elder',
  'elm',
  'fir',
  'hazel',
  'larch',
  'lime',
  'maple',
  'oak',
  'pear',
  'pine',
  'rowan',
  'yew',
];
function(env='prod') {
  local size = sizes[env],
  local members(names) = { [name]: {} for name in names[:size.quorum] },
  name: 'clusters',
  environments: { dev: {}, staging: { from: 'dev' }, prod: { from: 'staging' } },
  libs: {
    etcd: import 'libs/etcd.libsonnet',
    postgres: import 'libs/postgres.libsonnet',
    consul: import 'libs/consul.libsonnet',
    kafka: import 'libs/kafka.libsonnet',
    rails: import 'libs/rails.libsonnet',
    prometheus: import 'libs/prometheus.libsonnet',
    certificates: import 'libs/certificates.libsonnet',
    databases: import 'libs/databases.libsonnet',
    customers: (import 'libs/customers.libsonnet')(trees[:size.customers]),
    managed: import 'libs/managed.libsonnet',
    nginx: import 'libs/nginx.libsonnet',
  },
  overrides: {
    'etcd/etcd': { place+: { replicas: members(['a', 'b', 'c']) } },
    'consul/server': { place+: { replicas: members(['alpha', 'beta', 'gamma']) } },
    'kafka/kafka': { place+: { replicas: size.quorum } },
    'postgres/standby': { place+: { replicas: size.standbys } },
    'rails/app': { place+: { replicas: size.apps } },
  },
  machines: {
    ['m%d' % i]: {
      connect: 'dir:./machines/m%d' % i,
      address: '10.0.0.%d' % i,
      pool: env,
      roles: ['app'] + (if i <= size.quorum then ['quorum'] else []) + (if i == 1 then ['primary'] else ['standby']),
    }
    for i in std.range(1, size.machines)
  },
  defaults: { place: { pool: env } },
}
