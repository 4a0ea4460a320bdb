// Generated from volumes.yaml by defx import compose.
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
        {
          path: '/etc/hostname',
          readOnly: true,
          target: '/etc/machine',
        },
      ],
    },
    service: {
      files: {
        '/etc/mine': {
          from: defx.artifact('./a-config.txt'),
        },
      },
      image: 'IMAGE',
      restart: 'no',
    },
  },
}
// unsupported: web.volumes./etc/machine: /etc/hostname must exist on the machine; only files and configs are sent there
