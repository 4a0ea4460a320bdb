package main

import (
	"fmt"
	"strings"
)

// files are the Jsonnet programs of compareEvaluators.
var files = []struct{ name, text string }{
	{"formats", formats},
	{"plain", plain},
	{"template", template()},
	{"objects", objects},
	{"comprehension", comprehension},
	{"inheritance", inheritance},
	{"strings", stringWork},
}

// formats formats the texts of a thousand services with % and manifestIni.
const formats = `{
  ['s%d' % i]: {
    command: ['/usr/bin/svc', '--port', '%d' % (1000 + i), '%s:%s' % ['host', i]],
    url: 'http://%(host)s:%(port)d/%(path)s' % { host: 'h%d' % i, port: i, path: 'p' },
    ini: std.manifestIni({ main: { a: '1', b: i }, sections: { s: { k: 'v%d' % i, l: [1, 2, 3] }, t: { x: 'y' } } }),
  }
  for i in std.range(0, 999)
}
`

const nixFormats = `builtins.listToAttrs (builtins.genList (i: let n = toString i; in {
  name = "s${n}";
  value = {
    command = [ "/usr/bin/svc" "--port" (toString (1000 + i)) "host:${n}" ];
    url = "http://h${n}:${n}/p";
    ini = "a = 1\nb = ${n}\n[s]\nk = v${n}\nl = 1\nl = 2\nl = 3\n[t]\nx = y\n";
  };
}) 1000)
`

// plain has no formatting.
const plain = `{
  ['s' + i]: {
    command: ['/usr/bin/svc', '--port', '' + (1000 + i), 'host:' + i],
    url: 'http://h' + i + ':' + i + '/p',
    base:: { [k]: k + i for k in ['a', 'b', 'c'] },
    more: self.base { d: i * 2 },
    list: [x + 1 for x in std.range(0, 20)],
  }
  for i in std.range(0, 4999)
}
`

// template returns a program with one long text, like a configuration file.
func template() string {
	var b strings.Builder
	b.WriteString("local v = { name: 'web', port: 80, ratio: 0.5 };\n[|||\n")
	for i := range 300 {
		fmt.Fprintf(&b, "  server %d %%(name)s listens on %%(port)05d with %%(ratio).3f\n", i)
	}
	b.WriteString("||| % v, std.length(std.asciiUpper(std.join('', [std.toString(i) for i in std.range(0, 3000)])))]\n")
	return b.String()
}

// objects nests, patches and prunes objects like those of Kubernetes.
const objects = `
local container(name, image) = { name: name, image: image, local c = self, env_:: {}, env: [{ name: k, value: c.env_[k] } for k in std.objectFields(c.env_)] };
local deployment(name) = {
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name: name, labels: { app: name, tier: null }, annotations: {} },
  spec: { replicas: 1, template: { metadata: { labels: $.metadata.labels }, spec: { containers_:: { main: container('main', name + ':latest') }, containers: std.objectValues(self.containers_) } } },
};
[
  std.prune(std.mergePatch(deployment('app-%d' % i) + { spec+: { replicas: i, template+: { spec+: { containers_+: { main+: { env_: { A: 'a', B: 'b-%03d' % i } } } } } } },
    { metadata: { annotations: { checksum: std.md5('%d' % i) } } }))
  for i in std.range(1, 500)
]
`

const comprehension = `
std.foldl(function(sum, x) sum + x, [a * b + c for a in std.range(1, 60) for b in std.range(1, 60) if (a + b) % 3 == 0 for c in std.range(1, 20)], 0)
`

const inheritance = `
local grow(n) = if n == 0 then { depth: 0, path: [] } else grow(n - 1) { depth: super.depth + 1, path: super.path + [n], ['f' + n]: self.depth };
[std.length(grow(120)), [grow(60).path for i in std.range(1, 20)]]
`

// stringWork slices, splits, escapes and searches strings.
const stringWork = `
local words = std.split(std.join(' ', ['word%d' % i for i in std.range(0, 600)]), ' ');
{
  upper: [std.asciiUpper(w)[1:4] for w in words],
  found: std.length(std.findSubstr('word1', std.join(',', words))),
  uniq: std.length(std.set([w[:5] for w in words])),
  xml: std.escapeStringXML(std.join('<&>', words)),
  python: std.manifestPython({ [w]: [w, 1, true, null] for w in words }),
}
`
