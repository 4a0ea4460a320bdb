package main

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/spf13/cobra"
)

//go:embed init
var beginnings embed.FS

func initCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "init [DIR]",
		Short: "Create a new deployment",
		Long: `Write a small working deployment: an entry file, one library, and a folder that acts as
a machine. Existing files are never overwritten.`,
		Example: "  defx init\n  defx init shop",
		Args:    arguments(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := o.dir
			if len(args) == 1 {
				dir = filepath.Join(o.base(args[0]), args[0])
			}
			abs, err := filepath.Abs(dir)
			if err != nil {
				return err
			}
			files := []struct{ from, to string }{{"init/defx.jsonnet", "defx.jsonnet"}, {"init/hello.libsonnet", "hello/functionalities.libsonnet"}, {"init/gitignore", ".gitignore"}}
			for _, f := range files {
				if _, err := os.Lstat(filepath.Join(abs, f.to)); err == nil {
					return fmt.Errorf("%s already exists\n    hint: choose another folder: defx init DIR", filepath.Join(dir, f.to))
				} else if !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			written := []string{}
			for _, f := range files {
				raw, err := beginnings.ReadFile(f.from)
				if err != nil {
					return err
				}
				to := filepath.Join(abs, f.to)
				if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(to, []byte(strings.ReplaceAll(string(raw), "NAME", nameOf(abs))), 0o644); err != nil {
					return err
				}
				written = append(written, filepath.Join(dir, f.to))
			}
			if o.json {
				return printJSON(os.Stdout, map[string]any{"apiVersion": "defx/v1", "kind": "Initialized", "files": written})
			}
			for _, f := range written {
				fmt.Println(f)
			}
			at := ""
			if len(args) == 1 {
				at = "cd " + shellWord(dir) + " && "
			}
			fmt.Fprintf(os.Stderr, "Next: %sdefx plan, then defx apply.\n", at)
			return nil
		},
	}
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./@%+=:,-]+$`)

// shellWord quotes a word that a person may paste into a shell.
func shellWord(w string) string {
	if plainWord.MatchString(w) {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

var unnameable = regexp.MustCompile(`[^a-z0-9]+`)

// nameOf makes a deployment's name of a folder's.
func nameOf(dir string) string {
	name := strings.Trim(unnameable.ReplaceAllString(strings.ToLower(filepath.Base(dir)), "-"), "-")
	name = strings.Trim(name[:min(len(name), 42)], "-")
	if !graph.ValidName(name) {
		return "hello"
	}
	return name
}
