// Generated from stop.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
    },
    service: {
      image: 'IMAGE',
      restart: 'no',
      stop: {
        signal: 'SIGINT',
        timeout: '3s',
      },
    },
  },
}
