package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/inspect"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
)

type renderOptions struct {
	*globalOptions
	address string
}

func renderCommand(g *globalOptions) *cobra.Command {
	o := &renderOptions{globalOptions: g}
	return &cobra.Command{
		Use:   "render ADDRESS",
		Short: "Print the files that a unit becomes",
		Long: `Print what a unit becomes on its machine: its unit files, the settings of its container,
its host files; or the Terraform configuration of a module. Nothing is written and no
machine is contacted. defx plan --diff shows how these files change.`,
		Example: "  defx render shop/web\n  defx render module/network --json",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.address = args[0]
			return runRender(cmd.Context(), o, g.view())
		},
		ValidArgsFunction: completeUnits(g),
	}
}

// completeUnits completes the addresses of the entry file.
func completeUnits(g *globalOptions) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		p, err := g.open()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		d, err := p.Evaluate(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return inspect.Addresses(d), cobra.ShellCompDirectiveNoFileComp
	}
}

func runRender(ctx context.Context, o *renderOptions, v view) error {
	p, d, r, err := o.desired(ctx, &planFlags{}, v, (*project.Project).Evaluate)
	if err != nil {
		return err
	}
	defer v.held(d)
	out, err := inspect.Render(ctx, p, d, r, o.address)
	if err != nil {
		return err
	}
	return v.show(rendered{newHeader("Rendered"), out})
}

// rendered is printed by render.
type rendered struct {
	header
	*inspect.Rendered
}

func (r rendered) print(p *printer) {
	for i, f := range r.Files {
		if i > 0 {
			p.println()
		}
		switch {
		case f.Link != "":
			p.println(p.bold("# " + clean(f.Path) + " → " + clean(f.Link)))
		case f.Bytes > 0:
			p.println(p.bold(fmt.Sprintf("# %s (%s, %d bytes that are no text)", clean(f.Path), f.Mode, f.Bytes)))
		default:
			head := "# " + clean(f.Path)
			if f.Mode != "" {
				head += " (" + f.Mode + ")"
			}
			p.println(p.bold(head))
			for l := range strings.Lines(f.Content) {
				p.println(clean(strings.TrimSuffix(l, "\n")))
			}
		}
	}
}

// fileDiffs returns the differences of the rendered files of each action, by address.
func fileDiffs(ctx context.Context, p *project.Project, d *project.Desired, r *apply.Request, cs *plan.ChangeSet) (map[string]string, error) {
	out := map[string]string{}
	for _, a := range cs.Actions {
		changes, err := inspect.FileChanges(ctx, p, d, r, a)
		if err != nil {
			return nil, err
		}
		var b strings.Builder
		for _, c := range changes {
			b.WriteString(fileDiff(c))
		}
		if b.Len() > 0 {
			out[a.Address] = b.String()
		}
	}
	return out, nil
}

// fileDiff returns the difference of one file in the unified format.
func fileDiff(c inspect.FileChange) string {
	name := func(f *inspect.RenderedFile) string {
		if f == nil {
			return "/dev/null"
		}
		return f.Path
	}
	text := func(f *inspect.RenderedFile) []byte {
		switch {
		case f == nil:
			return nil
		case f.Link != "":
			return []byte("link to " + f.Link + "\n")
		case f.Bytes > 0:
			return []byte(fmt.Sprintf("%d bytes that are no text\n", f.Bytes))
		}
		return []byte(f.Content)
	}
	out := string(diff.Diff(name(c.Before), text(c.Before), name(c.After), text(c.After)))
	if c.Before != nil && c.After != nil && c.Before.Mode != c.After.Mode {
		out += fmt.Sprintf("mode of %s: %s → %s\n", name(c.After), c.Before.Mode, c.After.Mode)
	}
	if out == "" && name(c.Before) != name(c.After) {
		return fmt.Sprintf("%s → %s\n", name(c.Before), name(c.After))
	}
	_, out, _ = strings.Cut("\n"+out, "\ndiff ")
	if _, rest, found := strings.Cut(out, "\n"); found { // its first line repeats the names
		return rest
	}
	return out
}
