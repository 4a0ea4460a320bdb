// Generated from secrets.yaml by defx import compose.
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
      image: 'IMAGE',
      restart: 'no',
      secrets: {
        word: defx.secret('word'),
      },
    },
  },
}
