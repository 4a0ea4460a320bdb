local defx = import 'defx/v1.libsonnet';
{
  redis: {
    service: {
      command: ['/usr/bin/redis-server', '/etc/webstack/redis.conf'],
      files: {
        '/etc/webstack/redis.conf': |||
          bind 127.0.0.1
          port %s
          dir %s
          save 60 1
        ||| % [defx.me.port('redis'), defx.me.dir('state')],
      },
      dirs: { state: 'redis' },
      ports: { redis: 6390 },
      ready: { tcp: true },
    },
  },
}
