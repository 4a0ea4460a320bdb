// Deep chains of objects with super, +: and late binding.
local base = { n:: 0, v: self.n * 2, list: [self.n], nested: { a: 1, b: $.n } };
local grow(o, i) = if i == 0 then o else grow(o { n:: super.n + 1, list+: [self.n + i], nested+: { ['k' + i]: i, b: super.b + 1 } }, i - 1);
[grow(base, 60) { id: i } for i in std.range(1, 100)]
