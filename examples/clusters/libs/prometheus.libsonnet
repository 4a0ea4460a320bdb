// Prometheus scrapes all services with a port named metrics.
// https://prometheus.io/docs/prometheus/latest/configuration/configuration/
local defx = import 'defx/v1.libsonnet';
{
  prometheus: {
    place: { roles: ['primary'] },
    connects: { targets: defx.all({ port: 'metrics' }), node: 'node' },
    host: { packages: ['prometheus'] },
    service: {
      command: [
        '/usr/bin/prometheus',
        '--config.file=/etc/prometheus/defx.yml',
        '--storage.tsdb.path=' + defx.me.dir('state'),
        '--storage.tsdb.retention.time=30d',
        '--web.listen-address=:' + defx.me.port('http'),
      ],
      local addresses(alias) = defx.dep(alias).each(function(r) r.host + ':' + r.port('metrics')),
      files: {
        '/etc/prometheus/defx.yml': { yaml: {
          global: { scrape_interval: '15s' },
          scrape_configs: [
            { job_name: 'all', static_configs: [{ targets: addresses('targets') }] },
            {
              job_name: 'machines',
              static_configs: defx.dep('node').each(function(r) { targets: [r.host + ':' + r.port('metrics')], labels: { machine: r.machine } }),
            },
          ],
        } },
      },
      dirs: { state: 'prometheus' },
      ports: { http: 9090 },
      ready: { http: '/-/ready' },
      reload: { signal: 'HUP' },
    },
  },
  node: {
    place: { every: 'machine' },
    host: { packages: ['prometheus-node-exporter'] },
    service: {
      command: ['/usr/bin/prometheus-node-exporter', '--web.listen-address=:' + defx.me.port('metrics')],
      ports: { metrics: 9100 },
      ready: { http: '/' },
    },
  },
}
