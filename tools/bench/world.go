package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// world is a deployment of many small services. Its libraries share a base
// library; their services format commands and files, and require the first
// service of their library.
type world struct {
	libraries, each int // number of libraries, and of services in each
}

const baseLibrary = `local defx = import 'defx/v1.libsonnet';
{
  service(lib, i, port, level='info'):: {
    requires: if i == 0 then {} else { head: 's0' },
    service: {
      command: ['/usr/bin/' + lib, '--name', '%s-%d' % [lib, i], '--listen', ':%s' % defx.me.port('http')],
      env: {
        LEVEL: level,
        UPSTREAM: if i == 0 then 'none' else '%s:%s' % [defx.dep('head').host, defx.dep('head').port('http')],
      },
      files: {
        ['/etc/%s/%d.ini' % [lib, i]]: std.manifestIni({
          main: { name: lib, number: i },
          sections: { log: { level: level, file: '/var/log/%s-%03d.log' % [lib, i] }, limits: { files: 1024 + i, ratio: '%.2f' % (i / 7) } },
        }),
      },
      ports: { http: port },
      limits: { memory: '%dMi' % (64 + i % 8) },
    },
  },
}
`

const library = `local base = import 'base.libsonnet';
{ ['s%%d' %% i]: base.service('l%[1]d', i, %[2]d + i, if i == 7 then '%[3]s' else 'info') for i in std.range(0, %[4]d) }
`

// libraryName returns the file name of a library.
func libraryName(l int) string { return fmt.Sprintf("lib%03d.libsonnet", l) }

// library returns the text of a library. level is a variable of one of its services.
func (w world) library(l int, level string) string {
	return fmt.Sprintf(library, l, 1024+(l*w.each)%60000, level, w.each-1)
}

// write writes the files of the world to a folder.
func (w world) write(dir string) error {
	entry := "{\n  name: 'many',\n  libs: {\n"
	for l := range w.libraries {
		entry += fmt.Sprintf("    l%d: import '%s',\n", l, libraryName(l))
	}
	entry += "  },\n  machines: {\n"
	for m := range max(2, w.libraries/10) {
		entry += fmt.Sprintf("    m%d: { connect: 'dir:./machines/m%d', address: '10.0.0.%d' },\n", m, m, m+1)
	}
	entry += "  },\n}\n"
	if err := put(dir, "defx.jsonnet", entry); err != nil {
		return err
	}
	if err := put(dir, "base.libsonnet", baseLibrary); err != nil {
		return err
	}
	for l := range w.libraries {
		if err := put(dir, libraryName(l), w.library(l, "info")); err != nil {
			return err
		}
	}
	return nil
}

// put writes a file.
func put(dir, name, text string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
}
