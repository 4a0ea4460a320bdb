package lib_test

import (
	"os"
	"testing"

	"github.com/defx-dev/defx/lib"
	"github.com/google/go-jsonnet/formatter"
)

func TestFiles_AreFormatted(t *testing.T) {
	for _, name := range lib.Names() {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		want, err := formatter.Format(name, string(raw), formatter.DefaultOptions())
		if err != nil {
			t.Fatal(err)
		}
		if string(raw) != want {
			t.Errorf("%s is not formatted with jsonnetfmt", name)
		}
	}
}

func TestRead_OnlyEmbeddedFiles(t *testing.T) {
	if _, ok := lib.Read("v1.libsonnet"); ok {
		t.Error("a file without the prefix was found")
	}
	if _, ok := lib.Read("defx/../lib.go"); ok {
		t.Error("a file outside the embedded directory was found")
	}
	if raw, ok := lib.Read("defx/v1.libsonnet"); !ok || len(raw) == 0 {
		t.Error("defx/v1.libsonnet is missing")
	}
}
