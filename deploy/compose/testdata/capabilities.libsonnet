// Generated from capabilities.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  more: {
    backend: 'docker',
    docker: {
      aliases: ['more'],
      capabilities: ['default', 'NET_ADMIN', '-MKNOD'],
      init: false,
    },
    service: {
      image: 'IMAGE',
      restart: 'no',
    },
  },
  none: {
    backend: 'docker',
    docker: {
      aliases: ['none'],
      capabilities: ['NET_BIND_SERVICE'],
      host: {
        SecurityOpt: ['no-new-privileges:true'],
      },
      init: false,
      readOnly: true,
    },
    service: {
      image: 'IMAGE',
      restart: 'no',
    },
  },
}
