// Two folders, created by a custom provider. The second refers to the first.
local defx = import 'defx/v1.libsonnet';
function(env='dev', note='hello') {
  name: 'folders',
  libs: {},
  resources: {
    first: { type: 'external.resource', provider: './providers/folder', arguments: { path: './made/first', note: note } },
    second: {
      type: 'external.resource',
      provider: './providers/folder',
      arguments: { path: './made/second', note: 'beside %s' % defx.ref('first').output('path') },
    },
  },
}
