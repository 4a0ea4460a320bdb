package main

import "github.com/spf13/cobra"

func machineCommand(g *globalOptions) *cobra.Command {
	return commandGroup(&cobra.Command{
		Use:   "machine",
		Short: "Inspect machines, repair or forget them",
		Long: `List the machines of a deployment, show one with its units, list the changes made on it,
show the ssh host keys of machines, repair the records on a machine, or
forget one that is gone.`,
		Example: "  defx machine list\n  defx machine show web1",
	}, machineListCommand(g), machineShowCommand(g), machineScanCommand(g), machineHistoryCommand(g), machineRepairCommand(g), machineForgetCommand(g))
}
