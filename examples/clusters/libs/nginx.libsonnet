// nginx in front of the application servers and the portals of the customers.
// https://nginx.org/en/docs/http/ngx_http_upstream_module.html
local defx = import 'defx/v1.libsonnet';
{
  nginx: {
    place: { roles: ['primary'] },
    connects: { web: 'rails/app/web', portals: defx.all({ label: 'customer' }) },
    host: { packages: ['nginx-light'], sysctl: { 'net.core.somaxconn': 4096 } },
    service: {
      command: ['/usr/sbin/nginx', '-c', '/etc/nginx/defx.conf', '-g', 'daemon off;'],
      files: {
        '/etc/nginx/defx.conf': |||
          pid %(runtime)s/nginx.pid;
          error_log stderr;
          events { worker_connections 4096; }
          http {
            access_log off;
            client_body_temp_path %(cache)s/body;
            proxy_temp_path %(cache)s/proxy;
            upstream shop {
              least_conn;
              %(servers)s
            }
            server {
              listen %(port)s default_server;
              location / { proxy_pass http://shop; }
            }
            %(portals)s
          }
        ||| % {
          cache: defx.me.dir('cache'),
          runtime: defx.me.dir('runtime'),
          port: defx.me.port('http'),
          servers: defx.dep('web').join('\n    ', function(r) 'server %s:%s max_fails=3;' % [r.host, r.port('http')]),
          portals: defx.dep('portals').join('\n  ', function(r)
            'server { listen %s; server_name %s.shop.example.com; location / { proxy_pass http://%s:%s; } }'
            % [defx.me.port('http'), r.label('customer'), r.host, r.port('http')]),
        },
      },
      dirs: { cache: 'nginx', runtime: 'nginx' },
      ports: { http: 8080 },
      ready: { tcp: true },
      reload: { signal: 'HUP' },
    },
  },
}
