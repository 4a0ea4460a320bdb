package ec2

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// outputOf is what a field says that reads one output of a resource.
func outputOf(resource, attr string) token.Text {
	return token.Text{{Token: &token.Token{Kind: token.Ref, Of: "set", Name: resource, Field: "output", Arg: attr}}}
}

// truncate keeps a name within n letters; what is cut off is told by a few of its digest.
func truncate(name string, n int) string {
	if len(name) <= n {
		return name
	}
	return strings.TrimRight(name[:n-7], "-") + "-" + digest.Bytes([]byte(name)).Hex()[:6]
}

// maxName is how long a name may be.
const maxName = 42

func (p *packer) failAt(a graph.Address, path []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(a.String(), format, args...).At(path...)
	p.errs = append(p.errs, e)
	return e
}

// addBalancers makes resources of balancers: the balancer with its listener and
// target group in one module, and each attachment in a module of its own,
// because to come before users is a deed of its own.
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

// loadBalancer is a balancer on its way to resources.
type loadBalancer struct {
	*graph.Balancer
	p                *packer
	subnets          []token.Text
	vpc              *graph.Resource
	region           any
	replicas, scaled []*graph.Service // its backends
	port             int              // on which they listen
	check            map[string]any   // how it asks whether they are well; nil: by connecting
	base             string           // begins the names of its parts
	drain            time.Duration
}

func (p *packer) addBalancer(b *graph.Balancer) {
	f := &loadBalancer{Balancer: b, p: p, subnets: b.Subnets, base: namePrefix(b.Address)}
	var err error
	if f.drain, err = time.ParseDuration(b.Drain); err != nil {
		f.drain = 30 * time.Second // it was refused already
	}
	if f.findNetwork() && f.findBackends() && f.findPort() {
		f.addAccess()
		f.addParts()
		f.addAttachments()
	}
}

func (f *loadBalancer) refuse(field, format string, args ...any) *diag.Error {
	at := append(slices.Clone(f.Path), "loadBalancer")
	if field != "" {
		at = append(at, field)
	}
	return f.p.failAt(f.Address, at, format, args...)
}

// findNetwork finds the network that it is in.
func (f *loadBalancer) findNetwork() bool {
	if len(f.subnets) == 0 && len(f.p.graph.EC2.Subnet) > 0 {
		f.subnets = []token.Text{f.p.graph.EC2.Subnet}
	}
	if len(f.subnets) == 0 {
		f.refuse("", "in which subnet does it stand?").WithHint("subnets: [defx.ref('a').output('id')], or defaults: { ec2: { subnet: … } }")
		return false
	}
	in, vpc := network(f.p.graph, f.subnets[0])
	if vpc == nil {
		f.refuse("subnets", "the network of its subnet is not among the resources").WithHint("declare vpc and subnet, and say defx.ref('a').output('id')")
		return false
	}
	f.vpc, f.region = vpc, in.Fields["region"]
	return true
}

// findBackends finds its backends, which run on instances of its network.
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
			f.refuse("backends", "%s runs on no instance of EC2: the cloud's balancer cannot reach it", s.Address).
				WithHint("backend: 'ec2' there; or run a balancer yourself, as a service")
			return false
		}
		if networkOf(f.p.graph, r) != f.vpc {
			f.refuse("backends", "%s is not in %s, in which the balancer is", s.Address, f.vpc.Address).WithHint("subnets of the network of its backends")
			return false
		}
	}
	if len(f.scaled) > 0 && f.Attach != "auto" {
		f.refuse("backends", "the cloud attaches what it makes of %s, whether somebody agreed or not", f.scaled[0].Address).WithHint("attach: 'auto' says so")
		return false
	}
	return true
}

// findPort finds the one port of its backends. There is none if all of them are
// held, and so is the balancer.
func (f *loadBalancer) findPort() bool {
	for _, s := range slices.Concat(f.replicas, f.scaled) {
		at := s.Spec.Ports[f.Target]
		if f.port != 0 && at.Port != f.port {
			f.refuse("target", "%s has port %q at %d, and another backend at %d", s.Address, f.Target, at.Port, f.port).WithHint("all behind one balancer listen on one port")
			return false
		}
		if f.port = at.Port; at.Protocol != "tcp" {
			f.refuse("target", "port %q of %s is %s", f.Target, s.Address, at.Protocol).WithHint("a port of tcp")
			return false
		}
		if r := s.Spec.Ready; r != nil && r.HTTP != "" {
			f.check = map[string]any{"protocol": token.Lit("HTTP"), "path": token.Lit(r.HTTP), "matcher": token.Lit("200-399")}
		}
	}
	return f.port != 0
}

// Names of its parts, and what the cloud calls them.

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
		f.p.failAt(f.Address, f.Path, "a part of it would be called %q, which is taken", a).WithHint("another name of the balancer, the machine or the resource")
	}
	fields["module"] = module
	if f.region != nil {
		fields["region"] = f.region
	}
	r := &graph.Resource{Address: a, Type: kind, Fields: fields, Path: f.Path, Held: f.Held}
	f.p.graph.Resources = append(f.p.graph.Resources, r)
	return r
}

// addAccess makes the rules of who reaches it and whom it reaches. They live with
// the network: those of its backends know its group, and they are not its own.
func (f *loadBalancer) addAccess() {
	where, vpc, group := moduleOfNetwork(f.vpc), f.vpc.Address.String(), outputOf(f.group().Name, "id")
	f.add(f.group(), where, "aws.securityGroup", map[string]any{"vpc": outputOf(vpc, "id"), "name": token.Lit(f.title()),
		"description": token.Lit("made by defx: who reaches " + f.Address.String())})
	open := any(token.Lit("0.0.0.0/0"))
	if !f.Public {
		open = outputOf(vpc, "cidr_block")
	}
	f.add(f.partAddress(f.base+"-in"), where, "aws.ingressRule", map[string]any{"securityGroup": group, "cidr": open, "protocol": token.Lit("tcp"),
		"fromPort": float64(f.Listen), "toPort": float64(f.Listen)})
	f.add(f.partAddress(f.base+"-out"), where, "aws.egressRule", map[string]any{"securityGroup": group, "cidr": token.Lit("0.0.0.0/0"), "protocol": token.Lit("-1")})
	ends := map[string]string{} // what is behind it → its group
	for _, s := range f.replicas {
		ends[s.Place.Machine] = f.p.accessGroups[s.Place.Machine]
	}
	for _, s := range f.scaled {
		ends[namePrefix(s.Address)] = f.p.accessGroups[s.Address.String()]
	}
	for _, m := range slices.Sorted(maps.Keys(ends)) {
		if ends[m] != "" {
			f.add(f.partAddress(m+"-from-"+f.base), where, "aws.ingressRule", map[string]any{"securityGroup": outputOf(ends[m], "id"), "from": group,
				"protocol": token.Lit("tcp"), "fromPort": float64(f.port), "toPort": float64(f.port)})
		}
	}
}

// addParts makes the balancer, its listener, and the group of what it leads to.
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
	// Another port or network is another group. It is there before the old one
	// goes, because a listener always leads somewhere: so it has another name.
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

// addAttachments makes a module of each replica that is to come before users.
func (f *loadBalancer) addAttachments() {
	targets := outputOf(f.targets().Name, "arn")
	for _, s := range f.replicas {
		a := s.Address
		name := f.partAddress(strings.Join(slices.DeleteFunc([]string{f.base, a.Lib, a.Name, a.Member, a.Replica}, func(s string) bool { return s == "" }), "-"))
		at := graph.Attachment{Module: graph.Address{Lib: graph.ModuleLib, Name: name.Name}.String(), Backend: a, Attached: f.Attach == "auto"}
		if is, said := f.p.state.Attach[at.Module]; said {
			at.Attached = is
		} else if f.p.state.Deployed(at.Module) { // whoever attached it agreed to its being there
			at.Attached = true
		}
		f.Attachments = append(f.Attachments, at)
		if !at.Attached {
			continue
		}
		r := f.add(name, token.Lit(name.Name), "aws.lbAttachment", map[string]any{"targetGroup": targets, "target": outputOf(s.Place.Machine, "id"), "port": float64(f.port), "createBeforeDestroy": true})
		r.Follows, r.Drain = []graph.Address{a}, f.drain
	}
	for _, s := range f.scaled { // the cloud attaches what it makes, and drains what it ends
		if g := f.p.graph.Resource(namePrefix(s.Address) + "-group"); g != nil {
			before, _ := g.Fields["targetGroups"].([]any)
			g.Fields["targetGroups"] = append(slices.Clone(before), targets)
		}
	}
}

// inSets tells whether an address is of one of some sets.
func inSets(sets []string, a graph.Address) bool {
	return slices.Contains(sets, a.Set()) || slices.Contains(sets, a.Functionality())
}

// addDNSRecords gives what has a name in DNS, and no balancer, a record with the
// addresses of all instances that it runs on.
func (p *packer) addDNSRecords() {
	list := map[string][]*graph.Service{} // functionality → replicas
	for _, s := range p.graph.Services {
		if s.FQDN != "" {
			list[s.Address.Functionality()] = append(list[s.Address.Functionality()], s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(list)) {
		records, follows, seen := []any{}, []graph.Address{}, map[string]bool{}
		for _, s := range list[name] {
			m, r := p.graph.Machine(s.Place.Machine), p.graph.Resource(s.Place.Machine)
			if m == nil || m.Module == "" || r == nil || r.Type != "aws.instance" {
				records = nil // it stands elsewhere, whose names are not ours to give
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
			p.fail(s, append(slices.Clone(s.Path), "fqdn"), "the cloud owns the instances that it runs on: nobody could keep their record").WithHint("give a loadBalancer before it the name")
		}
	}
}

// zone is the smallest zone among the resources that a name is in; nil if there is none.
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

// addDNSRecord gives what has a name in DNS a record, if its zone is among the resources.
func (p *packer) addDNSRecord(a graph.Address, path []string, fqdn string, f map[string]any, follows []graph.Address) {
	z := p.zone(strings.TrimSuffix(fqdn, "."))
	if z == nil {
		return
	}
	if !nameRE.MatchString(fqdn) {
		p.failAt(a, append(slices.Clone(path), "fqdn"), "%q is no name in DNS", fqdn).WithHint("letters a-z, digits and -, with dots between: 'shop.example.com'")
		return
	}
	if other, twice := p.dnsOwner[fqdn]; twice {
		p.failAt(a, append(slices.Clone(path), "fqdn"), "%s has the name %q already", other, fqdn).WithHint("each has a name of its own; replicas of one functionality share one")
		return
	}
	p.dnsOwner[fqdn] = a.String()
	n := truncate(namePrefix(a)+"-dns", maxName)
	if p.graph.Resource(n) != nil {
		p.failAt(a, append(slices.Clone(path), "fqdn"), "its record would be called %q, which is taken", n).WithHint("another name of the resource")
		return
	}
	f["module"], f["zone"], f["name"], f["kind"] = token.Lit(n), outputOf(z.Address.String(), "zone_id"), token.Lit(fqdn), token.Lit("A")
	p.graph.Resources = append(p.graph.Resources, &graph.Resource{Address: graph.Address{Name: n}, Type: "aws.dnsRecord", Fields: f, Path: path, Follows: follows})
}
