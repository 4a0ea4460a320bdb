// Functions that make functions.
local compose(fs) = std.foldr(function(f, g) function(x) f(g(x)), fs, function(x) x);
local adder(n) = function(x) x + n;
local church(n) = function(f) function(x) if n == 0 then x else f(church(n - 1)(f)(x));
local pipeline = compose([adder(i) for i in std.range(1, 60)]);
{
  piped: std.foldl(function(a, i) a + pipeline(i), std.range(1, 1500), 0),
  church: [church(30)(function(x) x + 1)(i) for i in std.range(1, 60)],
  mapped: std.map(function(f) f(10), [adder(i) for i in std.range(1, 3000)]),
}
