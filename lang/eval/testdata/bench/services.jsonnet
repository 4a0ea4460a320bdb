// 10,000 similar services in 100 libraries.
local defaults = {
  replicas: 2,
  port: 8080,
  env: { LOG: 'info', REGION: 'eu' },
  labels: { app: 'none', team: 'core' },
};
local service(lib, i) = defaults {
  local svc = self,
  name: 'lib' + lib + '-svc' + i,
  port: 8000 + i,
  labels+: { app: svc.name, lib: 'lib' + lib },
  env+: { NAME: svc.name, PORT: std.toString(svc.port) },
  url: 'http://' + svc.name + ':' + svc.port + '/',
  deps: ['lib' + lib + '-svc' + d for d in [i - 1, i - 2] if d >= 0],
};
{
  ['lib' + lib]: { [s.name]: s for s in [service(lib, i) for i in std.range(0, 99)] }
  for lib in std.range(0, 99)
}
