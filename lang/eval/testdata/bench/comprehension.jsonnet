// Lists and objects made of loops.
local n = 200;
local primes = [i for i in std.range(2, 200) if std.length([j for j in std.range(2, i - 1) if std.floor(i / j) * j == i]) == 0];
{
  pairs: std.length([[x, y] for x in std.range(1, n) for y in std.range(1, n) if (x + y) * 2 > n]),
  primes: primes,
  squares: { ['k' + i]: i * i for i in std.range(0, 2000) },
  folded: std.foldl(function(a, b) a + b, [x * y for x in std.range(1, n) for y in std.range(1, n)], 0),
}
