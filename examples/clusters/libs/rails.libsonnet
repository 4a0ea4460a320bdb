// A Rails application: puma and sidekiq are one group, with several replicas.
// https://guides.rubyonrails.org/configuring.html, https://puma.io/puma/
local defx = import 'defx/v1.libsonnet';
local rails(command) = {
  command: ['/usr/bin/bundle', 'exec'] + command,
  user: 'shop',
  env: {
    RAILS_ENV: 'production',
    BUNDLE_GEMFILE: '/srv/shop/Gemfile',
    DATABASE_URL: defx.dep('db').output('url'),
    KAFKA_BROKERS: defx.dep('kafka').output('bootstrap'),
    CONSUL_HTTP_ADDR: '%s:%s' % [defx.dep('consul').here.host, defx.dep('consul').here.port('metrics')],
  },
  // config/environments/production.rb: config.secret_key_base = File.read(ENV.fetch('SECRET_KEY_BASE_FILE'))
  secrets: { SECRET_KEY_BASE: defx.secret('shop/secret-key-base') },
};
{
  app: defx.group({
    web: { service: rails(['puma', '--dir', '/srv/shop', '--bind', 'tcp://0.0.0.0:' + defx.me.port('http')]) {
      env+: { WEB_CONCURRENCY: '2' },
      migrate: ['/usr/bin/bundle', 'exec', 'rails', 'db:migrate'],
      ports: { http: 3000 },
      ready: { http: '/up', timeout: '1m' },
      stop: { timeout: '30s' },
    } },
    worker: { service: rails(['sidekiq', '--require', '/srv/shop', '--concurrency', '10']) {
      stop: { signal: 'TERM', timeout: '1m' },
      limits: { memory: '1Gi' },
    } },
    // Each replica has its own cache, and clears it.
    cron: { service: rails(['rails', 'tmp:cache:clear']) { schedule: { cron: '30 3 * * *', timezone: 'Europe/Berlin' } } },
  }) {
    place: { roles: ['app'], replicas: 2, spread: 'machine' },
    requires: { db: 'databases/shop' },
    connects: { kafka: 'kafka/kafka', consul: 'consul/agent' },
    host: { packages: ['ruby-bundler'], users: { shop: { home: '/srv/shop' } } },
  },
}
