local defx = import 'defx/v1.libsonnet';
{
  nginx: {
    requires: { app: 'app/server' },
    service: {
      command: ['/usr/sbin/nginx', '-c', '/etc/webstack/nginx.conf', '-g', 'daemon off;'],
      files: {
        '/etc/webstack/nginx.conf': |||
          pid %(runtime)s/nginx.pid;
          error_log stderr;
          events {}
          http {
            access_log off;
            client_body_temp_path %(cache)s/body;
            proxy_temp_path %(cache)s/proxy;
            fastcgi_temp_path %(cache)s/fastcgi;
            uwsgi_temp_path %(cache)s/uwsgi;
            scgi_temp_path %(cache)s/scgi;
            server {
              listen %(port)s;
              location / { proxy_pass http://%(app)s:%(appPort)s; }
            }
          }
        ||| % {
          cache: defx.me.dir('cache'),
          runtime: defx.me.dir('runtime'),
          port: defx.me.port('http'),
          app: defx.dep('app').host,
          appPort: defx.dep('app').port('http'),
        },
      },
      dirs: { cache: 'nginx', runtime: 'nginx' },
      reload: { signal: 'HUP' },
      ports: { http: 8090 },
      ready: { http: '/health' },
    },
  },
}
