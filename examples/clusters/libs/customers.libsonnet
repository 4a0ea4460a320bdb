// One application for each customer, each with its own port and folder.
local defx = import 'defx/v1.libsonnet';
function(customers, firstPort=20000)
  local one(name, port) = {
    place: { roles: ['app'] },
    connects: { consul: 'consul/agent' },
    requires: { db: 'databases/billing' },
    fqdn: name + '.shop.example.com',
    service: {
      package: defx.artifact('../portal'),
      command: ['bin/portal', '--customer', name, '--port', defx.me.port('http')],
      env: {
        CONSUL: defx.dep('consul').here.host + ':' + defx.dep('consul').here.port('metrics'),
        DATABASE_URL: defx.dep('db').output('url'),
        UPLOADS: defx.me.dir('state'),
      },
      dirs: { state: 'portal-' + name },
      ports: { http: port },
      ready: { tcp: true },
      limits: { memory: '256Mi', cpu: '0.5' },
      labels: { customer: name, tier: 'portal' },
    },
  };
  { [customers[i]]: one(customers[i], firstPort + i) for i in std.range(0, std.length(customers) - 1) }
