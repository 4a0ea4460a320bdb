// Generated from dns.yaml by defx import compose.
local defx = import 'defx/v1.libsonnet';
{
  web: {
    backend: 'docker',
    docker: {
      aliases: ['web'],
      capabilities: ['default'],
      config: {
        Domainname: 'example.com',
        Hostname: 'web1',
      },
      host: {
        Dns: ['9.9.9.9'],
        DnsOptions: ['ndots:1'],
        DnsSearch: ['example.com'],
        ExtraHosts: ['other:10.0.0.1'],
      },
      init: false,
    },
    service: {
      image: 'IMAGE',
      restart: 'no',
    },
  },
}
