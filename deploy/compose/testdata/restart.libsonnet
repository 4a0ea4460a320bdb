// Generated from restart.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  always: {
    backend: 'docker',
    docker: {
      aliases: ['always'],
      capabilities: ['default'],
      init: false,
    },
    service: {
      image: 'IMAGE',
      restart: 'always',
    },
  },
  never: {
    backend: 'docker',
    docker: {
      aliases: ['never'],
      capabilities: ['default'],
      init: false,
    },
    service: {
      image: 'IMAGE',
      restart: 'no',
    },
  },
  unless: {
    backend: 'docker',
    docker: {
      aliases: ['unless'],
      capabilities: ['default'],
      init: false,
    },
    service: {
      image: 'IMAGE',
      restart: 'always',
    },
  },
}
