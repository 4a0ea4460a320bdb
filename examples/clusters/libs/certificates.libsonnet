// certbot renews the certificates twice a day; stunnel reads them on the same machine.
// https://eff-certbot.readthedocs.io/en/stable/using.html#renewing-certificates
local defx = import 'defx/v1.libsonnet';
{
  renew: {
    place: { roles: ['primary'] },
    host: { packages: ['certbot'] },
    service: {
      local dir(name) = ['--%s-dir' % name, '%s/%s' % [defx.me.dir('state'), name]],
      command: ['/usr/bin/certbot', 'renew', '--quiet', '--webroot', '--webroot-path', '/var/www/acme', '--logs-dir', defx.me.dir('logs')] + dir('config') + dir('work'),
      dirs: { state: 'certificates', logs: 'certbot' },
      schedule: { cron: '0 0,12 * * *', jitter: '1h', missed: 'run' },
    },
  },
  // stunnel gives other networks access to the databases through TLS.
  stunnel: {
    place: { with: 'renew' },
    connects: { certs: 'renew', pool: 'postgres/pgbouncer' },
    host: { packages: ['stunnel4'] },
    service: {
      command: ['/usr/bin/stunnel4', '/etc/stunnel/defx.conf'],
      user: 'root',  // certbot's keys belong to root
      files: {
        '/etc/stunnel/defx.conf': |||
          foreground = yes
          cert = %(dir)s/config/live/shop.example.com/fullchain.pem
          key = %(dir)s/config/live/shop.example.com/privkey.pem
          [postgres]
          accept = %(port)s
          connect = %(host)s:%(to)s
        ||| % {
          dir: defx.dep('certs').here.dir('state'),
          port: defx.me.port('tls'),
          host: defx.dep('pool').here.host,
          to: defx.dep('pool').here.port('sql'),
        },
      },
      ports: { tls: 6433 },
      ready: { tcp: true },
      reload: { signal: 'HUP' },
    },
  },
}
