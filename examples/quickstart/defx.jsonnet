// A small shop, composed of three libraries as if from three repositories.
// The machine is a folder, ./box, so that nothing but defx is needed.
function(env='dev') {
  name: 'quickstart',
  libs: {
    data: import 'data/functionalities.libsonnet',
    shop: import 'shop/functionalities.libsonnet',
    ops: import 'ops/functionalities.libsonnet',
  },
  // What this environment wants otherwise than the libraries say.
  overrides: {
    'shop/web': { service+: { env+: { GREETING: 'hello from ' + env } } },
  },
  machines: {
    box: { connect: 'dir:./box' },
  },
}
