package main

import "github.com/spf13/cobra"

func machineCommand(g *globalOptions) *cobra.Command {
	return commandGroup(&cobra.Command{
		Use:   "machine",
		Short: "Inspect machines",
		Long: `List the machines of a deployment, show one with its units, list the changes made on it,
or show the ssh host keys of machines.`,
		Example: "  defx machine list\n  defx machine show web1",
	}, machineListCommand(g), machineShowCommand(g), machineScanCommand(g), machineHistoryCommand(g))
}
