// nginx in front of a small Go server that counts in redis. nginx and redis are
// Debian's packages, installed on the machine; the server is an artifact.
//
// With --tla-str backend=docker the three run in containers: nginx and redis are
// artifacts too, which collect.sh makes from Debian's packages.
local defx = import 'defx/v1.libsonnet';

// A container has its own address, so services in it listen on all addresses.
local contained = {
  'data/redis': {
    docker: { at: '/' },
    service+: {
      package: defx.artifact('./build/redis'),
      user: '1000:1000',
      files+: { '/etc/webstack/redis.conf': 'bind 0.0.0.0\nprotected-mode no\nport %s\ndir %s\nsave 60 1\n' % [defx.me.port('redis'), defx.me.dir('state')] },
    },
  },
  'app/server': { service+: { command: ['server', '-listen', '0.0.0.0:' + defx.me.port('http')] } },
  'front/nginx': {
    docker: { at: '/' },
    service+: { package: defx.artifact('./build/nginx'), user: '1000:1000' },
  },
};

function(env='dev', backend='systemd') {
  name: 'webstack',
  environments: { dev: {}, docker: {} },
  libs: {
    front: import 'libs/front.libsonnet',
    app: import 'libs/app.libsonnet',
    data: import 'libs/data.libsonnet',
  },
  machines: {
    box: { connect: if backend == 'docker' then 'local' else 'dir:./box' },
  },
  defaults: { backend: backend },
  overrides: if backend == 'docker' then contained else {},
}
