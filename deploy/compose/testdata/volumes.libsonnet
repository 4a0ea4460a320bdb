// Made of volumes.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
      host: {
        Tmpfs: {
          '/run': 'size=65536',
          '/scratch': 'size=1048576,mode=1777',
        },
      },
      init: false,
      volumes: [
        {
          name: 'data',
          target: '/data',
        },
        {
          name: 'data',
          readOnly: true,
          target: '/again',
        },
      ],
    },
    service: {
      files: {
        '/etc/machine': {
          from: defx.artifact('../../../../../etc/hostname'),
        },
      },
      image: 'IMAGE',
      restart: 'no',
    },
  },
}
