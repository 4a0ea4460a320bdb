// Generated from extends.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  base: {
    backend: 'docker',
    docker: {
      aliases: ['base'],
      capabilities: ['default'],
      init: false,
    },
    service: {
      env: {
        FROM: 'base',
      },
      image: 'IMAGE',
      restart: 'no',
    },
  },
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
      config: {
        Labels: {
          a: 'b',
        },
      },
      init: false,
    },
    service: {
      env: {
        FROM: 'base',
        MORE: '1',
      },
      image: 'IMAGE',
      restart: 'always',
    },
  },
}
// unsupported: .services.debug: its profiles are not active: --profile includes them
