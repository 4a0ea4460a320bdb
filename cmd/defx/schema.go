package main

import (
	"github.com/defx-dev/defx/compile/reference"
	"github.com/spf13/cobra"
)

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of deployments",
		Long: `Print the JSON Schema (draft 2020-12) of the output of defx eval: all fields of an entry
file and of functionalities. It is generated from the types that defx decodes into.
Whether names resolve and fields fit together is checked by defx plan only.`,
		Example:           "  defx schema > defx.schema.json\n  defx schema | jq '.[\"$defs\"].service.properties | keys'",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE:              func(*cobra.Command, []string) error { return runSchema() },
	}
}

func runSchema() error {
	raw, err := reference.Schema()
	if err != nil {
		return err
	}
	_, err = stdout.Write(raw)
	return err
}
