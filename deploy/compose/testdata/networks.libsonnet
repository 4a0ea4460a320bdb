// Generated from networks.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  host: {
    backend: 'docker',
    docker: {
      aliases: ['host'],
      capabilities: ['default'],
      init: false,
      network: 'host',
    },
    service: {
      args: ['serve', '0.0.0.0:18083'],
      image: 'IMAGE',
      restart: 'no',
    },
  },
  web: {
    backend: 'docker',
    docker: {
      aliases: ['front', 'web', 'www'],
      capabilities: ['default'],
      init: false,
    },
    service: {
      image: 'IMAGE',
      restart: 'no',
    },
  },
}
