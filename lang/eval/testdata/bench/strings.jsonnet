// Strings built piece by piece.
local words = ['alpha', 'beta', 'gamma', 'delta', 'epsilon'];
local text = std.foldl(function(acc, i) acc + words[i % 5] + ' ' + i + '\n', std.range(1, 1200), '');
local caesar(s) = std.join('', [std.char(std.codepoint(c) + 1) for c in std.stringChars(s)]);
{
  length: std.length(text),
  lines: std.length(std.split(text, '\n')),
  caesar: std.length(caesar(text)),
  vowels: std.foldl(function(n, c) if std.member('aeiou', c) then n + 1 else n, std.stringChars(text), 0),
  upper: std.length(std.asciiUpper(text)),
  chars: std.length([text[i] for i in std.range(0, 9000)]),
}
