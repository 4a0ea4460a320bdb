// Generated from ports.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  'local': {
    backend: 'docker',
    docker: {
      aliases: ['local'],
      capabilities: ['default'],
      init: false,
      ports: {
        p80: 80,
      },
      publish: '127.0.0.1',
    },
    service: {
      image: 'IMAGE',
      ports: {
        p80: 18082,
      },
      restart: 'no',
    },
  },
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
      init: false,
      ports: {
        p80: 80,
        'p81-udp': 81,
      },
    },
    service: {
      image: 'IMAGE',
      ports: {
        p80: 18080,
        'p81-udp': {
          port: 18081,
          protocol: 'udp',
        },
      },
      restart: 'no',
    },
  },
}
