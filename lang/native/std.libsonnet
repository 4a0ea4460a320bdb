// New bodies for functions of the standard library. "original" is the old body, with
// the same parameters in scope. Compare every change here with go-jsonnet's std.jsonnet.
//
// Where a native function of "defx.std.fast" is looked up and exists, the VM is a fast
// one: values may be forced in another order, since what fails is repeated in a strict
// VM. All other code must force the same values in the same order as the old body.
local original = null;
{
  // Locals in front of a function are evaluated once for all of its calls.
  mod::
    local fast = std.native('defx.std.fast.mod');
    local type = std.type;
    function(a, b)
      if type(a) == 'string' then
        local out = if fast != null && type(b) != 'object' then fast(a, b);
        if out != null then out else std.format(a, b)
      else if type(a) == 'number' && type(b) == 'number' then std.modulo(a, b)
      else original,

  // Values are checked one by one, each before the next is passed to Go, since the old
  // body reports a wrong value before it forces the next.
  format::
    local type = std.type;
    local formatKeys = std.native('defx.std.format.keys');
    local formatKinds = std.native('defx.std.format.kinds');
    local fill = std.native('defx.std.format.fill');
    local names = std.native('defx.std.fast.names');
    local fits(kind, v) =
      kind == 's' || type(v) == 'number' && (
        kind == 'd' || v == 0 || v < 1e15 && v > 1e-15 || v > -1e15 && v < -1e-15
      );
    function(str, vals)
      local kind = type(vals);
      if kind == 'object' then
        local simpleKeys = if names != null && type(str) == 'string' then names(str);
        local out = if simpleKeys != null then fill(str, [vals[k] for k in simpleKeys]);
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
        if kinds == std.length(list) then  // as many values, of any type
          fill(str, list)
        else if type(kinds) == 'string' && std.length(kinds) == std.length(list) then
          local out = fill(str, std.makeArray(std.length(list), function(i)
            if fits(kinds[i], list[i]) then list[i] else original));
          if out == null then original else out
        else original,

  // The old body formats and joins lines in Jsonnet; here Go does both.
  manifestIni::
    local fast = std.native('defx.std.fast.ini');
    function(ini)
    local out = if fast != null then fast(if std.objectHas(ini, 'main') then [ini.main] else [], ini.sections);
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
    local fast = std.native('defx.std.fast.python');
    function(v)
    local out = if fast != null then fast(v);
    if out != null then out else original,

  manifestPythonVars::
    local fast = std.native('defx.std.fast.pythonVars');
    function(conf)
    local out = if fast != null && std.type(conf) == 'object' then fast(conf);
    if out != null then out else original,

  manifestXmlJsonml::
    local fast = std.native('defx.std.fast.xml');
    function(value)
    local out = if fast != null then fast(value);
    if out != null then out else original,

  deepJoin::
    local fast = std.native('defx.std.fast.deepJoin');
    function(arr)
    local out = if fast != null then fast(arr);
    if out != null then out else original,

  escapeStringXML:: local impl = std.native('defx.std.escapeXML'); function(str_) impl(std.toString(str_)),

  asciiUpper:: local impl = std.native('defx.std.upper'); function(str) if std.type(str) == 'string' then impl(str) else original,

  asciiLower:: local impl = std.native('defx.std.lower'); function(str) if std.type(str) == 'string' then impl(str) else original,

  // Elements of lists are not forced, as in the old body.
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

  // The old body copies the result for each list that it adds.
  flattenArrays(arrs)::
    if std.type(arrs) == 'array' && std.all(std.map(std.isArray, arrs)) then std.join([], arrs) else original,

  // The old body copies the result for each element that it keeps. A key that equals
  // the previous key also equals the key of the last element kept.
  uniq(arr, keyF)::
    if std.type(arr) == 'array' then
      local keys = std.makeArray(std.length(arr), function(i) keyF(arr[i]));
      [arr[i] for i in std.range(0, std.length(arr) - 1) if i == 0 || !(keys[i - 1] == keys[i])]
    else original,

  // The old body builds the sets of names by copying. Values are not forced, except
  // those of the patch, in which null removes a field.
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
          else if has(to, k, false) then std.mergePatch(to[k], patch[k]) tailstrict  // which forces the old value even if it is replaced
          else if std.type(patch[k]) == 'object' then std.mergePatch(null, patch[k])
          else patch[k]
        for k in merged(std.objectFields(to), names, [patch[k] == null for k in names])
      }
    else patch,

  // The old body prunes each value twice, and so a value at depth n 2^n times. It
  // forces everything that it prunes.
  prune::
    local fast = std.native('defx.std.fast.prune');
    function(a)
    if fast != null && (std.isArray(a) || std.isObject(a)) then fast(a) else
    local isContent(b) = if b == null then false else if std.isArray(b) || std.isObject(b) then std.length(b) > 0 else true;
    if std.isArray(a) then
      std.flatMap(function(x) local p = std.prune(x); if isContent(p) then [p] else [], a)
    else if std.isObject(a) then
      local kept = std.flatMap(function(x) local p = std.prune(a[x]); if isContent(p) then [{ k: x, v: p }] else [], std.objectFields(a));
      { [e.k]: e.v for e in kept }
    else a,

  // The elements to keep are determined from all keys at once; the old bodies copy the
  // result for each element that they keep. Elements are not forced, except their keys.
  set::
    local pick = std.native('defx.std.fast.set');
    function(arr, keyF)
    local out = if pick != null && std.isArray(arr) then pick([keyF(x) for x in arr]);
    if out != null then std.makeArray(std.length(out), function(i) arr[out[i]]) else original,

  setUnion::
    local pick = std.native('defx.std.fast.union');
    function(a, b, keyF)
    local out = if pick != null && std.isArray(a) && std.isArray(b) then pick([keyF(x) for x in a], [keyF(x) for x in b]);
    if out != null then local both = a + b; std.makeArray(std.length(out), function(i) both[out[i]]) else original,

  setInter::
    local pick = std.native('defx.std.fast.inter');
    function(a, b, keyF)
    local out = if pick != null && std.isArray(a) && std.isArray(b) then pick([keyF(x) for x in a], [keyF(x) for x in b]);
    if out != null then std.makeArray(std.length(out), function(i) a[out[i]]) else original,

  setDiff::
    local pick = std.native('defx.std.fast.diff');
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
