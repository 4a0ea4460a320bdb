// defx/v1.libsonnet: what a functionality library says about values that are
// not known while it is evaluated.
//
// Each of these values is a token: a string that may be joined with + and %,
// but not measured, cut or compared. It becomes a value when the plan is made,
// just before an action, or on the machine.
local native = std.native('defx.token');
local token(kind, of='', name='', field='', arg='') = native(kind, of, name, field, arg);

local text(what, value) =
  if !std.isString(value) then
    error 'defx.%s: a name is needed as text, not a value of type %s' % [what, std.type(value)]
  else if value == '' then
    error 'defx.%s: the name is empty' % what
  else value;

// What one functionality may read of another. It is no value itself.
local reference(of, name) = {
  host:: token('ref', of, name, 'host'),
  machine:: token('ref', of, name, 'machine'),
  port(port):: token('ref', of, name, 'port', text('dep(…).port', port)),
  output(output):: token('ref', of, name, 'output', text('dep(…).output', output)),
  // Met only when the whole is used as a value: then something was forgotten.
  reference: error 'defx.%s(%s) is no value: read something of it, such as .host or .port(name)' % [if of == 'dep' then 'dep' else 'ref', name],
};

{
  '#':: {
    help: 'The words with which a library speaks of values that evaluation cannot know.',
    'import': 'defx/v1.libsonnet',
  },

  '#dep':: {
    help: 'What this functionality calls `alias` in `requires` or `connects`: `.host`, `.port(name)`, `.machine`.',
    args: [{ name: 'alias', type: 'string' }],
  },
  dep(alias):: reference('dep', text('dep', alias)),

  '#ref':: {
    help: 'Another functionality by its name, `lib/name` or `name`. It is required by being read.',
    args: [{ name: 'name', type: 'string' }],
  },
  ref(name):: reference('name', text('ref', name)),

  '#me':: {
    help: 'This functionality itself: `.name`, `.index`, `.host`, `.machine`, `.port(name)`, `.label(name)`, `.dir(kind)`.',
  },
  me:: {
    name:: token('ref', 'me', '', 'name'),
    index:: token('ref', 'me', '', 'index'),
    host:: token('ref', 'me', '', 'host'),
    machine:: token('ref', 'me', '', 'machine'),
    port(port):: token('ref', 'me', '', 'port', text('me.port', port)),
    label(label):: token('ref', 'me', '', 'label', text('me.label', label)),
    dir(kind):: token('ref', 'me', '', 'dir', text('me.dir', kind)),
  },

  '#secret':: {
    help: 'A secret by its name. Its value is known on the machine alone, as a file.',
    args: [{ name: 'name', type: 'string' }],
  },
  secret(name):: token('secret', '', text('secret', name)),

  '#lookup':: {
    help: 'A value that the machine looks up at run time by its key.',
    args: [{ name: 'key', type: 'string' }],
  },
  lookup(key):: token('lookup', '', text('lookup', key)),

  '#artifact':: {
    help: 'A file, folder or tar, relative to the file that says so. The digest of its content is known when the plan is made.',
    args: [{ name: 'path', type: 'string' }],
  },
  artifact(path):: std.native('defx.artifact')(std.thisFile, text('artifact', path)),

  '#group':: {
    help: 'Services that run as one: one placement, but a changed member restarts alone.',
    args: [{ name: 'members', type: 'object' }],
  },
  group(members)::
    if std.isObject(members) then { group: members }
    else error 'defx.group: an object name -> member is needed, not a value of type %s' % std.type(members),
}
