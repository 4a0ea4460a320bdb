// A database that is managed elsewhere, and a report that reads it every night.
local defx = import 'defx/v1.libsonnet';
{
  orders: {
    external: { host: 'orders.cluster-ro.eu-west-1.rds.amazonaws.com', ports: { sql: 5432 } },
    exports: { url: 'postgres://report@%s:%s/orders?sslmode=verify-full' % [defx.me.host, defx.me.port('sql')] },
  },
  report: {
    place: { roles: ['app'] },
    connects: ['orders'],
    host: { packages: ['postgresql-client'] },
    service: {
      command: ['/bin/sh', '-c', 'PGPASSFILE=$PGPASS_FILE exec psql --csv --file /etc/report.sql --output "$OUT/orders.csv" "$ORDERS"'],
      env: { ORDERS: defx.dep('orders').output('url'), OUT: defx.me.dir('state') },
      secrets: { PGPASS: defx.secret('orders/pgpass') },
      files: { '/etc/report.sql': 'SELECT date_trunc($$day$$, placed_at) AS day, count(*), sum(total) FROM orders GROUP BY 1 ORDER BY 1;\n' },
      dirs: { state: 'report' },
      schedule: { cron: '15 2 * * *', timezone: 'Europe/Berlin', missed: 'run' },
    },
  },
}
