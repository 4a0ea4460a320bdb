// Package lib holds the Jsonnet library that every deployment imports as
// defx/v1.libsonnet. It is embedded, so that evaluation needs nothing but the
// program itself.
package lib

import (
	"embed"
	"strings"
)

//go:embed defx
var files embed.FS

// Prefix begins the import path of every embedded file.
const Prefix = "defx/"

// Read gives an embedded file by its import path, such as "defx/v1.libsonnet".
func Read(path string) ([]byte, bool) {
	if !strings.HasPrefix(path, Prefix) {
		return nil, false
	}
	raw, err := files.ReadFile(path)
	return raw, err == nil
}

// Names lists the import paths of all embedded files, sorted.
func Names() []string {
	entries, err := files.ReadDir("defx")
	if err != nil {
		panic(err) // the folder is embedded
	}
	var out []string
	for _, e := range entries {
		out = append(out, Prefix+e.Name())
	}
	return out
}
