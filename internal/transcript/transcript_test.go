package transcript_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/defx-dev/defx/internal/transcript"
)

const page = "# A page\n\n```console\n$ mkdir -p sub; echo one   two\none two\n$ cd sub\n```\n\n```sh\nfalse\n```\n\n" +
	"```console\n$ greet\n  hello, reader\n$ touch here\n```\n"

func TestRun_CommandsShareFolderPathAndEnv(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("page.md", page, 0o644)
	write("greet", "#!/bin/sh\necho \"hello, $WHO\"\n", 0o755)
	s := transcript.Shell{Dir: dir, Path: []string{dir}, Env: []string{"WHO=reader"}}
	blocks := transcript.Blocks(t, filepath.Join(dir, "page.md"))
	if len(blocks) != 2 {
		t.Fatalf("%d blocks, want 2: %q", len(blocks), blocks)
	}
	for _, b := range blocks {
		s.Run(t, b)
	}
	if _, err := os.Stat(filepath.Join(dir, "sub/here")); err != nil {
		t.Error(err)
	}
}

// failing records failures instead of failing the test.
type failing struct {
	testing.TB
	errors int
}

func (f *failing) Errorf(string, ...any) { f.errors++ }
func (f *failing) Fatalf(string, ...any) { f.errors++; panic(f) }

func TestRun_WrongPageFails(t *testing.T) {
	for name, block := range map[string]string{
		"line that is not printed": "$ echo one\ntwo\n",
		"line of another command":  "$ echo one\n$ true\none\n",
		"command that fails":       "$ echo one; false\none\n",
	} {
		f := &failing{TB: t}
		func() {
			defer func() { _ = recover() }()
			(&transcript.Shell{Dir: t.TempDir()}).Run(f, block)
		}()
		if f.errors != 1 {
			t.Errorf("%s: %d failures, want 1", name, f.errors)
		}
	}
}
