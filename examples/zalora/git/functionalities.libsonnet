local defx = import 'defx/v1.libsonnet';
{
  gitolite: {
    place: { location: 'singapore' },
    fqdn: 'git.zalora.example',
    // Hydra calls back after a build. connects implies no order of starting.
    connects: ['hydra/hydra-web'],
    service: {
      command: ['/usr/bin/git', 'daemon', '--reuseaddr', '--export-all', '--base-path=%s/repositories' % defx.me.dir('state'), '--port=' + defx.me.port('git')],
      user: 'gitolite3',
      dirs: { state: 'gitolite3' },
      ports: { git: 9418 },
      ready: { tcp: true },
      initializer: ['/usr/bin/gitolite', 'setup', '-a', 'admin'],
    },
  },
  // Fetches new commits every minute.
  mirror: {
    requires: { git: 'gitolite' },
    service: {
      command: ['/usr/bin/git', '-C', defx.me.dir('state') + '/testing.git', 'remote', 'update'],
      initializer: ['/usr/bin/git', 'clone', '--mirror', 'git://%s:%s/testing.git' % [defx.dep('git').host, defx.dep('git').port('git')], defx.me.dir('state') + '/testing.git'],
      dirs: { state: 'mirror' },
      schedule: { every: '1m', jitter: '5s' },
    },
  },
}
