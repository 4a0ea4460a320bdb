package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/defx-dev/defx/deploy/compose"
	"github.com/defx-dev/defx/lang"
	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
)

func importCommand(o *options) *cobra.Command {
	return commandGroup(&cobra.Command{
		Use:     "import",
		Short:   "Import configuration of other tools",
		Long:    "Convert configuration of other tools into libraries.",
		Example: "  defx import compose compose.yaml\n  defx import compose --help",
	}, importCompose(o))
}

func importCompose(o *options) *cobra.Command {
	var output string
	var profiles []string
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
			dir := "."
			if output != "" {
				output = o.path(output)
				dir = filepath.Dir(output)
				if _, err := os.Lstat(output); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s already exists\n    hint: choose another name with -o, or delete the file", output)
				}
			}
			made, err := compose.Read(cmd.Context(), o.path(args[0]), dir, os.Environ(), profiles)
			if err != nil {
				return err
			}
			if made.Library, err = lang.Format("library", made.Library); err != nil {
				return err
			}
			if output != "" {
				if err := renameio.WriteFile(output, []byte(made.Library), 0o644); err != nil {
					return err
				}
			}
			if o.json {
				doc := map[string]any{"apiVersion": "defx/v1", "kind": "Import", "name": made.Name, "left": append([]compose.UnsupportedField{}, made.Unsupported...),
					"images": append([]string{}, made.Images...), "secrets": append([]string{}, made.Secrets...)}
				if output == "" {
					doc["library"] = made.Library
				}
				return printJSON(os.Stdout, doc)
			}
			if output == "" {
				fmt.Print(made.Library)
			}
			for _, l := range made.Unsupported {
				where := l.Field
				if l.Service != "" {
					where = l.Service + "." + l.Field
				}
				fmt.Fprintf(os.Stderr, "not imported: %s: %s\n", clean(where), clean(l.Why))
			}
			if len(made.Secrets) > 0 {
				fmt.Fprintf(os.Stderr, "secrets to provide on the machines: %s\n", clean(strings.Join(made.Secrets, ", ")))
			}
			if len(made.Images) > 0 {
				fmt.Fprintf(os.Stderr, "%s named by tag only: defx lock --update pins the digests\n", plural(len(made.Images), "image"))
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the library to a new `FILE`")
	cmd.Flags().StringSliceVar(&profiles, "profile", nil, "also import the services of a `PROFILE`")
	return cmd
}
