// Generated from namespaces.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
      host: {
        IpcMode: 'host',
        PidMode: 'host',
        UsernsMode: 'host',
      },
      init: false,
    },
    service: {
      image: 'IMAGE',
      restart: 'no',
    },
  },
}
