// A library: functionalities by name. A team usually keeps it in its own repository.
{
  greeter: {
    service: {
      command: ['/bin/sh', '-c', 'while :; do echo "$GREETING"; sleep 60; done'],
      env: { GREETING: 'hello' },
    },
  },
}
