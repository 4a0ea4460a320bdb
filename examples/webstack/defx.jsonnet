// nginx in front of a small Go server that counts in redis. Debian's nginx and
// redis are used where Debian puts them; the server comes as an artifact.
function(env='dev') {
  name: 'webstack',
  libs: {
    front: import 'libs/front.libsonnet',
    app: import 'libs/app.libsonnet',
    data: import 'libs/data.libsonnet',
  },
  machines: {
    box: { connect: 'dir:./box' },
  },
}
