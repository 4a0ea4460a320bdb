local defx = import 'defx/v1.libsonnet';
{
  nginx: {
    requires: { app: 'app/server' },
    service: {
      command: ['/usr/sbin/nginx', '-c', '/etc/webstack/nginx.conf', '-g', 'daemon off;'],
      files: {
        '/etc/webstack/nginx.conf': |||
          pid /run/webstack-nginx/nginx.pid;
          error_log stderr;
          events {}
          http {
            access_log off;
            client_body_temp_path /var/cache/webstack-nginx/body;
            proxy_temp_path /var/cache/webstack-nginx/proxy;
            fastcgi_temp_path /var/cache/webstack-nginx/fastcgi;
            uwsgi_temp_path /var/cache/webstack-nginx/uwsgi;
            scgi_temp_path /var/cache/webstack-nginx/scgi;
            server {
              listen %s;
              location / { proxy_pass http://%s:%s; }
            }
          }
        ||| % [defx.me.port('http'), defx.dep('app').host, defx.dep('app').port('http')],
      },
      dirs: { cache: 'webstack-nginx', runtime: 'webstack-nginx' },
      reload: { signal: 'HUP' },
      ports: { http: 8090 },
      ready: { http: '/health' },
    },
  },
}
