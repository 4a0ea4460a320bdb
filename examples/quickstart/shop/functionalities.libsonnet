local defx = import 'defx/v1.libsonnet';
{
  web: {
    requires: { db: 'data/db', cache: 'data/cache' },
    service: {
      local db = defx.dep('db'),
      local cache = defx.dep('cache'),
      package: defx.artifact('web'),
      command: ['bin/web', '--port', defx.me.port('http')],
      env: {
        LOG: 'info',
        GREETING: 'hello',
        DATABASE: 'postgres://%s:%s/shop' % [db.host, db.port('sql')],
        CACHE: '%s:%s' % [cache.host, cache.port('redis')],
      },
      secrets: { DATABASE_PASSWORD: defx.secret('shop/database') },
      files: { '/etc/shop/limits.ini': std.manifestIni({ sections: { cart: { items: 99 } } }) },
      ports: { http: 8080 },
      ready: { http: '/health' },
    },
  },
  worker: {
    requires: ['data/db', 'web'],
    service: {
      package: defx.artifact('web'),
      command: ['bin/web', 'worker'],
      env: { LOG: 'info', WEB: 'http://%s:%s' % [defx.dep('web').host, defx.dep('web').port('http')] },
    },
  },
}
