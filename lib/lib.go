// Package lib embeds the Jsonnet library that deployments import as
// defx/v1.libsonnet, so that evaluation needs no file but the program itself.
//
// It knows file names. It refuses to know Jsonnet.
package lib

import (
	"embed"
	"strings"
)

//go:embed defx
var files embed.FS

// Prefix is the first part of the import path of every embedded file.
const Prefix = "defx/"

// Read returns an embedded file by its import path, such as "defx/v1.libsonnet".
func Read(path string) ([]byte, bool) {
	if !strings.HasPrefix(path, Prefix) {
		return nil, false
	}
	raw, err := files.ReadFile(path)
	return raw, err == nil
}

// Names returns the import paths of all embedded files, sorted.
func Names() []string {
	entries, err := files.ReadDir("defx")
	if err != nil {
		panic(err) // the directory is embedded
	}
	var out []string
	for _, e := range entries {
		out = append(out, Prefix+e.Name())
	}
	return out
}
