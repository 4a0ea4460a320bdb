// A git server and a build farm from two libraries, in two locations.
function(env='dev') {
  name: 'zalora',
  libs: {
    git: import 'git/functionalities.libsonnet',
    hydra: import 'hydra/functionalities.libsonnet',
  },
  machines: {
    sg1: { connect: 'dir:./machines/sg1', address: '10.1.0.11', pool: 'farm', roles: ['web', 'db'], location: 'singapore' },
    sg2: { connect: 'dir:./machines/sg2', address: '10.1.0.12', pool: 'farm', roles: ['web'], location: 'singapore' },
    de1: { connect: 'dir:./machines/de1', address: '10.2.0.11', pool: 'farm', roles: ['build'], location: 'frankfurt' },
  },
  defaults: { backend: 'systemd', place: { pool: 'farm' } },
}
