// Generated from command.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
      config: {
        OpenStdin: true,
        Tty: true,
        WorkingDir: '/bin',
      },
      init: false,
    },
    service: {
      args: ['serve', '0.0.0.0:80'],
      command: ['/bin/multi-tool'],
      env: {
        A: '1',
        B: "it's",
      },
      image: 'IMAGE',
      restart: 'no',
      user: '1000:1000',
    },
  },
}
