package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/spf13/cobra"
)

// graphFormats are the values of graph --output.
var graphFormats = []string{"text", "json", "dot", "mermaid"}

type graphOptions struct {
	*globalOptions
	output string
	links  bool
}

func graphCommand(g *globalOptions) *cobra.Command {
	o := &graphOptions{globalOptions: g}
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
			if o.output == "json" && !o.links {
				g.json = true
			}
			return runGraph(cmd.Context(), o, g.view())
		},
	}
	cmd.Flags().BoolVar(&o.links, "links", false, "print how services reach each other")
	cmd.Flags().StringVarP(&o.output, "output", "o", "text", "`FORM`: text, json, dot or mermaid")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(graphFormats, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func runGraph(ctx context.Context, o *graphOptions, v view) error {
	p, d, _, err := o.desired(ctx, &planFlags{}, v, (*project.Project).Evaluate)
	if err != nil {
		return err
	}
	defer v.held(d)
	var doc document
	switch write := map[string]func(*printer, *graph.Graph){"text": graphText, "json": graphText, "dot": graphDot, "mermaid": graphMermaid}[o.output]; {
	case o.links:
		doc = links{newHeader("Links"), ec2.Links(d.Graph), serviceNames(d.Graph)}
	case write == nil && !o.json:
		return unknownValue("output", o.output, graphFormats...)
	default:
		if doc, err = newGraphDocument(ctx, p, d, o.json, write); err != nil {
			return err
		}
	}
	if err := v.show(doc); err != nil {
		return err
	}
	return heldError(d)
}

// links is printed by graph --links.
type links struct {
	header
	Links []ec2.Link `json:"links"`

	names *graph.Names
}

func (l links) print(p *printer) {
	for _, x := range l.Links {
		p.printf("%s → %s  %s  %s  (%s)\n", l.names.Text(x.From), l.names.Text(x.To), x.By, strings.Join(x.Ports, " "), copyable(x.Why))
	}
}

// graphDocument is printed by graph.
type graphDocument struct {
	header
	Name        string           `json:"name"`
	Environment string           `json:"environment"`
	Digest      digest.Digest    `json:"digest,omitempty"` // of everything but positions
	Services    []graphService   `json:"services"`
	Machines    []*graph.Machine `json:"machines"`
	Resources   []graphResource  `json:"resources"`

	graph *graph.Graph
	write func(*printer, *graph.Graph)
}

type graphService struct {
	Address  string              `json:"address"`
	Backend  string              `json:"backend"`
	Machine  string              `json:"machine"`
	FQDN     string              `json:"fqdn,omitempty"`
	Spec     graph.Spec          `json:"spec"`
	Requires map[string][]string `json:"requires"` // alias → addresses
	Connects map[string][]string `json:"connects"` // alias → addresses
	After    []string            `json:"after"`
	Position *diag.Position      `json:"position,omitempty"`
}

type graphResource struct {
	Address string         `json:"address"`
	Type    string         `json:"type"`
	Fields  map[string]any `json:"fields"`
}

func (g graphDocument) print(p *printer) { g.write(p, g.graph) }

// newGraphDocument makes the document of a graph. Only its JSON form has digest
// and positions.
func newGraphDocument(ctx context.Context, p *project.Project, d *project.Desired, json bool, write func(*printer, *graph.Graph)) (document, error) {
	doc := graphDocument{header: newHeader("Graph"), Name: d.Name, Environment: d.Environment, Services: []graphService{},
		Machines: append([]*graph.Machine{}, d.Graph.Machines...), Resources: []graphResource{}, graph: d.Graph, write: write}
	if !json {
		return doc, nil
	}
	for _, r := range d.Graph.Resources {
		doc.Resources = append(doc.Resources, graphResource{r.Address.String(), r.Type, r.Fields})
	}
	paths := make([][]string, len(d.Graph.Services))
	for i, s := range d.Graph.Services {
		paths[i] = s.Path
		doc.Services = append(doc.Services, graphService{Address: s.Address.String(), Backend: s.Backend, Machine: s.Machine, FQDN: s.FQDN, Spec: s.Spec,
			Requires: targetsByAlias(s.Requires), Connects: targetsByAlias(s.Connects), After: targets(s.After)})
	}
	var err error
	if doc.Digest, err = digest.Of("graph/1", doc); err != nil {
		return nil, err
	}
	for i, pos := range p.Positions(ctx, paths) {
		doc.Services[i].Position = &pos
	}
	return doc, nil
}

func targetsByAlias(edges []graph.Edge) map[string][]string {
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

// forEachArrow calls f for each edge between two services.
func forEachArrow(g *graph.Graph, f func(from, to, kind string)) {
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

// serviceNames returns the names by which output calls the services.
func serviceNames(g *graph.Graph) *graph.Names {
	names := graph.NamesOf()
	for _, s := range g.Services {
		names.Add(s.Address.String())
	}
	return names
}

func graphText(p *printer, g *graph.Graph) {
	for _, s := range g.Services {
		p.printf("%s  on %s (%s)\n", s, s.Machine, s.Backend)
		for _, e := range s.Requires {
			p.printf("    requires %s\n", e.Set)
		}
		for _, e := range s.Connects {
			p.printf("    connects %s\n", e.Set)
		}
		for _, e := range s.After {
			p.printf("    after    %s\n", e.Set)
		}
	}
	for _, r := range g.Resources {
		p.printf("%s  (%s)\n", r.Address, r.Type)
	}
}

func graphDot(p *printer, g *graph.Graph) {
	q := func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
	p.printf("digraph %s {\n  rankdir=LR;\n  node [shape=box];\n", q(g.Name))
	for _, m := range g.Machines {
		p.printf("  subgraph %s {\n    label=%s;\n", q("cluster_"+m.Name), q(m.Name))
		for _, s := range g.Services {
			if s.Machine == m.Name {
				p.printf("    %s;\n", q(s.String()))
			}
		}
		p.printf("  }\n")
	}
	names := serviceNames(g)
	line := map[string]string{"requires": "solid", "connects": "dashed", "after": "dotted"}
	forEachArrow(g, func(from, to, kind string) {
		p.printf("  %s -> %s [style=%s];\n", q(names.Text(from)), q(names.Text(to)), line[kind])
	})
	p.printf("}\n")
}

func graphMermaid(p *printer, g *graph.Graph) {
	// Mermaid cannot quote identifiers: services get a number, and their address as a label.
	id := map[string]string{}
	for i, s := range g.Services {
		id[s.Address.String()] = fmt.Sprintf("s%d", i)
	}
	p.printf("flowchart LR\n")
	for i, m := range g.Machines {
		p.printf("  subgraph m%d[\"%s\"]\n", i, m.Name)
		for _, s := range g.Services {
			if s.Machine == m.Name {
				p.printf("    %s[\"%s\"]\n", id[s.Address.String()], strings.ReplaceAll(s.String(), "#", "#35;"))
			}
		}
		p.printf("  end\n")
	}
	arrow := map[string]string{"requires": "-->", "connects": "-.->", "after": "-. after .->"}
	forEachArrow(g, func(from, to, kind string) { p.printf("  %s %s %s\n", id[from], arrow[kind], id[to]) })
}
