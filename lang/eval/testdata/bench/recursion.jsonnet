// Calls and arithmetic.
local fib(n) = if n < 2 then n else fib(n - 1) + fib(n - 2);
local sum(n, acc) = if n == 0 then acc else sum(n - 1, acc + n) tailstrict;
local ackermann(m, n) =
  if m == 0 then n + 1
  else if n == 0 then ackermann(m - 1, 1)
  else ackermann(m - 1, ackermann(m, n - 1));
{ fib: fib(21), sum: sum(30000, 0), ackermann: ackermann(2, 40) }
