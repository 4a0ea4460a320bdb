// Generated from environment.yaml by defx import compose.
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
      env: {
        INTERPOLATED: 'default $HOME',
        ONLY: 'env',
        OVER: 'file',
      },
      image: 'IMAGE',
      restart: 'no',
    },
  },
}
