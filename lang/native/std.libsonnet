// Bodies for functions of the standard library. "original" is the old body, with
// the same parameters in reach. Whoever changes a line here compares it with
// std.jsonnet.
//
// Where a function of Go is asked for and found, the VM is an eager one: it may
// force values in another order, since whoever fails there is asked again in a
// VM without. What stands behind is careful: what is forced, and in which order,
// is that of the old body.
local original = null;
{
  // What stands before a function is found once for all its calls.
  mod::
    local eager = std.native('defx.std.eager.mod');
    local type = std.type;
    function(a, b)
      if type(a) == 'string' then
        local out = if eager != null && type(b) != 'object' then eager(a, b);
        if out != null then out else std.format(a, b)
      else if type(a) == 'number' && type(b) == 'number' then std.modulo(a, b)
      else original,

  // Values are checked one by one before Go sees the next, since the old body
  // complains of a wrong one before it forces what follows.
  format::
    local type = std.type;
    local formatKeys = std.native('defx.std.format.keys');
    local formatKinds = std.native('defx.std.format.kinds');
    local fill = std.native('defx.std.format.fill');
    local names = std.native('defx.std.eager.names');
    local fits(kind, v) =
      kind == 's' || type(v) == 'number' && (
        kind == 'd' || v == 0 || v < 1e15 && v > 1e-15 || v > -1e15 && v < -1e-15
      );
    function(str, vals)
      local kind = type(vals);
      if kind == 'object' then
        local easy = if names != null && type(str) == 'string' then names(str);
        local out = if easy != null then fill(str, [vals[k] for k in easy]);
        if out != null then out
        else
          local keys = if type(str) == 'string' then formatKeys(str);
          if keys == null then original
          else
            local out = fill(str, std.map(function(k)
              if !std.objectHasAll(vals, k[0]) then original
              else if fits(k[1], vals[k[0]]) then vals[k[0]]
              else original, keys));
            if out == null then original else out
      else
        local list = if kind == 'array' then vals else [vals];
        local kinds = if type(str) == 'string' then formatKinds(str);
        if kinds == std.length(list) then  // as many values, and any will do
          fill(str, list)
        else if type(kinds) == 'string' && std.length(kinds) == std.length(list) then
          local out = fill(str, std.makeArray(std.length(list), function(i)
            if fits(kinds[i], list[i]) then list[i] else original));
          if out == null then original else out
        else original,

  // The old body formats each line when it joins them; here Go does both.
  manifestIni::
    local eager = std.native('defx.std.eager.ini');
    function(ini)
    local out = if eager != null then eager(if std.objectHas(ini, 'main') then [ini.main] else [], ini.sections);
    if out != null then out
    else
      local body_lines(body) = std.join([], [
        local value_or_values = body[k];
        if std.isArray(value_or_values) then [[k, value] for value in value_or_values]
        else [[k, value_or_values]]
        for k in std.objectFields(body)
      ]);
      local section_lines(sname, sbody) = [[sname]] + body_lines(sbody);
      local main_body = if std.objectHas(ini, 'main') then body_lines(ini.main) else [];
      local all_sections = [section_lines(k, ini.sections[k]) for k in std.objectFields(ini.sections)];
      std.native('defx.std.ini')(main_body + std.flattenArrays(all_sections)),

  manifestPython::
    local eager = std.native('defx.std.eager.python');
    function(v)
    local out = if eager != null then eager(v);
    if out != null then out else original,

  manifestPythonVars::
    local eager = std.native('defx.std.eager.pythonVars');
    function(conf)
    local out = if eager != null && std.type(conf) == 'object' then eager(conf);
    if out != null then out else original,

  manifestXmlJsonml::
    local eager = std.native('defx.std.eager.xml');
    function(value)
    local out = if eager != null then eager(value);
    if out != null then out else original,

  deepJoin::
    local eager = std.native('defx.std.eager.deepJoin');
    function(arr)
    local out = if eager != null then eager(arr);
    if out != null then out else original,

  escapeStringXML:: local fast = std.native('defx.std.escapeXML'); function(str_) fast(std.toString(str_)),

  asciiUpper:: local fast = std.native('defx.std.upper'); function(str) if std.type(str) == 'string' then fast(str) else original,

  asciiLower:: local fast = std.native('defx.std.lower'); function(str) if std.type(str) == 'string' then fast(str) else original,

  // Elements of lists stay unread, as in the old body.
  slice(indexable, index, end, step)::
    local whole(n) = n == null || std.type(n) == 'number' && n == std.floor(n) && n > -1e9 && n < 1e9;
    local kind = std.type(indexable);
    if whole(step) && (step == null || step > 0) && (kind == 'string' || kind == 'array') && whole(index) && whole(end) then
      if kind == 'string' then std.native('defx.std.slice')(indexable, index, end, step)
      else
        local length = std.length(indexable);
        local from = if index == null then 0 else if index < 0 then std.max(0, length + index) else index;
        local to = if end == null || end > length then length else if end < 0 then length + end else end;
        local by = if step == null then 1 else step;
        std.makeArray(std.max(0, std.ceil((to - from) / by)), function(i) indexable[from + i * by])
    else original,

  findSubstr(pat, str)::
    if std.type(pat) == 'string' && std.type(str) == 'string' then std.native('defx.std.findSubstr')(pat, str) else original,

  // The old body copies what it has for each list that it adds.
  flattenArrays(arrs)::
    if std.type(arrs) == 'array' && std.all(std.map(std.isArray, arrs)) then std.join([], arrs) else original,

  // The old body copies what it has for each element that it keeps. Keys that are
  // equal to the one before are equal to the last one kept.
  uniq(arr, keyF)::
    if std.type(arr) == 'array' then
      local keys = std.makeArray(std.length(arr), function(i) keyF(arr[i]));
      [arr[i] for i in std.range(0, std.length(arr) - 1) if i == 0 || !(keys[i - 1] == keys[i])]
    else original,

  // The old body makes the sets of names by copying. Values stay unread, but for
  // those of the patch, which says by null what goes.
  mergePatch::
    local has = std.objectHasEx;
    local merged = std.native('defx.std.merged');
    function(target, patch)
    if std.type(patch) == 'object' then
      local to = if std.type(target) == 'object' then target else {};
      local names = std.objectFields(patch);
      {
        [k]:
          if !has(patch, k, false) then to[k]
          else if has(to, k, false) then std.mergePatch(to[k], patch[k]) tailstrict  // which reads the old value, whatever takes its place
          else if std.type(patch[k]) == 'object' then std.mergePatch(null, patch[k])
          else patch[k]
        for k in merged(std.objectFields(to), names, [patch[k] == null for k in names])
      }
    else patch,

  // The old body prunes each value twice, and so what lies n deep 2^n times. What
  // is pruned is read whole.
  prune::
    local eager = std.native('defx.std.eager.prune');
    function(a)
    if eager != null && (std.isArray(a) || std.isObject(a)) then eager(a) else
    local isContent(b) = if b == null then false else if std.isArray(b) || std.isObject(b) then std.length(b) > 0 else true;
    if std.isArray(a) then
      std.flatMap(function(x) local p = std.prune(x); if isContent(p) then [p] else [], a)
    else if std.isObject(a) then
      local kept = std.flatMap(function(x) local p = std.prune(a[x]); if isContent(p) then [{ k: x, v: p }] else [], std.objectFields(a));
      { [e.k]: e.v for e in kept }
    else a,

  // Which elements stay is found from all keys at once; the old bodies copy what
  // they have for each element that they keep. Elements stay unread, but for their keys.
  set::
    local pick = std.native('defx.std.eager.set');
    function(arr, keyF)
    local out = if pick != null && std.isArray(arr) then pick([keyF(x) for x in arr]);
    if out != null then std.makeArray(std.length(out), function(i) arr[out[i]]) else original,

  setUnion::
    local pick = std.native('defx.std.eager.union');
    function(a, b, keyF)
    local out = if pick != null && std.isArray(a) && std.isArray(b) then pick([keyF(x) for x in a], [keyF(x) for x in b]);
    if out != null then local both = a + b; std.makeArray(std.length(out), function(i) both[out[i]]) else original,

  setInter::
    local pick = std.native('defx.std.eager.inter');
    function(a, b, keyF)
    local out = if pick != null && std.isArray(a) && std.isArray(b) then pick([keyF(x) for x in a], [keyF(x) for x in b]);
    if out != null then std.makeArray(std.length(out), function(i) a[out[i]]) else original,

  setDiff::
    local pick = std.native('defx.std.eager.diff');
    function(a, b, keyF)
    local out = if pick != null && std.isArray(a) && std.isArray(b) then pick([keyF(x) for x in a], [keyF(x) for x in b]);
    if out != null then std.makeArray(std.length(out), function(i) a[out[i]]) else original,

  parseHex::
    local parse = std.native('defx.std.parse');
    function(str)
    local out = if std.type(str) == 'string' then parse(str, 16);
    if out != null then out else original,

  parseOctal::
    local parse = std.native('defx.std.parse');
    function(str)
    local out = if std.type(str) == 'string' then parse(str, 8);
    if out != null then out else original,
}
