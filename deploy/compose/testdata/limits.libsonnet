// Generated from limits.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
      host: {
        CpuShares: 512,
        CpusetCpus: '0',
        MemoryReservation: 33554432,
        MemorySwap: 134217728,
        OomScoreAdj: 100,
        ShmSize: 33554432,
        Ulimits: [
          {
            Hard: 200,
            Name: 'nofile',
            Soft: 100,
          },
          {
            Hard: 60,
            Name: 'nproc',
            Soft: 60,
          },
        ],
      },
      init: false,
    },
    service: {
      image: 'IMAGE',
      limits: {
        cpu: '0.5',
        memory: '64Mi',
        tasks: 50,
      },
      restart: 'no',
    },
  },
}
