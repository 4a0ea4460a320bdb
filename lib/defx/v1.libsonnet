// defx/v1.libsonnet: references to values that are not known during evaluation.
//
// Each of these values is a token: a string that may be concatenated with + and
// formatted with %, but not measured, cut or compared. It is replaced by its value
// when the plan is made, just before an action, or on the machine.
local token = std.native('defx.token'), read = std.native('defx.read');

// withHint returns an error message with a hint, in the form that defx separates again.
local withHint(message, hint) = message + '\n\thint: ' + hint;

// checkName returns a name that is a non-empty string; what is the caller's name in errors.
local checkName(what, name) =
  if !std.isString(name) then
    error '%s: a name must be a string, not a value of type %s' % [what, std.type(name)]
  else if name == '' then
    error '%s: the name is empty' % what
  else name;

// replica has the fields that can be read from one replica. An object that refers to
// a replica is this object with two more fields: '$of', the reference (its kind, its
// name, and whether only replicas on the reader's machine count), and '$what', the
// reference's name in errors.
local replica = {
  name:: read(self['$of'], 'name', '', null),
  index:: read(self['$of'], 'index', '', null),
  host:: read(self['$of'], 'host', '', null),
  machine:: read(self['$of'], 'machine', '', null),
  port(port):: read(self['$of'], 'port', checkName(self['$what'] + '.port', port), null),
  label(label):: read(self['$of'], 'label', checkName(self['$what'] + '.label', label), null),
  dir(kind):: read(self['$of'], 'dir', checkName(self['$what'] + '.dir', kind), null),
  output(output):: read(self['$of'], 'output', checkName(self['$what'] + '.output', output), null),
};

// notAValue has a visible field that fails, for the mistake of using a reference itself
// as a value.
local notAValue = {
  reference: error withHint(
    '%s is not a value by itself' % self['$what'],
    'read a field of it, such as .host, .port(name) or .each(function(r) …)'
  ),
};

// replicaSet is a set of replicas. A field that is read directly is that of its single replica.
local replicaSet = replica {
  local of = self['$of'],
  local what = self['$what'],
  local call(field, arg, f) =
    if !std.isFunction(f) then error withHint(
      '%s.%s: expected a function of one replica, not a value of type %s' % [what, field, std.type(f)],
      "each(function(r) r.host), join(',', function(r) r.host)"
    )
    else read(of, field, arg, f(replica { '$of':: ['each', std.stripChars(of[0] + ' ' + of[1], ' '), false], '$what':: 'r' })),
  each(f):: [call('each', '', f)],
  join(separator, f)::
    if std.isString(separator) then call('join', separator, f)
    else error withHint(
      '%s.join: the separator must be a string, not a value of type %s' % [what, std.type(separator)],
      "join(',', function(r) …)"
    ),
};
local here = replicaSet + notAValue;
local set = replicaSet {
  here:: local of = self['$of'], what = self['$what']; here { '$of':: [of[0], of[1], true], '$what':: what + '.here' },
};
local named = set + notAValue;

{
  '#':: {
    help: 'References to values that are not known during evaluation.',
    'import': 'defx/v1.libsonnet',
  },

  '#dep':: {
    help: 'All replicas of the functionality with the name `alias` in `requires` or `connects`: `.each(f)`, `.join(sep, f)`, `.here`, and for a single replica `.host`, `.port(name)`, `.output(name)` …',
    args: [{ name: 'alias', type: 'string' }],
  },
  dep(alias):: named { '$of':: ['dep', checkName('defx.dep', alias), false], '$what':: 'defx.dep(%s)' % checkName('defx.dep', alias) },

  '#ref':: {
    help: 'Another functionality by its name, `lib/name` or `name`. Reading a field of it adds it to `requires`.',
    args: [{ name: 'name', type: 'string' }],
  },
  ref(name):: named { '$of':: ['name', checkName('defx.ref', name), false], '$what':: 'defx.ref(%s)' % checkName('defx.ref', name) },

  '#peers':: {
    help: 'All replicas of this functionality, including this one: `.each(f)`, `.join(sep, f)`, `.here`.',
  },
  peers:: named { '$of':: ['peers', '', false], '$what':: 'defx.peers' },

  '#all':: {
    help: 'All services of this deployment that have a port with this name or this label, as a set; or a selection for `connects`.',
    args: [{ name: 'selection', type: 'object' }],
  },
  all(selection)::
    if !std.isObject(selection) || std.length(std.setInter(std.objectFields(selection), ['label', 'port'])) != std.length(selection) || std.length(selection) == 0 then
      error withHint(
        "defx.all: expected { port: 'name' } or { label: 'name' }",
        "connects: { targets: defx.all({ port: 'metrics' }) }"
      )
    else set { '$of':: ['all', std.manifestJsonMinified(selection), false], '$what':: 'defx.all(…)', all: selection },

  '#me':: {
    help: 'This functionality itself: `.name`, `.index`, `.host`, `.machine`, `.port(name)`, `.label(name)`, `.dir(kind)`.',
  },
  me:: replica + notAValue { '$of':: ['me', '', false], '$what':: 'defx.me' },

  '#secret':: {
    help: 'A secret by its name. Its value is known only on the machine, where it is a file.',
    args: [{ name: 'name', type: 'string' }],
  },
  secret(name):: token('secret', checkName('defx.secret', name)),

  '#lookup':: {
    help: 'A value that the machine looks up at run time by its key.',
    args: [{ name: 'key', type: 'string' }],
  },
  lookup(key):: token('lookup', checkName('defx.lookup', key)),

  '#artifact':: {
    help: 'A file, directory or tar, relative to the file that contains the call; its digest is computed when the plan is made. Or a URL with the SHA-256 sum of its content, which is downloaded during apply.',
    args: [{ name: 'path', type: 'string' }, { name: 'sha256', type: 'string', default: null }],
  },
  artifact(path, sha256=null):: std.native('defx.artifact')(std.thisFile, checkName('defx.artifact', path), sha256),

  '#group':: {
    help: 'Services that are placed together; a changed member restarts by itself.',
    args: [{ name: 'members', type: 'object' }],
  },
  group(members)::
    if std.isObject(members) then { group: members }
    else error 'defx.group: expected an object name -> member, not a value of type %s' % std.type(members),
}
