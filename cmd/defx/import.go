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
	cmd := &cobra.Command{
		Use:               "import",
		Short:             "Make libraries of what other tools read",
		Long:              "Make libraries of what other tools read.\n\n" + exitCodes,
		Example:           "  defx import compose compose.yaml\n  defx import compose --help",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errors.New("defx import wants to know of what\n    hint: defx import compose FILE")
		},
	}
	cmd.AddCommand(importCompose(o))
	return cmd
}

func importCompose(o *options) *cobra.Command {
	var output string
	var profiles []string
	cmd := &cobra.Command{
		Use:   "compose FILE",
		Short: "Make a library of a compose file",
		Long: `Turn the services of a compose file into functionalities of a library, for the backend
docker, and list what could not be carried over. The library goes to standard output, or to
a file that is not there yet. Variables in the file are those of the environment and of .env
beside it. Images that are named by tag are pinned by ` + "`defx lock --update`" + `.

` + exitCodes,
		Example: "  defx import compose compose.yaml -o libs/shop.libsonnet\n  defx import compose compose.yaml --profile debug --json",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if output != "" {
				output = o.path(output)
				dir = filepath.Dir(output)
				if _, err := os.Lstat(output); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s is there already\n    hint: give another name after -o, or remove it", output)
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
				fmt.Fprintf(os.Stderr, "not carried over: %s: %s\n", clean(where), clean(l.Why))
			}
			if len(made.Secrets) > 0 {
				fmt.Fprintf(os.Stderr, "secrets that machines must have: %s\n", clean(strings.Join(made.Secrets, ", ")))
			}
			if len(made.Images) > 0 {
				fmt.Fprintf(os.Stderr, "%s by tag alone: defx lock --update writes down what they are now\n", plural(len(made.Images), "image"))
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the library to a new `FILE`")
	cmd.Flags().StringSliceVar(&profiles, "profile", nil, "take services of a `PROFILE` along")
	return cmd
}
