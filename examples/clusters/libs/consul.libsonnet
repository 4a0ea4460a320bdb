// Consul: servers, and an agent on every machine for the services there.
// https://developer.hashicorp.com/consul/docs/reference/agent/configuration-file
local defx = import 'defx/v1.libsonnet';
local consul(more) = {
  command: ['/usr/bin/consul', 'agent', '-config-file', '/etc/consul.d/defx.json'],
  files: { '/etc/consul.d/defx.json': { json: {
    datacenter: 'dc1',
    node_name: defx.me.name,
    bind_addr: defx.me.host,
    retry_join: defx.dep('servers').each(function(r) r.host + ':' + r.port('serf')),
    telemetry: { prometheus_retention_time: '1m' },
  } + more } },
  ready: { exec: ['/usr/bin/consul', 'info', '-http-addr', 'http://127.0.0.1:' + defx.me.port('metrics')] },
  reload: { signal: 'HUP' },
};
{
  // A server runs on the same machine as an agent, so it uses other ports.
  server: {
    place: { roles: ['quorum'], replicas: { alpha: {}, beta: {}, gamma: {} }, spread: 'machine' },
    connects: { servers: 'server' },
    host: { packages: ['consul'] },
    service: consul({
      data_dir: defx.me.dir('state'),
      server: true,
      bootstrap_expect: 3,
      ports: { server: defx.me.port('rpc'), serf_lan: defx.me.port('serf'), serf_wan: -1, http: defx.me.port('metrics'), grpc: -1, grpc_tls: -1, dns: -1 },
    }) {
      dirs: { state: 'consul-server' },
      ports: { rpc: 8300, serf: 8311, 'serf-udp': { port: 8311, protocol: 'udp' }, metrics: 8510 },
    },
  },
  agent: {
    place: { every: 'machine' },
    connects: { servers: 'server' },
    host: { packages: ['consul'] },
    service: consul({
      data_dir: defx.me.dir('cache'),  // an agent needs no data after a restart, so it may be deleted with its machine
      ports: { serf_lan: defx.me.port('serf'), http: defx.me.port('metrics'), dns: defx.me.port('dns') },
    }) {
      dirs: { cache: 'consul' },
      ports: {
        serf: 8301,
        'serf-udp': { port: 8301, protocol: 'udp' },
        metrics: 8500,
        dns: { port: 8600, protocol: 'udp' },
      },
    },
  },
}
