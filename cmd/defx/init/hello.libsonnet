// A library: functionalities by name. In a team it has a repository of its own.
local defx = import 'defx/v1.libsonnet';
{
  greeter: {
    service: {
      command: ['/bin/sh', '-c', 'while :; do echo "$GREETING"; sleep 60; done'],
      env: { GREETING: 'hello' },
    },
  },
}
