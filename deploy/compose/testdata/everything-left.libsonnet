// Made of everything-left.yaml by defx import compose.
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
// left: .networks.back: a deployment has one network, in which all of its services are
// left: .volumes.other: it is external, and defx makes one of its own
// left: job.network_mode: none: a service is in the network of its deployment, or in the machine's
// left: web.build: defx makes images of packages, not of Dockerfiles: build it where you build, and name it in image
// left: web.container_name: containers are named by defx; it is an alias in the network instead
// left: web.depends_on.job.restart: only a change of a value that it reads restarts a service
// left: web.depends_on.job: what ends is initializer or migrate of whoever waits for it; here it only goes first
// left: web.environment.FROM_OUTSIDE: it is to come from the environment of whoever deploys, and defx looks at none
// left: web.links: the name other for job: give that one docker.aliases
// left: web.mac_address: addresses are the engine's
// left: web.networks.back: addresses are the engine's
// left: web.platform: the machine's own is taken
// left: web.ports.80: the machine's port must be one number, not ""
// left: web.ports: all ports of a service are on one address of the machine, or on all
// left: web.post_start: defx runs nothing after a start: migrate and initializer run before
// left: web.pull_policy: images are pinned by digest
// left: web.restart: an engine that keeps a container over boots starts it again however it ended
// left: web.restart: it is tried more than 3 times
// left: web.volumes./anonymous: a volume without a name is called anonymous-web--anonymous: it outlives its container
// left: web.volumes./there: /HERE/here is a path of the machine, and must be there: files and configs travel
