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
	profiles, vars      []string
	fromHere            bool
}

func importComposeCommand(g *globalOptions) *cobra.Command {
	o := &importComposeOptions{globalOptions: g}
	cmd := &cobra.Command{
		Use:   "compose FILE",
		Short: "Import a Compose file as a library",
		Long: `Convert the services of a Compose file into functionalities of a library for the docker
backend, and list what could not be converted. The library is printed, or written to a
new file with -o. Nothing is read but the files of the Compose file's folder: variables
get their values from --var; --env-from-here also copies those of the environment and of
the .env file beside it into the library, and lists them. Files outside of the folder are
refused. ` + "`" + `defx lock --update` + "`" + ` pins images that are named by tag.`,
		Example: "  defx import compose compose.yaml -o libs/shop.libsonnet\n  defx import compose compose.yaml --var TAG=1.2\n  defx import compose compose.yaml --profile debug --json",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.composeFile = args[0]
			return runImportCompose(cmd.Context(), o, g.view())
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "write the library to a new `FILE`")
	cmd.Flags().StringArrayVar(&o.vars, "var", nil, "value of a variable, `NAME=VALUE`")
	cmd.Flags().BoolVar(&o.fromHere, "env-from-here", false, "copy variables of this environment and of .env")
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
	lib, err := compose.Read(ctx, o.path(o.composeFile), compose.Options{Out: dir, Vars: o.vars, FromHere: o.fromHere, Profiles: o.profiles})
	if err != nil {
		return err
	}
	if lib.Library, err = lang.Format("library", lib.Library); err != nil {
		return err
	}
	doc := imported{header: newHeader("Import"), Name: lib.Name, Left: append([]compose.UnsupportedField{}, lib.Unsupported...),
		Images: append([]string{}, lib.Images...), Secrets: append([]string{}, lib.Secrets...), Needs: append([]compose.Need{}, lib.Needs...), Library: lib.Library}
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
	for _, n := range lib.Needs {
		if n.Denied {
			v.advise("%s needs %s: the entry file must allow it, with allow: { 'LIBRARY/%s': ['%s'] }", clean(n.Service), clean(n.Need), clean(n.Service), n.Kind)
		} else {
			v.advise("%s needs %s", clean(n.Service), clean(n.Need))
		}
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
	Needs   []compose.Need             `json:"needs"`             // rights beyond those of a container
	Library string                     `json:"library,omitempty"` // "" = written to a file
}

func (i imported) print(p *printer) { p.printf("%s", i.Library) }
