// Bodies for functions of the standard library. "original" is the old body, with
// the same parameters in reach. What is forced, and in which order, is that of
// the old body: whoever changes a line here compares it with std.jsonnet.
local original = null;
{
  mod(a, b)::
    local t = std.type(a);
    if t == 'string' then std.format(a, b)
    else if t == 'number' && std.type(b) == 'number' then std.modulo(a, b)
    else original,

  // Values are checked one by one before Go sees the next, since the old body
  // complains of a wrong one before it forces what follows.
  format(str, vals)::
    local fits(kind, v) =
      kind == 's' || std.type(v) == 'number' && (
        kind == 'd' || v == 0 || v < 1e15 && v > 1e-15 || v > -1e15 && v < -1e-15
      );
    local kind = std.type(vals);
    if kind == 'object' then
      local keys = if std.type(str) == 'string' then std.native('defx.std.format.keys')(str);
      if keys == null then original
      else
        local out = std.native('defx.std.format.fill')(str, std.map(function(k)
          if !std.objectHasAll(vals, k[0]) then original
          else if fits(k[1], vals[k[0]]) then vals[k[0]]
          else original, keys));
        if out == null then original else out
    else
      local list = if kind == 'array' then vals else [vals];
      local kinds = if std.type(str) == 'string' then std.native('defx.std.format.kinds')(str);
      if kinds == std.length(list) then  // as many values, and any will do
        std.native('defx.std.format.fill')(str, list)
      else if std.type(kinds) == 'string' && std.length(kinds) == std.length(list) then
        local out = std.native('defx.std.format.fill')(str, std.makeArray(std.length(list), function(i)
          if fits(kinds[i], list[i]) then list[i] else original));
        if out == null then original else out
      else original,

  // The old body formats each line when it joins them; here Go does both.
  manifestIni(ini)::
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
}
