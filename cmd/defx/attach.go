package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

// attachOptions are those of attach and of detach.
type attachOptions struct {
	*globalOptions
	applyFlags
	detach   bool
	balancer string
	replicas []string // addresses, or those of their sets; none = all
}

func attachCommand(g *globalOptions) *cobra.Command {
	return attachmentCommand(&attachOptions{globalOptions: g}, &cobra.Command{
		Use:   "attach BALANCER [REPLICA...]",
		Short: "Register replicas with a load balancer",
		Long: `Register deployed replicas with a cloud load balancer: all of them, or those named.
From then on users reach them. Nothing else is changed, even if the entry file differs
from what is deployed. A replica stays registered until detach; when a change stops it,
it is deregistered first and registered again when it is ready.`,
		Example: "  defx attach shop/front\n  defx attach front shop/web#0 --yes",
	})
}

// attachmentCommand completes the command attach or detach.
func attachmentCommand(o *attachOptions, cmd *cobra.Command) *cobra.Command {
	cmd.Args = arguments(1, 1000)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.balancer, o.replicas = args[0], args[1:]
		return runAttach(cmd.Context(), o, o.view())
	}
	o.applyFlags.addFlags(cmd.Flags())
	cmd.ValidArgsFunction = o.completeBalancers
	return cmd
}

func runAttach(ctx context.Context, o *attachOptions, v view) error {
	p, err := o.open()
	if err != nil {
		return err
	}
	d, err := p.Evaluate(ctx)
	if err != nil {
		return err
	}
	b, err := d.Balancer(o.balancer)
	if err != nil {
		return err
	}
	chosen, err := chooseReplicas(b, o.replicas)
	if err != nil {
		return err
	}
	if o.detach && b.Attach == "auto" {
		return diag.Errorf(b.Address.String(), "it has attach: 'auto', so the next apply would register the replicas again").
			WithHint("set attach: 'manual', or remove the replica from the deployment")
	}
	p.Attach = map[string]bool{}
	for _, a := range chosen {
		p.Attach[a.Module] = !o.detach
	}
	if d, err = p.Evaluate(ctx); err != nil {
		return err
	}
	r, err := p.AttachRequest(ctx, d, chosen)
	if err != nil {
		return err
	}
	o.skip = true // nothing else is changed
	title, question := "register with %s", "Attach? [y/N] "
	if o.detach {
		title, question = "deregister from %s", "Detach? [y/N] "
	}
	return confirmAndExecute(ctx, r, &o.applyFlags, v, confirmation{fmt.Sprintf("%s (%s): "+title, d.Name, d.Environment, b.Address), question, "y"})
}

// chooseReplicas returns the replicas of a balancer that have the addresses, or
// whose sets have them; without addresses all.
func chooseReplicas(b *graph.Balancer, addresses []string) ([]graph.Attachment, error) {
	if len(addresses) == 0 {
		return b.Attachments, nil
	}
	var chosen []graph.Attachment
	var known []string
	for _, a := range b.Attachments {
		known = append(known, a.Backend.String())
	}
	for _, n := range addresses {
		found := false
		for _, a := range b.Attachments {
			if n == a.Backend.String() || n == a.Backend.Set() || n == a.Backend.Functionality() {
				chosen, found = append(chosen, a), true
			}
		}
		if !found {
			hint := diag.Suggest(n, known)
			if hint == "" {
				hint = "choose from " + strings.Join(known, ", ")
			}
			return nil, diag.Errorf(b.Address.String(), "%q is not one of its backends", n).WithHint("%s", hint)
		}
	}
	return chosen, nil
}

// completeBalancers completes a balancer, and after it its replicas.
func (o *attachOptions) completeBalancers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var out []string
	p, err := o.open()
	var d *project.Desired
	if err == nil {
		d, err = p.Evaluate(cmd.Context())
	}
	switch {
	case err != nil:
	case len(args) == 0:
		for _, b := range d.Graph.Balancers {
			out = append(out, b.Address.String())
		}
	default:
		if b, err := d.Balancer(args[0]); err == nil {
			for _, a := range b.Attachments {
				out = append(out, a.Backend.String())
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// adviseUnattached lists the replicas that attach would register with their
// balancer. A plan without changes stays one line.
func adviseUnattached(v view, d *project.Desired, cs *plan.ChangeSet) {
	if cs.Empty() {
		return
	}
	for _, b := range d.Graph.Balancers {
		var names []string
		for _, a := range b.Attachments {
			if !a.Attached {
				names = append(names, a.Backend.String())
			}
		}
		if len(names) > 0 {
			v.advise("not registered with %s: %s\n    hint: run defx attach %s once they are deployed; attach: 'auto' does so automatically", b.Address, strings.Join(names, ", "), b.Address)
		}
	}
}
