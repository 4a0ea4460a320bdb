package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/defx-dev/defx/internal/atomicfile"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/openfile"
	"github.com/defx-dev/defx/lang"
	"github.com/spf13/cobra"
)

type fmtOptions struct {
	*globalOptions
	check bool
	files []string // none = all below the folder of the entry file
}

func fmtCommand(g *globalOptions) *cobra.Command {
	o := &fmtOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "fmt [FILE...]",
		Short: "Format Jsonnet files",
		Long: `Rewrite Jsonnet files as jsonnetfmt would, and print the names of the files that changed.
Without FILE, all .jsonnet and .libsonnet files below the folder are formatted, except
those in vendor/ and in hidden folders.`,
		Example: "  defx fmt\n  defx fmt --check defx.jsonnet",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.files = args
			return runFmt(cmd.Context(), o, g.view())
		},
	}
	cmd.Flags().BoolVar(&o.check, "check", false, "change nothing; exit 1 if a file is not formatted")
	return cmd
}

func runFmt(ctx context.Context, o *fmtOptions, v view) error {
	var files []string
	for _, f := range o.files {
		files = append(files, o.path(f))
	}
	if len(o.files) == 0 {
		var err error
		if files, err = jsonnetFiles(filepath.Dir(o.path(o.file))); err != nil {
			return err
		}
	}
	doc, broken := formatted{header: newHeader("Formatted"), Changed: []string{}}, 0
	for _, f := range files {
		raw, err := openfile.Read(ctx, f, openfile.Small)
		if err != nil {
			return err
		}
		out, err := lang.Format(f, string(raw))
		if err != nil { // the other files are formatted nevertheless
			v.warn(err)
			broken++
			continue
		}
		if out == string(raw) {
			continue
		}
		doc.Changed = append(doc.Changed, f)
		if o.check {
			continue
		}
		info, err := os.Stat(f)
		if err != nil {
			return err
		}
		if err := atomicfile.Write(f, []byte(out), info.Mode().Perm()); err != nil {
			return err
		}
	}
	if err := v.show(doc); err != nil {
		return err
	}
	if broken > 0 {
		return diag.Errorf("", "%s with syntax errors", plural(broken, "file")).WithHint("fix the errors above")
	}
	if o.check && len(doc.Changed) > 0 {
		return diag.Errorf("", "%s not formatted", plural(len(doc.Changed), "file")).WithHint("run defx fmt")
	}
	return nil
}

// formatted is printed by fmt.
type formatted struct {
	header
	Changed []string `json:"changed"` // files
}

func (f formatted) print(p *printer) {
	for _, file := range f.Changed {
		p.println(file)
	}
}

// jsonnetFiles lists the Jsonnet files below a folder, except in vendor/ and hidden folders.
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
