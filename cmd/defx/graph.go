package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/spf13/cobra"
)

type graphService struct {
	Address  string              `json:"address"`
	Backend  string              `json:"backend"`
	Machine  string              `json:"machine"`
	FQDN     string              `json:"fqdn,omitempty"`
	Spec     graph.Spec          `json:"spec"`
	Requires map[string][]string `json:"requires"`
	Connects map[string][]string `json:"connects"`
	After    []string            `json:"after"`
	Position *diag.Position      `json:"position,omitempty"`
}

type graphResource struct {
	Address string         `json:"address"`
	Type    string         `json:"type"`
	Fields  map[string]any `json:"fields"`
}

type graphDocument struct {
	APIVersion  string           `json:"apiVersion"`
	Kind        string           `json:"kind"`
	Name        string           `json:"name"`
	Environment string           `json:"environment"`
	Digest      digest.Digest    `json:"digest,omitempty"`
	Services    []graphService   `json:"services"`
	Machines    []*graph.Machine `json:"machines"`
	Resources   []graphResource  `json:"resources"`
}

func graphCommand(o *options) *cobra.Command {
	var output string
	var links bool
	cmd := &cobra.Command{
		Use:   "graph",
		Short: "Print the graph of services",
		Long: `Print the services, their machines and the connections between them as text, as JSON
(also with --json), for Graphviz (dot) or as Mermaid. With --links, print instead how
services that may talk to each other reach each other, and why.`,
		Example:           "  defx graph\n  defx graph --output mermaid",
		Args:              arguments(0, 0),
		ValidArgsFunction: noFiles,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, d, _, err := o.desired(cmd.Context(), &consent{}, (*project.Project).Evaluate)
			if err != nil {
				return err
			}
			defer printHeld(d)
			if o.json {
				output = "json"
			}
			if links {
				if err := printLinks(os.Stdout, d.Graph, o.json); err != nil {
					return err
				}
				output = "told"
			}
			switch output {
			case "told":
			case "text":
				graphText(os.Stdout, d.Graph)
			case "dot":
				graphDot(os.Stdout, d.Graph)
			case "mermaid":
				graphMermaid(os.Stdout, d.Graph)
			case "json":
				if err := graphJSON(cmd.Context(), p, d); err != nil {
					return err
				}
			default:
				return unknownValue("output", output, "text", "json", "dot", "mermaid")
			}
			if len(d.Held) > 0 {
				return &exit{code: exitPartly}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&links, "links", false, "print how services reach each other")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "`FORM`: text, json, dot or mermaid")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json", "dot", "mermaid"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// printLinks tells how services reach each other.
func printLinks(w io.Writer, g *graph.Graph, asJSON bool) error {
	list := ec2.Links(g)
	if asJSON {
		return printJSON(w, map[string]any{"apiVersion": plan.APIVersion, "kind": "Links", "links": list})
	}
	for _, l := range list {
		fmt.Fprintf(w, "%s → %s  %s  %s  (%s)\n", l.From, l.To, l.By, strings.Join(l.Ports, " "), l.Why)
	}
	return nil
}

func graphJSON(ctx context.Context, p *project.Project, d *project.Desired) error {
	doc := graphDocument{APIVersion: plan.APIVersion, Kind: "Graph", Name: d.Name, Environment: d.Environment,
		Services: []graphService{}, Machines: d.Graph.Machines, Resources: []graphResource{}}
	if doc.Machines == nil {
		doc.Machines = []*graph.Machine{}
	}
	for _, r := range d.Graph.Resources {
		doc.Resources = append(doc.Resources, graphResource{r.Address.String(), r.Type, r.Fields})
	}
	paths := make([][]string, len(d.Graph.Services))
	for i, s := range d.Graph.Services {
		paths[i] = s.Path
		doc.Services = append(doc.Services, graphService{Address: s.Address.String(), Backend: s.Backend, Machine: s.Machine, FQDN: s.FQDN, Spec: s.Spec,
			Requires: aliases(s.Requires), Connects: aliases(s.Connects), After: targets(s.After)})
	}
	var err error
	if doc.Digest, err = digest.Of("graph/1", doc); err != nil {
		return err
	}
	for i, pos := range p.Positions(ctx, paths) {
		doc.Services[i].Position = &pos
	}
	return printJSON(os.Stdout, doc)
}

func aliases(edges []graph.Edge) map[string][]string {
	out := map[string][]string{}
	for _, e := range edges {
		out[e.Alias] = targets([]graph.Edge{e})
	}
	return out
}

func targets(edges []graph.Edge) []string {
	out := []string{}
	for _, e := range edges {
		for _, to := range e.To {
			out = append(out, to.String())
		}
	}
	return out
}

// arrows calls f for each set that a service leads to, once a kind.
func arrows(g *graph.Graph, f func(from, to, kind string)) {
	for _, s := range g.Services {
		for _, k := range []struct {
			kind  string
			edges []graph.Edge
		}{{"requires", s.Requires}, {"connects", s.Connects}, {"after", s.After}} {
			for _, e := range k.edges {
				for _, to := range e.To {
					f(s.Address.String(), to.String(), k.kind)
				}
			}
		}
	}
}

func graphText(w io.Writer, g *graph.Graph) {
	for _, s := range g.Services {
		fmt.Fprintf(w, "%s  on %s (%s)\n", s.Address, s.Machine, s.Backend)
		for _, e := range s.Requires {
			fmt.Fprintf(w, "    requires %s\n", e.Set)
		}
		for _, e := range s.Connects {
			fmt.Fprintf(w, "    connects %s\n", e.Set)
		}
		for _, e := range s.After {
			fmt.Fprintf(w, "    after    %s\n", e.Set)
		}
	}
	for _, r := range g.Resources {
		fmt.Fprintf(w, "%s  (%s)\n", r.Address, r.Type)
	}
}

func graphDot(w io.Writer, g *graph.Graph) {
	q := func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
	fmt.Fprintf(w, "digraph %s {\n  rankdir=LR;\n  node [shape=box];\n", q(g.Name))
	for _, m := range g.Machines {
		fmt.Fprintf(w, "  subgraph %s {\n    label=%s;\n", q("cluster_"+m.Name), q(m.Name))
		for _, s := range g.Services {
			if s.Machine == m.Name {
				fmt.Fprintf(w, "    %s;\n", q(s.Address.String()))
			}
		}
		fmt.Fprint(w, "  }\n")
	}
	style := map[string]string{"requires": "solid", "connects": "dashed", "after": "dotted"}
	arrows(g, func(from, to, kind string) {
		fmt.Fprintf(w, "  %s -> %s [style=%s];\n", q(from), q(to), style[kind])
	})
	fmt.Fprint(w, "}\n")
}

func graphMermaid(w io.Writer, g *graph.Graph) {
	// Names in Mermaid cannot be quoted: services are numbered, and bear their address as a label.
	id := map[string]string{}
	for i, s := range g.Services {
		id[s.Address.String()] = fmt.Sprintf("s%d", i)
	}
	fmt.Fprint(w, "flowchart LR\n")
	for i, m := range g.Machines {
		fmt.Fprintf(w, "  subgraph m%d[\"%s\"]\n", i, m.Name)
		for _, s := range g.Services {
			if s.Machine == m.Name {
				fmt.Fprintf(w, "    %s[\"%s\"]\n", id[s.Address.String()], strings.ReplaceAll(s.Address.String(), "#", "#35;"))
			}
		}
		fmt.Fprint(w, "  end\n")
	}
	arrow := map[string]string{"requires": "-->", "connects": "-.->", "after": "-. after .->"}
	arrows(g, func(from, to, kind string) { fmt.Fprintf(w, "  %s %s %s\n", id[from], arrow[kind], id[to]) })
}
