// Generated from kernel.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
      host: {
        CgroupnsMode: 'private',
        DeviceCgroupRules: ['c 1:3 rw'],
        Devices: [
          {
            CgroupPermissions: 'r',
            PathInContainer: '/dev/mine',
            PathOnHost: '/dev/null',
          },
        ],
        GroupAdd: ['10'],
        Sysctls: {
          'net.core.somaxconn': '1024',
        },
        UTSMode: 'host',
      },
      init: false,
    },
    service: {
      image: 'IMAGE',
      restart: 'no',
    },
  },
}
