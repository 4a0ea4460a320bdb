// Generated from unsupported.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  job: {
    backend: 'docker',
    docker: {
      aliases: ['job'],
      capabilities: ['default'],
      init: false,
    },
    service: {
      image: 'IMAGE',
      restart: 'no',
    },
  },
  web: {
    after: ['job'],
    backend: 'docker',
    docker: {
      aliases: ['my-web', 'web'],
      capabilities: ['default'],
      init: false,
      ports: {
        p84: 84,
        p85: 85,
      },
      volumes: [
        {
          name: 'anonymous-web--anonymous',
          target: '/anonymous',
        },
        {
          path: '/HERE/here',
          target: '/there',
        },
      ],
    },
    requires: ['job'],
    service: {
      image: 'IMAGE',
      ports: {
        p84: 18084,
        p85: 18085,
      },
      restart: 'on-failure',
    },
  },
}
// unsupported: .networks.back: a deployment has one network with all of its services
// unsupported: .volumes.other: external volumes are not supported: defx creates a new one
// unsupported: job.network_mode: none is not supported: a service is in the network of its deployment, or in that of the machine
// unsupported: web.build: defx makes images from packages, not from Dockerfiles: build it separately and set image
// unsupported: web.container_name: defx names containers; the name is an alias in the network instead
// unsupported: web.depends_on.job.restart: a service is restarted only if a value that it reads changes
// unsupported: web.depends_on.job: waiting for completion is not supported, it is only started first: use initializer or migrate of the dependent service
// unsupported: web.environment.FROM_OUTSIDE: its value comes from the environment of the user, which defx does not read
// unsupported: web.links: add the alias other to docker.aliases of job
// unsupported: web.mac_address: the engine assigns addresses
// unsupported: web.networks.back: the engine assigns addresses
// unsupported: web.platform: the machine's platform is used
// unsupported: web.ports.80: the published port must be one number, not ""
// unsupported: web.ports: a service publishes all its ports on one address of the machine, or on all addresses
// unsupported: web.post_start: defx runs no command after a start; migrate and initializer run before it
// unsupported: web.pull_policy: images are pinned by digest
// unsupported: web.restart: after a reboot the engine also starts a container that had succeeded
// unsupported: web.restart: the limit of 3 attempts is not supported
// unsupported: web.volumes./anonymous: the anonymous volume is named anonymous-web--anonymous and is kept when its container is removed
// unsupported: web.volumes./there: /HERE/here must exist on the machine; only files and configs are sent there
