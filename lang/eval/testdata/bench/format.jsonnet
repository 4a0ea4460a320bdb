// Formatting.
[
  '%s: %5d %-10s|%08.3f|%x %(y)s' % ['item', i, 'name', i / 7, i]
  for i in []
] + [
  std.format('%s has %d items of %08.3f at 0x%04x, %-12s|%+d|%e|%g', ['n%d' % i, i, i / 7, i, 'left', i, i * 1000, i / 3])
  for i in std.range(1, 100)
] + [
  'host-%(id)05d.%(zone)s.example.com:%(port)d' % { id: i, zone: 'eu-%d' % (i % 4), port: 8000 + i % 100 }
  for i in std.range(1, 100)
]
