// Generated from labels.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
      config: {
        Labels: {
          'com.example.empty': '',
          'com.example.team': 'web',
        },
      },
      host: {
        Annotations: {
          'com.example.note': 'x',
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
