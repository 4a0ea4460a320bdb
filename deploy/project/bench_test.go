package project_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/lang"
)

// thousand is a deployment of 1,000 services in ten libraries. Each formats a
// command and a file; one in ten is required by the others.
const thousand = `
local defx = import 'defx/v1.libsonnet';
{
  name: 'thousand',
  libs: {
    ['l%%d' %% l]: {
      ['s%%d' %% i]: {
        requires: if i %% 10 == 0 then [] else { dep: 's%%d' %% (i - i %% 10) },
        service: {
          command: ['/usr/bin/svc', '--port', defx.me.port('http')],
          env: { LOG: if l == 3 && i == 7 then '%s' else 'info', UP: if i %% 10 == 0 then 'none' else '%%s:%%s' %% [defx.dep('dep').host, defx.dep('dep').port('http')] },
          files: { '/etc/svc.ini': std.manifestIni({ main: { a: '1' }, sections: { s: { k: 'v%%d' %% i } } }) },
          ports: { http: 1024 + l * 100 + i },
        },
      }
      for i in std.range(0, 99)
    }
    for l in std.range(0, 9)
  },
  machines: { box: { connect: 'dir:./box' } },
}
`

func benchWorld(b testing.TB) string {
	dir := b.TempDir()
	writeThousand(b, dir, "info")
	return dir
}

func writeThousand(b testing.TB, dir, log string) {
	if err := os.WriteFile(filepath.Join(dir, "defx.jsonnet"), fmt.Appendf(nil, thousand, log), 0o644); err != nil {
		b.Fatal(err)
	}
}

func planOnce(b *testing.B, dir string) (*project.Project, *project.Desired, *apply.Request) {
	p, err := project.Open(dir, "defx.jsonnet", "", lang.Config{}, backends.NewSet(systemd.New()))
	if err != nil {
		b.Fatal(err)
	}
	d, err := p.Evaluate(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	w := p.ApplyRequest(d)
	if _, err := p.Changes(context.Background(), d, w); err != nil {
		b.Fatal(err)
	}
	return p, d, w
}

func applyOnce(b *testing.B, dir string) {
	_, _, w := planOnce(b, dir)
	if res, err := apply.Run(context.Background(), w); err != nil || len(res.Failed) > 0 {
		b.Fatal(res, err)
	}
}

func BenchmarkFirstPlan1000(b *testing.B) {
	dir := benchWorld(b)
	for b.Loop() {
		planOnce(b, dir)
	}
}

func BenchmarkFirstApply1000(b *testing.B) {
	for b.Loop() {
		applyOnce(b, benchWorld(b))
	}
}

func BenchmarkNoOpPlan1000(b *testing.B) {
	dir := benchWorld(b)
	applyOnce(b, dir)
	for b.Loop() {
		planOnce(b, dir)
	}
}

func BenchmarkOneChangeApply1000(b *testing.B) {
	dir := benchWorld(b)
	applyOnce(b, dir)
	n := 0
	for b.Loop() {
		n++
		writeThousand(b, dir, fmt.Sprint("level", n))
		applyOnce(b, dir)
	}
}
