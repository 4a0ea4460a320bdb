package main

import "github.com/spf13/cobra"

func detachCommand(g *globalOptions) *cobra.Command {
	return attachmentCommand(&attachOptions{globalOptions: g, detach: true}, &cobra.Command{
		Use:   "detach BALANCER [REPLICA...]",
		Short: "Deregister replicas from a load balancer",
		Long: `Deregister replicas from a cloud load balancer: all of them, or those named. The
command waits until their open requests may have ended. The replicas keep running.`,
		Example: "  defx detach shop/front shop/web#0\n  defx detach front --yes",
	})
}
