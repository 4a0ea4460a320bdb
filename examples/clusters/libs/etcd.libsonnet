// etcd without TLS, with a static list of all members.
// https://etcd.io/docs/v3.5/op-guide/clustering/#static
local defx = import 'defx/v1.libsonnet';
{
  etcd: {
    place: { roles: ['quorum'], replicas: { a: {}, b: {}, c: {} }, spread: 'machine' },
    exports: { endpoints: defx.peers.join(',', function(r) 'http://%s:%s' % [r.host, r.port('client')]) },
    host: { packages: ['etcd-server', 'etcd-client'] },
    service: {
      local url(host, port) = 'http://%s:%s' % [host, defx.me.port(port)],
      command: ['/usr/bin/etcd'],
      env: {
        ETCD_NAME: defx.me.name,
        ETCD_DATA_DIR: defx.me.dir('state'),
        ETCD_INITIAL_CLUSTER: defx.peers.join(',', function(r) '%s=http://%s:%s' % [r.name, r.host, r.port('peer')]),
        ETCD_INITIAL_CLUSTER_STATE: 'new',  // a member that joins later needs a patch with 'existing'
        ETCD_INITIAL_CLUSTER_TOKEN: 'clusters',
        ETCD_INITIAL_ADVERTISE_PEER_URLS: url(defx.me.host, 'peer'),
        ETCD_LISTEN_PEER_URLS: url('0.0.0.0', 'peer'),
        ETCD_ADVERTISE_CLIENT_URLS: url(defx.me.host, 'client'),
        ETCD_LISTEN_CLIENT_URLS: url('0.0.0.0', 'client'),
        ETCD_LISTEN_METRICS_URLS: url('0.0.0.0', 'metrics'),
      },
      dirs: { state: 'etcd' },
      ports: { client: 2379, peer: 2380, metrics: 2381 },
      ready: { exec: ['/usr/bin/etcdctl', '--endpoints', url('127.0.0.1', 'client'), 'endpoint', 'health'], timeout: '2m' },
      limits: { memory: '2Gi', openFiles: 65536 },
    },
  },
}
