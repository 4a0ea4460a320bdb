// A small shop from three libraries, which could be in three repositories.
// The machine is the folder ./box, so you need nothing but defx.
function(env='dev') {
  name: 'quickstart',
  libs: {
    data: import 'data/functionalities.libsonnet',
    shop: import 'shop/functionalities.libsonnet',
    ops: import 'ops/functionalities.libsonnet',
  },
  // Changes to the libraries for this environment.
  overrides: {
    'shop/web': { service+: { env+: { GREETING: 'hello from ' + env } } },
  },
  machines: {
    box: { connect: 'dir:./box' },
  },
}
