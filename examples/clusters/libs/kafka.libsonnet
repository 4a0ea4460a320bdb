// Kafka without ZooKeeper: each node is a broker and a controller.
// https://kafka.apache.org/documentation/#kraft
local defx = import 'defx/v1.libsonnet';
local config = '/etc/kafka/server.properties';
{
  kafka: {
    place: { roles: ['quorum'], replicas: 3, spread: 'machine' },
    exports: { bootstrap: defx.peers.join(',', function(r) '%s:%s' % [r.host, r.port('broker')]) },
    host: { packages: ['default-jre-headless'], sysctl: { 'vm.max_map_count': 262144 } },
    service: {
      command: ['/opt/kafka/bin/kafka-server-start.sh', config],
      // Formats the storage with the cluster's id, which is not secret.
      initializer: ['/opt/kafka/bin/kafka-storage.sh', 'format', '--ignore-formatted', '--cluster-id', 'q1Sh-9_ISia_zwGINzRvyQ', '--config', config],
      env: { KAFKA_HEAP_OPTS: '-Xms1g -Xmx1g', LOG_DIR: defx.me.dir('logs') },
      files: {
        [config]: { ini: {
          'process.roles': 'broker,controller',
          'node.id': defx.me.index,
          'controller.quorum.voters': defx.peers.join(',', function(r) '%s@%s:%s' % [r.index, r.host, r.port('controller')]),
          'controller.listener.names': 'CONTROLLER',
          listeners: 'PLAINTEXT://:%s,CONTROLLER://:%s' % [defx.me.port('broker'), defx.me.port('controller')],
          'advertised.listeners': 'PLAINTEXT://%s:%s' % [defx.me.host, defx.me.port('broker')],
          'listener.security.protocol.map': 'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT',
          'log.dirs': defx.me.dir('state'),
          'num.partitions': 6,
        } },
      },
      dirs: { state: 'kafka', logs: 'kafka' },
      ports: { broker: 9092, controller: 9093 },
      ready: { tcp: true, port: 'broker', timeout: '2m', count: 2 },
      limits: { memory: '2Gi', openFiles: 100000 },
      stop: { timeout: '5m' },  // a broker hands over its partitions first
    },
  },
}
