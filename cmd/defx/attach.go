package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

func attachCommand(o *options) *cobra.Command {
	return o.attachment(true, &cobra.Command{
		Use:   "attach BALANCER [REPLICA...]",
		Short: "Register replicas with a load balancer",
		Long: `Register deployed replicas with a cloud load balancer: all of them, or those named.
From then on users reach them. Nothing else is changed, even if the entry file differs
from what is deployed. A replica stays registered until detach; when a change stops it,
it is deregistered first and registered again when it is ready.`,
		Example: "  defx attach shop/front\n  defx attach front shop/web#0 --yes",
	})
}

func detachCommand(o *options) *cobra.Command {
	return o.attachment(false, &cobra.Command{
		Use:   "detach BALANCER [REPLICA...]",
		Short: "Deregister replicas from a load balancer",
		Long: `Deregister replicas from a cloud load balancer: all of them, or those named. The
command waits until their open requests may have ended. The replicas keep running.`,
		Example: "  defx detach shop/front shop/web#0\n  defx detach front --yes",
	})
}

func (o *options) attachment(on bool, cmd *cobra.Command) *cobra.Command {
	var pc pace
	cmd.Args = arguments(1, 1000)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		p, err := o.open()
		if err != nil {
			return err
		}
		d, err := p.Evaluate(ctx)
		if err != nil {
			return err
		}
		b, err := d.Balancer(args[0])
		if err != nil {
			return err
		}
		chosen, err := behind(b, args[1:])
		if err != nil {
			return err
		}
		if !on && b.Attach == "auto" {
			return diag.Errorf(b.Address.String(), "it has attach: 'auto', so the next apply would register the replicas again").WithHint("set attach: 'manual', or remove the replica from the deployment")
		}
		p.Attach = map[string]bool{}
		for _, a := range chosen {
			p.Attach[a.Module] = on
		}
		if d, err = p.Evaluate(ctx); err != nil {
			return err
		}
		w, err := p.Attaching(ctx, d, chosen)
		if err != nil {
			return err
		}
		title, question := "register with %s", "Attach? [y/N] "
		if !on {
			title, question = "deregister from %s", "Detach? [y/N] "
		}
		return o.without(ctx, w, &pc, fmt.Sprintf("%s (%s): "+title, d.Name, d.Environment, b.Address), question, "y")
	}
	pc.flags(cmd.Flags())
	o.completeBalancers(cmd)
	return cmd
}

// behind chooses replicas of a balancer by their addresses, or by those of their sets.
func behind(b *graph.Balancer, names []string) ([]graph.Attachment, error) {
	if len(names) == 0 {
		return b.Attachments, nil
	}
	var out []graph.Attachment
	var known []string
	for _, a := range b.Attachments {
		known = append(known, a.Backend.String())
	}
	for _, n := range names {
		found := false
		for _, a := range b.Attachments {
			if n == a.Backend.String() || n == a.Backend.Set() || n == a.Backend.Functionality() {
				out, found = append(out, a), true
			}
		}
		if !found {
			e := diag.Errorf(b.Address.String(), "%q is not one of its backends", n)
			if e.WithHint("%s", diag.Suggest(n, known)); e.Hint == "" {
				e.WithHint("choose from %s", strings.Join(known, ", "))
			}
			return nil, e
		}
	}
	return out, nil
}

// completeBalancers completes a balancer, and then its replicas.
func (o *options) completeBalancers(cmd *cobra.Command) {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		p, err := o.open()
		var d *project.Desired
		if err == nil {
			d, err = p.Evaluate(cmd.Context())
		}
		var out []string
		if err == nil && len(args) == 0 {
			for _, b := range d.Graph.Balancers {
				out = append(out, b.Address.String())
			}
		} else if err == nil {
			if b, err := d.Balancer(args[0]); err == nil {
				for _, a := range b.Attachments {
					out = append(out, a.Backend.String())
				}
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// printApart tells which replicas wait for somebody to put them behind their balancer.
func printApart(w io.Writer, g *graph.Graph) {
	for _, b := range g.Balancers {
		var names []string
		for _, a := range b.Attachments {
			if !a.Attached {
				names = append(names, a.Backend.String())
			}
		}
		if len(names) > 0 {
			fmt.Fprintf(w, "not registered with %s: %s\n    hint: run defx attach %s once they are deployed; attach: 'auto' does so automatically\n", b.Address, strings.Join(names, ", "), b.Address)
		}
	}
}
