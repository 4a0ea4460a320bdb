package main

import (
	"os"

	"github.com/defx-dev/defx/compile/reference"
	"github.com/spf13/cobra"
)

func schemaCommand(*options) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the contract as JSON Schema",
		Long: `Print what an entry file and its functionalities may say, as JSON Schema (draft 2020-12)
of what defx eval prints. It is made of the types that defx decodes into, so it knows
every field; whether names resolve and fields go together, defx plan alone tells.

` + exitCodes,
		Example: "  defx schema > defx.schema.json\n  defx schema | jq '.[\"$defs\"].service.properties | keys'",
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			raw, err := reference.Schema()
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(raw)
			return err
		},
		ValidArgsFunction: noFiles,
	}
}
