local defx = import 'defx/v1.libsonnet';
{
  // Runs every five minutes instead of continuously.
  report: {
    requires: { db: 'data/db' },
    service: {
      command: ['/bin/sh', '-c', 'echo "report on $DATABASE"'],
      env: { DATABASE: '%s:%s' % [defx.dep('db').host, defx.dep('db').port('sql')] },
      schedule: { cron: '*/5 * * * *', missed: 'run' },
    },
  },
}
