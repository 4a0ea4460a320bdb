// defx/v1.libsonnet: what a functionality library says about values that are
// not known while it is evaluated.
//
// Each of these values is a token: a string that may be joined with + and %,
// but not measured, cut or compared. It becomes a value when the plan is made,
// just before an action, or on the machine.
local token = std.native('defx.token'), read = std.native('defx.read');

local text(what, value) =
  if !std.isString(value) then
    error '%s: a name is needed as text, not a value of type %s' % [what, std.type(value)]
  else if value == '' then
    error '%s: the name is empty' % what
  else value;

// What may be read of one replica. Objects of this kind are made of one that is
// there already and two fields: '$of', which says of whom it is read (kind, name,
// whether only on the reader's machine), and '$what', its name in errors.
local replica = {
  name:: read(self['$of'], 'name', '', null),
  index:: read(self['$of'], 'index', '', null),
  host:: read(self['$of'], 'host', '', null),
  machine:: read(self['$of'], 'machine', '', null),
  port(port):: read(self['$of'], 'port', text(self['$what'] + '.port', port), null),
  label(label):: read(self['$of'], 'label', text(self['$what'] + '.label', label), null),
  dir(kind):: read(self['$of'], 'dir', text(self['$what'] + '.dir', kind), null),
  output(output):: read(self['$of'], 'output', text(self['$what'] + '.output', output), null),
};

// Met only when the whole is used as a value: then something was forgotten.
local novalue = {
  reference: error '%s is no value: read something of it, such as .host, .port(name) or .each(function(r) …)' % self['$what'],
};

// A set of replicas. What is read of it directly is read of its only one.
local some = replica {
  local of = self['$of'],
  local what = self['$what'],
  local call(field, arg, f) =
    if !std.isFunction(f) then error '%s.%s: a function of one replica is needed, not a value of type %s' % [what, field, std.type(f)]
    else read(of, field, arg, f(replica { '$of':: ['each', std.stripChars(of[0] + ' ' + of[1], ' '), false], '$what':: 'r' })),
  each(f):: [call('each', '', f)],
  join(separator, f)::
    if std.isString(separator) then call('join', separator, f)
    else error '%s.join: the separator is a text, not a value of type %s' % [what, std.type(separator)],
};
local here = some + novalue;
local set = some {
  here:: local of = self['$of'], what = self['$what']; here { '$of':: [of[0], of[1], true], '$what':: what + '.here' },
};
local named = set + novalue;

{
  '#':: {
    help: 'The words with which a library speaks of values that evaluation cannot know.',
    'import': 'defx/v1.libsonnet',
  },

  '#dep':: {
    help: 'All replicas of what this functionality calls `alias` in `requires` or `connects`: `.each(f)`, `.join(sep, f)`, `.here`, and of a single one `.host`, `.port(name)`, `.output(name)` …',
    args: [{ name: 'alias', type: 'string' }],
  },
  dep(alias):: named { '$of':: ['dep', text('defx.dep', alias), false], '$what':: 'defx.dep(%s)' % text('defx.dep', alias) },

  '#ref':: {
    help: 'Another functionality by its name, `lib/name` or `name`. It is required by being read.',
    args: [{ name: 'name', type: 'string' }],
  },
  ref(name):: named { '$of':: ['name', text('defx.ref', name), false], '$what':: 'defx.ref(%s)' % text('defx.ref', name) },

  '#peers':: {
    help: 'All replicas of this functionality, itself included: `.each(f)`, `.join(sep, f)`, `.here`.',
  },
  peers:: named { '$of':: ['peers', '', false], '$what':: 'defx.peers' },

  '#all':: {
    help: 'All services of this deployment that have a port of this name or carry this label, as a set; or a selection for `connects`.',
    args: [{ name: 'selection', type: 'object' }],
  },
  all(selection)::
    if !std.isObject(selection) || std.length(std.setInter(std.objectFields(selection), ['label', 'port'])) != std.length(selection) || std.length(selection) == 0 then
      error "defx.all: { port: 'name' } or { label: 'name' } is needed"
    else set { '$of':: ['all', std.manifestJsonMinified(selection), false], '$what':: 'defx.all(…)', all: selection },

  '#me':: {
    help: 'This functionality itself: `.name`, `.index`, `.host`, `.machine`, `.port(name)`, `.label(name)`, `.dir(kind)`.',
  },
  me:: replica + novalue { '$of':: ['me', '', false], '$what':: 'defx.me' },

  '#secret':: {
    help: 'A secret by its name. Its value is known on the machine alone, as a file.',
    args: [{ name: 'name', type: 'string' }],
  },
  secret(name):: token('secret', text('defx.secret', name)),

  '#lookup':: {
    help: 'A value that the machine looks up at run time by its key.',
    args: [{ name: 'key', type: 'string' }],
  },
  lookup(key):: token('lookup', text('defx.lookup', key)),

  '#artifact':: {
    help: 'A file, folder or tar, relative to the file that says so; its digest is known when the plan is made. Or a file at an address, with its sum: it is fetched when it is applied.',
    args: [{ name: 'path', type: 'string' }, { name: 'sha256', type: 'string', default: null }],
  },
  artifact(path, sha256=null):: std.native('defx.artifact')(std.thisFile, text('defx.artifact', path), sha256),

  '#group':: {
    help: 'Services that run as one: one placement, but a changed member restarts alone.',
    args: [{ name: 'members', type: 'object' }],
  },
  group(members)::
    if std.isObject(members) then { group: members }
    else error 'defx.group: an object name -> member is needed, not a value of type %s' % std.type(members),
}
