// Generated from dependencies.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  db: {
    backend: 'docker',
    docker: {
      aliases: ['db'],
      capabilities: ['default'],
      config: {
        Healthcheck: {
          Interval: 1000000000,
          Test: ['CMD', '/bin/multi-tool', 'say', 'up'],
        },
      },
      init: false,
    },
    service: {
      image: 'IMAGE',
      restart: 'no',
    },
  },
  late: {
    backend: 'docker',
    docker: {
      aliases: ['late'],
      capabilities: ['default'],
      init: false,
    },
    requires: ['db', 'web'],
    service: {
      image: 'IMAGE',
      restart: 'no',
    },
  },
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
      init: false,
    },
    requires: ['db'],
    service: {
      image: 'IMAGE',
      restart: 'no',
    },
  },
}
