package ec2

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// Link is the way in which one service reaches another.
type Link struct {
	From  string   `json:"from"`
	To    string   `json:"to"`
	By    string   `json:"by"` // loopback, vpc, balancer, network, or the target's ec2.allow
	Why   string   `json:"why"`
	Ports []string `json:"ports"` // sorted
}

// Links returns, for all services that may connect to each other, how they do it and why.
func Links(g *graph.Graph) []Link {
	out := []Link{}
	for _, s := range g.Services {
		for _, e := range slices.Concat(s.Requires, s.Connects) {
			for _, to := range e.To {
				t := g.Find(to)
				if t == nil || t.Machine == "" {
					continue
				}
				l := Link{From: s.Address.String(), To: to.String(), By: "network", Why: "at least one machine was not made by defx, so the network between them is unknown", Ports: ports(t)}
				a, b := g.Machine(s.Machine), g.Machine(t.Machine)
				switch {
				case s.Machine == t.Machine:
					l.By, l.Why = "loopback", "both run on "+s.Machine
				case a != nil && b != nil && a.Module != "" && b.Module != "" && vpc(g, a) != "" && vpc(g, a) == vpc(g, b):
					l.By, l.Why = "vpc", "both are in "+vpc(g, a)+": the security group of "+b.Name+" admits "+a.Name
				case a != nil && b != nil && a.Module != "" && b.Module != "" && vpc(g, a) != "" && vpc(g, b) != "":
					allow := struct{ Allow string }{}
					json.Unmarshal(t.EC2, &allow)
					l.By, l.Why = allow.Allow, t.Address.Functionality()+" allows it, from "+vpc(g, a)+" to "+vpc(g, b)
				}
				out = append(out, l)
			}
		}
	}
	for _, b := range g.Balancers {
		for _, a := range b.Attachments {
			t := g.Find(a.Backend)
			if t == nil {
				continue
			}
			l := Link{From: b.Address.String(), To: a.Backend.String(), By: "balancer", Why: "attached: the security group of " + t.Machine + " admits it", Ports: []string{fmt.Sprintf("tcp/%d", t.Spec.Ports[b.Target].Port)}}
			if !a.Attached {
				l.Why = "not attached: run defx attach " + l.From
			}
			out = append(out, l)
		}
	}
	slices.SortStableFunc(out, func(a, b Link) int { return strings.Compare(a.From+" "+a.To, b.From+" "+b.To) })
	return slices.CompactFunc(out, func(a, b Link) bool { return a.From == b.From && a.To == b.To })
}

// ports returns the ports of a service as PROTOCOL/NUMBER, sorted, each once.
func ports(s *graph.Service) []string {
	var out []string
	for _, n := range sets.Keys(s.Spec.Ports) {
		out = append(out, fmt.Sprintf("%s/%d", s.Spec.Ports[n].Protocol, s.Spec.Ports[n].Port))
	}
	return sets.Union(out)
}

// vpc returns the address of a machine's VPC, or "" if the machine was not made by defx or its VPC
// is not among the resources.
func vpc(g *graph.Graph, m *graph.Machine) string {
	r := g.Resource(m.Name)
	if r == nil {
		return ""
	}
	_, v := network(g, r.Fields["subnet"])
	if v == nil {
		return ""
	}
	return v.Address.String()
}

// network returns the subnet that a field reads, and its VPC.
func network(g *graph.Graph, field any) (subnet, vpc *graph.Resource) {
	if subnet = resourceOf(g, field); subnet == nil || subnet.Type != "aws.subnet" {
		return nil, nil
	}
	if vpc = resourceOf(g, subnet.Fields["vpc"]); vpc != nil && vpc.Type != "aws.vpc" {
		vpc = nil
	}
	return subnet, vpc
}

// resourceOf returns the resource that a field reads, or nil.
func resourceOf(g *graph.Graph, field any) *graph.Resource {
	t, ok := field.(token.Text)
	if !ok || len(t) != 1 || t[0].Token == nil {
		return nil
	}
	return g.Resource(t[0].Token.Name)
}

// addSecurityGroups adds a security group for each instance whose VPC is known. It admits what the
// edges of the graph require, and nothing else.
func (p *packer) addSecurityGroups() {
	groups := p.accessGroups
	var resources []*graph.Resource
	for _, m := range p.graph.Machines {
		r := p.graph.Resource(m.Name)
		if m.Module == "" || r == nil {
			continue
		}
		_, v := network(p.graph, r.Fields["subnet"])
		if v == nil {
			continue
		}
		name := m.Name + "-access"
		groups[m.Name] = name
		add := func(name, kind string, f map[string]any) {
			f["module"], f["region"] = moduleOfNetwork(v), r.Fields["region"]
			resources = append(resources, &graph.Resource{Address: graph.Address{Name: name}, Type: kind, Fields: f, Path: r.Path})
		}
		add(name, "aws.securityGroup", map[string]any{"vpc": outputOf(v.Address.String(), "id"), "name": token.Lit(p.graph.Environment + "-" + p.graph.Name + "-" + m.Name),
			"description": token.Lit("made by defx: what services on " + m.Name + " are reached by")})
		add(m.Name+"-out", "aws.egressRule", map[string]any{"securityGroup": outputOf(name, "id"), "cidr": token.Lit("0.0.0.0/0"), "protocol": token.Lit("-1")})
		from := p.graph.EC2.SSHFrom
		if len(from) == 0 {
			if s, ok := literal(v.Fields["cidr"]); ok {
				from = []string{s}
			}
		}
		for i, cidr := range from {
			add(fmt.Sprintf("%s-ssh-%d", m.Name, i), "aws.ingressRule", map[string]any{"securityGroup": outputOf(name, "id"), "cidr": token.Lit(cidr),
				"protocol": token.Lit("tcp"), "fromPort": 22.0, "toPort": 22.0})
		}
		existing, _ := r.Fields["securityGroups"].([]any)
		r.Fields["securityGroups"] = append(slices.Clone(existing), outputOf(name, "id"))
	}
	for _, s := range p.graph.Scaled {
		t, g := p.graph.Resource(namePrefix(s.Address)+"-boot"), p.graph.Resource(namePrefix(s.Address)+"-group")
		v := networkOfGroup(p.graph, g)
		if t == nil || v == nil {
			continue
		}
		name := truncate(namePrefix(s.Address)+"-access", maxName)
		groups[s.Address.String()] = name
		for name, r := range map[string]*graph.Resource{
			name: {Type: "aws.securityGroup", Fields: map[string]any{"vpc": outputOf(v.Address.String(), "id"), "name": token.Lit(p.graph.Environment + "-" + p.graph.Name + "-" + namePrefix(s.Address)),
				"description": token.Lit("made by defx: what " + s.Address.String() + " is reached by")}},
			truncate(namePrefix(s.Address)+"-out", maxName): {Type: "aws.egressRule", Fields: map[string]any{"securityGroup": outputOf(name, "id"), "cidr": token.Lit("0.0.0.0/0"), "protocol": token.Lit("-1")}},
		} {
			r.Address, r.Path = graph.Address{Name: name}, s.Path
			r.Fields["module"], r.Fields["region"] = moduleOfNetwork(v), g.Fields["region"]
			resources = append(resources, r)
		}
		t.Fields["securityGroups"] = []any{outputOf(name, "id")}
	}
	type connection struct{ from, to, port string }
	open := map[string]string{} // port and machine → how other networks reach it
	seen := map[connection]bool{}
	for _, s := range slices.Concat(p.graph.Services, p.graph.Scaled) {
		self := s.Place.Machine
		if slices.Contains(p.graph.Scaled, s) {
			self = s.Address.String()
		}
		from := groups[self]
		for _, e := range slices.Concat(s.Requires, s.Connects) {
			for _, a := range e.To {
				t := p.graph.Find(a)
				if t == nil || from == "" || groups[t.Place.Machine] == "" || t.Place.Machine == self {
					continue
				}
				here, there := networkOfGroup(p.graph, p.graph.Resource(namePrefix(s.Address)+"-group")), networkOf(p.graph, p.graph.Resource(t.Place.Machine))
				if self == s.Place.Machine {
					here = networkOf(p.graph, p.graph.Resource(self))
				}
				if here != there {
					if p.allow[a.String()] == "" && !s.Held {
						p.fail(s, s.Path, "connects to %s in network %s from network %s, but there is no connection between these networks", a, there.Address, here.Address).
							WithHint("place both in one location; or set in %s ec2: { allow: 'ipsec' } if there is a tunnel, or ec2: { allow: 'public' } to admit everyone", a.Functionality())
					}
					for _, port := range ports(t) {
						open[port+" "+t.Place.Machine] = p.allow[a.String()]
					}
					continue
				}
				for _, port := range ports(t) {
					seen[connection{self, t.Place.Machine, port}] = true
				}
			}
		}
	}
	for _, w := range slices.SortedFunc(maps.Keys(seen), func(a, b connection) int {
		return strings.Compare(a.to+" "+a.port+" "+a.from, b.to+" "+b.port+" "+b.from)
	}) {
		r := p.graph.Resource(w.to)
		protocol, number, _ := strings.Cut(w.port, "/")
		var n float64
		fmt.Sscan(number, &n)
		name := truncate(fmt.Sprintf("%s-%s-%s-%s", w.to, protocol, number, strings.ReplaceAll(w.from, "/", "-")), maxName)
		resources = append(resources, &graph.Resource{Address: graph.Address{Name: name}, Type: "aws.ingressRule", Path: r.Path, Fields: map[string]any{
			"module": moduleOfNetwork(networkOf(p.graph, r)), "region": r.Fields["region"], "securityGroup": outputOf(groups[w.to], "id"), "from": outputOf(groups[w.from], "id"),
			"protocol": token.Lit(protocol), "fromPort": n, "toPort": n}})
	}
	for _, k := range sets.Keys(open) {
		port, machine, _ := strings.Cut(k, " ")
		protocol, number, _ := strings.Cut(port, "/")
		var n float64
		fmt.Sscan(number, &n)
		r, cidr := p.graph.Resource(machine), "0.0.0.0/0"
		if open[k] == "ipsec" { // traffic from a tunnel has a private address
			cidr = "10.0.0.0/8"
		}
		resources = append(resources, &graph.Resource{Address: graph.Address{Name: fmt.Sprintf("%s-%s-%s-%s", machine, protocol, number, open[k])}, Type: "aws.ingressRule", Path: r.Path, Fields: map[string]any{
			"module": moduleOfNetwork(networkOf(p.graph, r)), "region": r.Fields["region"],
			"securityGroup": outputOf(groups[machine], "id"),
			"cidr":          token.Lit(cidr), "protocol": token.Lit(protocol), "fromPort": n, "toPort": n}})
	}
	p.graph.Resources = append(p.graph.Resources, resources...)
	p.graph.Sort()
}

// networkOf returns the VPC of an instance, or nil if it is not among the resources.
func networkOf(g *graph.Graph, instance *graph.Resource) *graph.Resource {
	_, v := network(g, instance.Fields["subnet"])
	return v
}

// networkOfGroup returns the VPC of a scaled service's instances, or nil if it is not among the
// resources.
func networkOfGroup(g *graph.Graph, r *graph.Resource) *graph.Resource {
	if r == nil {
		return nil
	}
	subnets, _ := r.Fields["subnets"].([]any)
	if len(subnets) == 0 {
		return nil
	}
	_, v := network(g, subnets[0])
	return v
}

// moduleOfNetwork returns the module for the security groups in a VPC: that of the VPC, because
// groups of two pools may refer to each other, but their modules must not.
func moduleOfNetwork(vpc *graph.Resource) token.Text {
	if s, ok := literal(vpc.Fields["module"]); ok {
		return token.Lit(s)
	}
	return token.Lit(resourceTypes["aws.vpc"].module)
}
