// The central file: it composes libraries and says on which machines they run.
function(env='dev') {
  name: 'NAME',

  // Each library is evaluated by itself: one that is broken stops no other.
  libs: {
    hello: import 'hello/functionalities.libsonnet',
  },

  // What this environment wants otherwise than the library says.
  overrides: {
    'hello/greeter': { service+: { env+: { GREETING: 'hello from ' + env } } },
  },

  // box is a folder that holds what a machine's root would.
  machines: {
    box: { connect: 'dir:./box' },
  },
}
