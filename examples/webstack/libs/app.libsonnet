local defx = import 'defx/v1.libsonnet';
{
  server: {
    requires: { redis: 'data/redis' },
    service: {
      package: defx.artifact('../build/server'),
      command: ['server', '-listen', '127.0.0.1:' + defx.me.port('http')],
      env: {
        GREETING: 'hello',
        REDIS: '%s:%s' % [defx.dep('redis').host, defx.dep('redis').port('redis')],
      },
      ports: { http: 8091 },
      ready: { http: '/health' },
    },
  },
}
