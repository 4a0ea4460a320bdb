// Generated from deploy.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
      host: {
        MemoryReservation: 16777216,
      },
      init: false,
    },
    service: {
      image: 'IMAGE',
      limits: {
        cpu: '0.25',
        memory: '48Mi',
        tasks: 40,
      },
      restart: 'always',
    },
  },
}
