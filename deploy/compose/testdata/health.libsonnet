// Generated from health.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  off: {
    backend: 'docker',
    docker: {
      aliases: ['off'],
      capabilities: ['default'],
      config: {
        Healthcheck: {
          Test: ['NONE'],
        },
      },
      init: false,
    },
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
      config: {
        Healthcheck: {
          Interval: 1000000000,
          Retries: 3,
          StartPeriod: 2000000000,
          Test: ['CMD', '/bin/multi-tool', 'say', 'well'],
          Timeout: 5000000000,
        },
      },
      init: false,
    },
    service: {
      image: 'IMAGE',
      restart: 'no',
    },
  },
}
