// Generated from configs.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
      init: false,
    },
    service: {
      files: {
        '/etc/text.conf': {
          text: 'a = 1\n',
        },
        '/file': {
          from: defx.artifact('./a-config.txt'),
        },
      },
      image: 'IMAGE',
      restart: 'no',
    },
  },
}
