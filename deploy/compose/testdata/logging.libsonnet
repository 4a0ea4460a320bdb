// Generated from logging.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
      host: {
        LogConfig: {
          Config: {
            'max-file': '2',
            'max-size': '2m',
          },
          Type: 'json-file',
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
