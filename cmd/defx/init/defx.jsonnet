// The entry file: it lists the libraries and the machines that they run on.
function(env='dev') {
  name: 'NAME',

  // Each environment has its own state: defx plan -e prod.
  environments: { dev: {}, prod: { from: 'dev' } },

  // Each library is evaluated separately: an error in one does not stop the others.
  libs: {
    hello: import 'hello/functionalities.libsonnet',
  },

  // Changes to what the libraries define.
  overrides: {
    'hello/greeter': { service+: { env+: { GREETING: 'hello from ' + env } } },
  },

  // box is a folder that acts as the root directory of a machine.
  machines: {
    box: { connect: 'dir:./box' },
  },
}
