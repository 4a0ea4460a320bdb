package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/defx-dev/defx/lang"
	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
)

func fmtCommand(o *options) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "fmt [FILE...]",
		Short: "Format Jsonnet files",
		Long: `Rewrite Jsonnet files as jsonnetfmt would, and print the names of the files that changed.
Without FILE, all .jsonnet and .libsonnet files below the folder are formatted, except
those in vendor/ and in hidden folders.`,
		Example: "  defx fmt\n  defx fmt --check defx.jsonnet",
		RunE: func(_ *cobra.Command, args []string) error {
			var files []string
			for _, f := range args {
				files = append(files, o.path(f))
			}
			if len(args) == 0 {
				var err error
				if files, err = jsonnetFiles(filepath.Dir(o.path(o.file))); err != nil {
					return err
				}
			}
			changed, bad := []string{}, 0
			for _, f := range files {
				raw, err := os.ReadFile(f)
				if err != nil {
					return err
				}
				out, err := lang.Format(f, string(raw))
				if err != nil { // the others are formatted nevertheless
					tell(os.Stderr, err)
					bad++
					continue
				}
				if out == string(raw) {
					continue
				}
				changed = append(changed, f)
				if check {
					continue
				}
				info, err := os.Stat(f)
				if err != nil {
					return err
				}
				if err := renameio.WriteFile(f, []byte(out), info.Mode().Perm()); err != nil {
					return err
				}
			}
			if o.json {
				if err := printJSON(os.Stdout, map[string]any{"apiVersion": "defx/v1", "kind": "Formatted", "changed": changed}); err != nil {
					return err
				}
			} else {
				for _, f := range changed {
					fmt.Println(f)
				}
			}
			if bad > 0 {
				return fmt.Errorf("%s with syntax errors\n    hint: fix the errors above", plural(bad, "file"))
			}
			if check && len(changed) > 0 {
				return fmt.Errorf("%s not formatted\n    hint: run defx fmt", plural(len(changed), "file"))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "change nothing; exit 1 if a file is not formatted")
	return cmd
}

func jsonnetFiles(dir string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != dir && (name == "vendor" || strings.HasPrefix(name, ".")) {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() && (strings.HasSuffix(name, ".jsonnet") || strings.HasSuffix(name, ".libsonnet")) {
			out = append(out, p)
		}
		return nil
	})
	return out, err
}
