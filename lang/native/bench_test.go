package native_test

import (
	"testing"

	"github.com/defx-dev/defx/lang/native"
	"github.com/google/go-jsonnet"
)

// formats is a program with the formatting of a thousand services.
const formats = `{
  ['s%d' % i]: {
    command: ['/usr/bin/svc', '--port', '%d' % (1000 + i), '%s:%s' % ['host', i]],
    url: 'http://%(host)s:%(port)d/%(path)s' % { host: 'h%d' % i, port: i, path: 'p' },
    ini: std.manifestIni({ main: { a: '1', b: i }, sections: { s: { k: 'v%d' % i, l: [1, 2, 3] }, t: { x: 'y' } } }),
  }
  for i in std.range(0, 999)
}`

func BenchmarkFormats1000(b *testing.B) {
	for b.Loop() {
		vm := jsonnet.MakeVM()
		native.Install(vm, true)
		if _, err := vm.EvaluateAnonymousSnippet("formats.jsonnet", formats); err != nil {
			b.Fatal(err)
		}
	}
}
