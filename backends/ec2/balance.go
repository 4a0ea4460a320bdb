package ec2

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// outputOf returns a text that reads an output of a resource.
func outputOf(resource, attr string) token.Text {
	return token.Text{{Token: &token.Token{Kind: token.Ref, Of: "set", Name: resource, Field: "output", Arg: attr}}}
}

// truncate shortens name to n characters, replacing the end with a hash.
func truncate(name string, n int) string {
	if len(name) <= n {
		return name
	}
	return strings.TrimRight(name[:n-7], "-") + "-" + digest.Bytes([]byte(name)).Hex()[:6]
}

// maxName is the maximum length of a resource's name.
const maxName = 42

// failAt adds an error about an address.
func (p *packer) failAt(a graph.Address, path []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(a.String(), format, args...).At(path...)
	p.errs = append(p.errs, e)
	return e
}

// addBalancers adds the resources of load balancers. The balancer, its listener and its target
// group share a module. Each attachment has a module of its own, because exposing a replica to
// users is a separate action.
func (p *packer) addBalancers() {
	for _, b := range p.graph.Balancers {
		before := len(p.errs)
		p.addBalancer(b)
		if b.FQDN != "" && len(p.errs) == before {
			p.addDNSRecord(b.Address, b.Path, b.FQDN, map[string]any{"alias": map[string]any{"name": outputOf(b.Address.String(), "dns_name"),
				"zoneId": outputOf(b.Address.String(), "zone_id"), "evaluateTargetHealth": false}}, nil)
		}
	}
}

// loadBalancer builds the resources of one load balancer.
type loadBalancer struct {
	*graph.Balancer
	p                *packer
	subnets          []token.Text
	vpc              *graph.Resource
	region           any
	replicas, scaled []*graph.Service // backends
	port             int              // port of all backends
	check            map[string]any   // health check; nil: by connecting
	base             string           // prefix of the names of its parts
	drain            time.Duration
}

// addBalancer adds the resources of one load balancer.
func (p *packer) addBalancer(b *graph.Balancer) {
	f := &loadBalancer{Balancer: b, p: p, subnets: b.Subnets, base: namePrefix(b.Address)}
	var err error
	if f.drain, err = time.ParseDuration(b.Drain); err != nil {
		f.drain = 30 * time.Second // the error was reported by the schema
	}
	if f.findNetwork() && f.findBackends() && f.findPort() {
		f.addAccess()
		f.addParts()
		f.addAttachments()
	}
}

// refuse adds an error about a field of the load balancer.
func (f *loadBalancer) refuse(field, format string, args ...any) *diag.Error {
	at := append(slices.Clone(f.Path), "loadBalancer")
	if field != "" {
		at = append(at, field)
	}
	return f.p.failAt(f.Address, at, format, args...)
}

// findNetwork finds the subnets and the VPC. It returns false after an error.
func (f *loadBalancer) findNetwork() bool {
	if len(f.subnets) == 0 && len(f.p.graph.EC2.Subnet) > 0 {
		f.subnets = []token.Text{f.p.graph.EC2.Subnet}
	}
	if len(f.subnets) == 0 {
		f.refuse("", "no subnet is set").WithHint("set subnets: [defx.ref('a').output('id')], or defaults: { ec2: { subnet: … } }")
		return false
	}
	in, vpc := network(f.p.graph, f.subnets[0])
	if vpc == nil {
		f.refuse("subnets", "the VPC of its subnet is not among the resources").WithHint("declare the VPC and the subnet as resources, and use defx.ref('a').output('id')")
		return false
	}
	f.vpc, f.region = vpc, in.Fields["region"]
	return true
}

// findBackends finds the services behind the balancer, which must run on instances of its VPC. It
// returns false after an error.
func (f *loadBalancer) findBackends() bool {
	for _, s := range f.p.graph.Services {
		if inSets(f.Sets, s.Address) {
			f.replicas = append(f.replicas, s)
		}
	}
	for _, s := range f.p.graph.Scaled {
		if inSets(f.Sets, s.Address) {
			f.scaled = append(f.scaled, s)
		}
	}
	for _, s := range f.replicas {
		r := f.p.graph.Resource(s.Place.Machine)
		if r == nil || r.Type != "aws.instance" {
			f.refuse("backends", "%s is not on an EC2 instance, so the load balancer cannot reach it", s).
				WithHint("set backend: 'ec2' for it, or run a load balancer as a service")
			return false
		}
		if networkOf(f.p.graph, r) != f.vpc {
			f.refuse("backends", "%s is not in the load balancer's network %s", s, f.vpc.Address).WithHint("use subnets in the network of the backends")
			return false
		}
	}
	if len(f.scaled) > 0 && f.Attach != "auto" {
		f.refuse("backends", "AWS attaches the instances of %s by itself, so they cannot be attached manually", f.scaled[0]).WithHint("set attach: 'auto'")
		return false
	}
	return true
}

// findPort finds the port of the backends, which must be the same for all. It returns false after
// an error, or if all backends are held; then the balancer is held, too.
func (f *loadBalancer) findPort() bool {
	for _, s := range slices.Concat(f.replicas, f.scaled) {
		at := s.Spec.Ports[f.Target]
		if f.port != 0 && at.Port != f.port {
			f.refuse("target", "%s has port %q as %d, but another backend has it as %d", s, f.Target, at.Port, f.port).WithHint("all backends of a load balancer must listen on the same port")
			return false
		}
		if f.port = at.Port; at.Protocol != "tcp" {
			f.refuse("target", "port %q of %s has protocol %s, but must be tcp", f.Target, s, at.Protocol).WithHint("set target to a tcp port")
			return false
		}
		if r := s.Spec.Ready; r != nil && r.HTTP != "" {
			f.check = map[string]any{"protocol": token.Lit("HTTP"), "path": token.Lit(r.HTTP), "matcher": token.Lit("200-399")}
		}
	}
	return f.port != 0
}

// Names of the parts in the graph, and in AWS (title).

func (f *loadBalancer) partAddress(name string) graph.Address {
	return graph.Address{Name: truncate(name, maxName)}
}
func (f *loadBalancer) group() graph.Address   { return f.partAddress(f.base + "-access") }
func (f *loadBalancer) targets() graph.Address { return f.partAddress(f.base + "-targets") }
func (f *loadBalancer) title() string {
	return f.p.graph.Environment + "-" + f.p.graph.Name + "-" + f.base
}

func (f *loadBalancer) add(a graph.Address, module token.Text, kind string, fields map[string]any) *graph.Resource {
	if f.p.graph.Resource(a.String()) != nil || f.p.graph.Machine(a.String()) != nil {
		f.p.failAt(f.Address, f.Path, "one of its parts would have the name %q, which is already used", a).WithHint("rename the load balancer, the machine or the resource")
	}
	fields["module"] = module
	if f.region != nil {
		fields["region"] = f.region
	}
	r := &graph.Resource{Address: a, Type: kind, Fields: fields, Path: f.Path, Held: f.Held}
	f.p.graph.Resources = append(f.p.graph.Resources, r)
	return r
}

// addAccess adds the security group and its rules. They are in the module of the VPC: the rules of
// the backends refer to the group, and are not the balancer's own.
func (f *loadBalancer) addAccess() {
	module, vpc, group := moduleOfNetwork(f.vpc), f.vpc.Address.String(), outputOf(f.group().Name, "id")
	f.add(f.group(), module, "aws.securityGroup", map[string]any{"vpc": outputOf(vpc, "id"), "name": token.Lit(f.title()),
		"description": token.Lit("made by defx: who reaches " + f.Address.String())})
	open := any(token.Lit("0.0.0.0/0"))
	if !f.Public {
		open = outputOf(vpc, "cidr_block")
	}
	f.add(f.partAddress(f.base+"-in"), module, "aws.ingressRule", map[string]any{"securityGroup": group, "cidr": open, "protocol": token.Lit("tcp"),
		"fromPort": float64(f.Listen), "toPort": float64(f.Listen)})
	f.add(f.partAddress(f.base+"-out"), module, "aws.egressRule", map[string]any{"securityGroup": group, "cidr": token.Lit("0.0.0.0/0"), "protocol": token.Lit("-1")})
	targets := map[string]string{} // backend → its security group
	for _, s := range f.replicas {
		targets[s.Place.Machine] = f.p.accessGroups[s.Place.Machine]
	}
	for _, s := range f.scaled {
		targets[namePrefix(s.Address)] = f.p.accessGroups[s.Address.String()]
	}
	for _, m := range sets.Keys(targets) {
		if targets[m] != "" {
			f.add(f.partAddress(m+"-from-"+f.base), module, "aws.ingressRule", map[string]any{"securityGroup": outputOf(targets[m], "id"), "from": group,
				"protocol": token.Lit("tcp"), "fromPort": float64(f.port), "toPort": float64(f.port)})
		}
	}
}

// addParts adds the balancer, its listener and its target group.
func (f *loadBalancer) addParts() {
	module, protocol := token.Lit(f.partAddress(f.base).Name), "TCP"
	if f.Kind == "application" {
		protocol = "HTTP"
	}
	subnets := []any{}
	for _, s := range f.subnets {
		subnets = append(subnets, s)
	}
	f.add(f.Address, module, "aws.loadBalancer", map[string]any{"name": token.Lit(truncate(f.title(), 32)), "kind": token.Lit(f.Kind), "internal": !f.Public, "subnets": subnets,
		"securityGroups": []any{outputOf(f.group().Name, "id")}})
	// A change of port or network replaces the target group. The new one is created before the old one is
	// deleted, because the listener always refers to one, so their names must differ.
	name := f.title() + "-" + digest.Bytes(fmt.Append(nil, f.port, protocol, f.vpc.Address)).Hex()[:6]
	group := map[string]any{"name": token.Lit(truncate(name, 32)), "port": float64(f.port), "protocol": token.Lit(protocol), "vpc": outputOf(f.vpc.Address.String(), "id"),
		"targetType": token.Lit("instance"), "deregistrationDelay": f.drain.Seconds(), "createBeforeDestroy": true}
	if f.check != nil {
		group["healthCheck"] = f.check
	}
	f.add(f.targets(), module, "aws.targetGroup", group)
	f.add(f.partAddress(f.base+"-listen"), module, "aws.listener", map[string]any{"loadBalancer": outputOf(f.Address.String(), "arn"), "port": float64(f.Listen), "protocol": token.Lit(protocol),
		"actions": map[string]any{"type": token.Lit("forward"), "targetGroupArn": outputOf(f.targets().Name, "arn")}})
}

// addAttachments adds a module for each replica that is attached.
func (f *loadBalancer) addAttachments() {
	targets := outputOf(f.targets().Name, "arn")
	for _, s := range f.replicas {
		a := s.Address
		name := f.partAddress(strings.Join(slices.DeleteFunc([]string{f.base, a.Lib, a.Name, a.Member, a.Replica}, func(s string) bool { return s == "" }), "-"))
		at := graph.Attachment{Module: graph.Address{Lib: graph.ModuleLib, Name: name.Name}.String(), Backend: a, Attached: f.Attach == "auto"}
		if attached, requested := f.p.state.Attach[at.Module]; requested {
			at.Attached = attached
		} else if f.p.state.Deployed(at.Module) { // it stays attached
			at.Attached = true
		}
		f.Attachments = append(f.Attachments, at)
		if !at.Attached {
			continue
		}
		r := f.add(name, token.Lit(name.Name), "aws.lbAttachment", map[string]any{"targetGroup": targets, "target": outputOf(s.Place.Machine, "id"), "port": float64(f.port), "createBeforeDestroy": true})
		r.Follows, r.Drain = []graph.Address{a}, f.drain
	}
	for _, s := range f.scaled { // AWS attaches and drains the instances of a group
		if g := f.p.graph.Resource(namePrefix(s.Address) + "-group"); g != nil {
			before, _ := g.Fields["targetGroups"].([]any)
			g.Fields["targetGroups"] = append(slices.Clone(before), targets)
		}
	}
}

// inSets reports whether an address belongs to one of the sets.
func inSets(sets []string, a graph.Address) bool {
	return slices.Contains(sets, a.Set()) || slices.Contains(sets, a.Functionality())
}

// addDNSRecords adds a DNS record for every functionality that has an fqdn and no load balancer,
// with the addresses of all instances that it runs on.
func (p *packer) addDNSRecords() {
	list := map[string][]*graph.Service{} // functionality → replicas
	for _, s := range p.graph.Services {
		if s.FQDN != "" {
			list[s.Address.Functionality()] = append(list[s.Address.Functionality()], s)
		}
	}
	for _, name := range sets.Keys(list) {
		records, follows, seen := []any{}, []graph.Address{}, map[string]bool{}
		for _, s := range list[name] {
			m, r := p.graph.Machine(s.Place.Machine), p.graph.Resource(s.Place.Machine)
			if m == nil || m.Module == "" || r == nil || r.Type != "aws.instance" {
				records = nil // a machine that defx did not make: its DNS record is not managed
				break
			}
			follows = append(follows, s.Address)
			if !seen[m.Name] {
				seen[m.Name] = true
				attr := "private_ip"
				if p.graph.EC2.Address == "public" {
					attr = "public_ip"
				}
				records = append(records, outputOf(m.Name, attr))
			}
		}
		if s := list[name][0]; len(records) > 0 {
			a := s.Address
			a.Member, a.Replica = "", ""
			p.addDNSRecord(a, s.Path, s.FQDN, map[string]any{"ttl": 60.0, "records": records}, follows)
		}
	}
	for _, s := range p.graph.Scaled {
		if s.FQDN != "" && p.zone(s.FQDN) != nil {
			p.fail(s, append(slices.Clone(s.Path), "fqdn"), "AWS creates and deletes the instances of a group, so a DNS record of their addresses would be wrong").WithHint("add a loadBalancer and set fqdn there")
		}
	}
}

// zone returns the most specific DNS zone among the resources that contains a name, or nil.
func (p *packer) zone(fqdn string) *graph.Resource {
	var out *graph.Resource
	best := 0
	for _, r := range p.graph.Resources {
		n, ok := literal(r.Fields["name"])
		n = strings.TrimSuffix(n, ".")
		if r.Type == "aws.dnsZone" && ok && len(n) > best && (fqdn == n || strings.HasSuffix(fqdn, "."+n)) {
			out, best = r, len(n)
		}
	}
	return out
}

var nameRE = regexp.MustCompile(`^(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// addDNSRecord adds a DNS record if the zone of the name is among the resources.
func (p *packer) addDNSRecord(a graph.Address, path []string, fqdn string, f map[string]any, follows []graph.Address) {
	z := p.zone(strings.TrimSuffix(fqdn, "."))
	if z == nil {
		return
	}
	if !nameRE.MatchString(fqdn) {
		p.failAt(a, append(slices.Clone(path), "fqdn"), "%q is not a valid DNS name", fqdn).WithHint("letters a-z, digits and -, separated by dots: 'shop.example.com'")
		return
	}
	if other, twice := p.dnsOwner[fqdn]; twice {
		p.failAt(a, append(slices.Clone(path), "fqdn"), "%s already has the DNS name %q", other, fqdn).WithHint("use another fqdn; only replicas of one functionality share a name")
		return
	}
	p.dnsOwner[fqdn] = a.String()
	n := truncate(namePrefix(a)+"-dns", maxName)
	if p.graph.Resource(n) != nil {
		p.failAt(a, append(slices.Clone(path), "fqdn"), "its DNS record would have the name %q, which is already used", n).WithHint("rename the resource")
		return
	}
	f["module"], f["zone"], f["name"], f["kind"] = token.Lit(n), outputOf(z.Address.String(), "zone_id"), token.Lit(fqdn), token.Lit("A")
	p.graph.Resources = append(p.graph.Resources, &graph.Resource{Address: graph.Address{Name: n}, Type: "aws.dnsRecord", Fields: f, Path: path, Follows: follows})
}
