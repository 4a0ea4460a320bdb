package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/defx-dev/defx/deploy/compose"
	"github.com/defx-dev/defx/internal/atomicfile"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lang"
	"github.com/spf13/cobra"
)

func importCommand(g *globalOptions) *cobra.Command {
	return commandGroup(&cobra.Command{
		Use:     "import",
		Short:   "Import configuration of other tools",
		Long:    "Convert configuration of other tools into libraries.",
		Example: "  defx import compose compose.yaml\n  defx import compose --help",
	}, importComposeCommand(g))
}

type importComposeOptions struct {
	*globalOptions
	composeFile, output string
	profiles            []string
}

func importComposeCommand(g *globalOptions) *cobra.Command {
	o := &importComposeOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "compose FILE",
		Short: "Import a Compose file as a library",
		Long: `Convert the services of a Compose file into functionalities of a library for the docker
backend, and list what could not be converted. The library is printed, or written to a
new file with -o. Variables in the file come from the environment and from the .env file
beside it. ` + "`" + `defx lock --update` + "`" + ` pins images that are named by tag.`,
		Example: "  defx import compose compose.yaml -o libs/shop.libsonnet\n  defx import compose compose.yaml --profile debug --json",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.composeFile = args[0]
			return runImportCompose(cmd.Context(), o, g.view())
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "write the library to a new `FILE`")
	cmd.Flags().StringSliceVar(&o.profiles, "profile", nil, "also import the services of a `PROFILE`")
	return cmd
}

func runImportCompose(ctx context.Context, o *importComposeOptions, v view) error {
	dir, output := ".", ""
	if o.output != "" {
		output = o.path(o.output)
		dir = filepath.Dir(output)
		if _, err := os.Lstat(output); !errors.Is(err, fs.ErrNotExist) {
			return diag.Errorf("", "%s already exists", output).WithHint("choose another name with -o, or delete the file")
		}
	}
	lib, err := compose.Read(ctx, o.path(o.composeFile), dir, os.Environ(), o.profiles)
	if err != nil {
		return err
	}
	if lib.Library, err = lang.Format("library", lib.Library); err != nil {
		return err
	}
	doc := imported{header: newHeader("Import"), Name: lib.Name, Left: append([]compose.UnsupportedField{}, lib.Unsupported...),
		Images: append([]string{}, lib.Images...), Secrets: append([]string{}, lib.Secrets...), Library: lib.Library}
	if output != "" {
		if err := atomicfile.Write(output, []byte(lib.Library), 0o644); err != nil {
			return err
		}
		doc.Library = ""
	}
	if err := v.show(doc); err != nil {
		return err
	}
	for _, l := range lib.Unsupported {
		field := l.Field
		if l.Service != "" {
			field = l.Service + "." + l.Field
		}
		v.advise("not imported: %s: %s", clean(field), clean(l.Why))
	}
	if len(lib.Secrets) > 0 {
		v.advise("secrets to provide on the machines: %s", clean(strings.Join(lib.Secrets, ", ")))
	}
	if len(lib.Images) > 0 {
		v.advise("%s named by tag only: defx lock --update pins the digests", plural(len(lib.Images), "image"))
	}
	return nil
}

// imported is printed by import compose.
type imported struct {
	header
	Name    string                     `json:"name"`
	Left    []compose.UnsupportedField `json:"left"`              // not imported
	Images  []string                   `json:"images"`            // named by tag
	Secrets []string                   `json:"secrets"`           // to provide on machines
	Library string                     `json:"library,omitempty"` // "" = written to a file
}

func (i imported) print(p *printer) { p.printf("%s", i.Library) }
