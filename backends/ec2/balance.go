package ec2

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/lang/diag"
	"github.com/defx-dev/defx/lang/digest"
	"github.com/defx-dev/defx/lang/token"
)

// outputOf is what a field says that reads one output of a resource.
func outputOf(resource, attr string) token.Text {
	return token.Text{{Token: &token.Token{Kind: token.Ref, Of: "set", Name: resource, Field: "output", Arg: attr}}}
}

// short keeps a name within n letters; what is cut off is told by a few of its digest.
func short(name string, n int) string {
	if len(name) <= n {
		return name
	}
	return strings.TrimRight(name[:n-7], "-") + "-" + digest.Bytes([]byte(name)).Hex()[:6]
}

// longest is how long a name may be.
const longest = 42

func (p *packer) failed(a graph.Address, path []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(a.String(), format, args...).At(path...)
	p.errs = append(p.errs, e)
	return e
}

// balance makes resources of balancers: the balancer with its listener and
// target group in one module, and each attachment in a module of its own,
// because to come before users is a deed of its own.
func (p *packer) balance() {
	for _, b := range p.g.Balancers {
		before := len(p.errs)
		p.balancer(b)
		if b.FQDN != "" && len(p.errs) == before {
			p.record(b.Address, b.Path, b.FQDN, map[string]any{"alias": map[string]any{"name": outputOf(b.Address.String(), "dns_name"),
				"zoneId": outputOf(b.Address.String(), "zone_id"), "evaluateTargetHealth": false}}, nil)
		}
	}
}

func (p *packer) balancer(b *graph.Balancer) {
	said := func(field ...string) []string { return append(append(slices.Clone(b.Path), "loadBalancer"), field...) }
	subnets := b.Subnets
	if len(subnets) == 0 && len(p.g.EC2.Subnet) > 0 {
		subnets = []token.Text{p.g.EC2.Subnet}
	}
	if len(subnets) == 0 {
		p.failed(b.Address, said(), "in which subnet does it stand?").WithHint("subnets: [defx.ref('a').output('id')], or defaults: { ec2: { subnet: … } }")
		return
	}
	in, v := network(p.g, subnets[0])
	if v == nil {
		p.failed(b.Address, said("subnets"), "the network of its subnet is not among the resources").WithHint("declare vpc and subnet, and say defx.ref('a').output('id')")
		return
	}
	var replicas, scaled []*graph.Service
	for _, s := range p.g.Services {
		if ofSets(b.Sets, s.Address) {
			replicas = append(replicas, s)
		}
	}
	for _, s := range p.g.Scaled {
		if ofSets(b.Sets, s.Address) {
			scaled = append(scaled, s)
		}
	}
	for _, s := range replicas {
		r := p.g.Resource(s.Place.Machine)
		if r == nil || r.Type != "aws.instance" {
			p.failed(b.Address, said("backends"), "%s runs on no instance of EC2: the cloud's balancer cannot reach it", s.Address).
				WithHint("backend: 'ec2' there; or run a balancer yourself, as a service")
			return
		}
		if there := networkOf(p.g, r); there != v {
			p.failed(b.Address, said("backends"), "%s is not in %s, in which the balancer is", s.Address, v.Address).WithHint("subnets of the network of its backends")
			return
		}
	}
	if len(scaled) > 0 && b.Attach != "auto" {
		p.failed(b.Address, said("backends"), "the cloud attaches what it makes of %s, whether somebody agreed or not", scaled[0].Address).WithHint("attach: 'auto' says so")
		return
	}
	port := 0
	var check map[string]any
	for _, s := range slices.Concat(replicas, scaled) {
		at := s.Spec.Ports[b.Target]
		if port != 0 && at.Port != port {
			p.failed(b.Address, said("target"), "%s has port %q at %d, and another backend at %d", s.Address, b.Target, at.Port, port).WithHint("all behind one balancer listen on one port")
			return
		}
		if port = at.Port; at.Protocol != "tcp" {
			p.failed(b.Address, said("target"), "port %q of %s is %s", b.Target, s.Address, at.Protocol).WithHint("a port of tcp")
			return
		}
		if r := s.Spec.Ready; r != nil && r.HTTP != "" {
			check = map[string]any{"protocol": token.Lit("HTTP"), "path": token.Lit(r.HTTP), "matcher": token.Lit("200-399")}
		}
	}
	if port == 0 {
		return // its backends are held, and so is it
	}
	base := stem(b.Address)
	module, name := short(base, longest), p.g.Environment+"-"+p.g.Name+"-"+base
	self, access, targets := b.Address.String(), short(base+"-access", longest), short(base+"-targets", longest)
	region := in.Fields["region"]
	add := func(a graph.Address, module any, kind string, f map[string]any) *graph.Resource {
		if p.g.Resource(a.String()) != nil || p.g.Machine(a.String()) != nil {
			p.failed(b.Address, b.Path, "a part of it would be called %q, which is taken", a).WithHint("another name of the balancer, the machine or the resource")
		}
		f["module"] = module
		if region != nil {
			f["region"] = region
		}
		r := &graph.Resource{Address: a, Type: kind, Fields: f, Path: b.Path, Held: b.Held}
		p.g.Resources = append(p.g.Resources, r)
		return r
	}
	own := func(name string) graph.Address { return graph.Address{Name: name} }
	// Its access lives with the network: those of its backends know it, and it is not theirs.
	where := moduleOfNetwork(v)
	add(own(access), where, "aws.securityGroup", map[string]any{"vpc": outputOf(v.Address.String(), "id"), "name": token.Lit(name), "description": token.Lit("made by defx: who reaches " + self)})
	open := any(token.Lit("0.0.0.0/0"))
	if !b.Public {
		open = outputOf(v.Address.String(), "cidr_block")
	}
	add(own(short(base+"-in", longest)), where, "aws.ingressRule", map[string]any{"securityGroup": outputOf(access, "id"), "cidr": open, "protocol": token.Lit("tcp"), "fromPort": float64(b.Listen), "toPort": float64(b.Listen)})
	add(own(short(base+"-out", longest)), where, "aws.egressRule", map[string]any{"securityGroup": outputOf(access, "id"), "cidr": token.Lit("0.0.0.0/0"), "protocol": token.Lit("-1")})
	ends := map[string]string{} // what is behind it → its group
	for _, s := range replicas {
		ends[s.Place.Machine] = p.group[s.Place.Machine]
	}
	for _, s := range scaled {
		ends[stem(s.Address)] = p.group[s.Address.String()]
	}
	for _, m := range slices.Sorted(maps.Keys(ends)) {
		if ends[m] != "" {
			add(own(short(m+"-from-"+base, longest)), where, "aws.ingressRule", map[string]any{"securityGroup": outputOf(ends[m], "id"), "from": outputOf(access, "id"),
				"protocol": token.Lit("tcp"), "fromPort": float64(port), "toPort": float64(port)})
		}
	}
	protocol := "TCP"
	if b.Kind == "application" {
		protocol = "HTTP"
	}
	list := []any{}
	for _, s := range subnets {
		list = append(list, s)
	}
	add(b.Address, token.Lit(module), "aws.loadBalancer", map[string]any{"name": token.Lit(short(name, 32)), "kind": token.Lit(b.Kind), "internal": !b.Public, "subnets": list,
		"securityGroups": []any{outputOf(access, "id")}})
	drain, err := time.ParseDuration(b.Drain)
	if err != nil {
		drain = 30 * time.Second // it was refused already
	}
	// Another port or network is another group. It is there before the old one
	// goes, because a listener always leads somewhere: so it has another name.
	group := map[string]any{"name": token.Lit(short(name+"-"+digest.Bytes(fmt.Append(nil, port, protocol, v.Address)).Hex()[:6], 32)), "port": float64(port), "protocol": token.Lit(protocol),
		"vpc": outputOf(v.Address.String(), "id"), "targetType": token.Lit("instance"), "deregistrationDelay": drain.Seconds(), "createBeforeDestroy": true}
	if check != nil {
		group["healthCheck"] = check
	}
	add(own(targets), token.Lit(module), "aws.targetGroup", group)
	add(own(short(base+"-listen", longest)), token.Lit(module), "aws.listener", map[string]any{"loadBalancer": outputOf(self, "arn"), "port": float64(b.Listen), "protocol": token.Lit(protocol),
		"actions": map[string]any{"type": token.Lit("forward"), "targetGroupArn": outputOf(targets, "arn")}})
	for _, s := range replicas {
		a := s.Address
		n := short(strings.Join(slices.DeleteFunc([]string{base, a.Lib, a.Name, a.Member, a.Replica}, func(s string) bool { return s == "" }), "-"), longest)
		at := graph.Attachment{Module: graph.Address{Lib: graph.ModuleLib, Name: n}.String(), Backend: a, Attached: b.Attach == "auto"}
		if is, said := p.known.Attach[at.Module]; said {
			at.Attached = is
		} else if p.known.Stands(at.Module) { // whoever attached it agreed to its being there
			at.Attached = true
		}
		b.Attachments = append(b.Attachments, at)
		if !at.Attached {
			continue
		}
		r := add(own(n), token.Lit(n), "aws.lbAttachment", map[string]any{"targetGroup": outputOf(targets, "arn"), "target": outputOf(s.Place.Machine, "id"), "port": float64(port), "createBeforeDestroy": true})
		r.Follows, r.Drain = []graph.Address{a}, drain
	}
	for _, s := range scaled { // the cloud attaches what it makes, and drains what it ends
		if g := p.g.Resource(stem(s.Address) + "-group"); g != nil {
			before, _ := g.Fields["targetGroups"].([]any)
			g.Fields["targetGroups"] = append(slices.Clone(before), outputOf(targets, "arn"))
		}
	}
}

// ofSets tells whether an address is of one of some sets.
func ofSets(sets []string, a graph.Address) bool {
	return slices.Contains(sets, a.Set()) || slices.Contains(sets, a.Functionality())
}

// names gives what has a name in DNS, and no balancer, a record with the
// addresses of all instances that it runs on.
func (p *packer) names() {
	list := map[string][]*graph.Service{} // functionality → replicas
	for _, s := range p.g.Services {
		if s.FQDN != "" {
			list[s.Address.Functionality()] = append(list[s.Address.Functionality()], s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(list)) {
		records, follows, seen := []any{}, []graph.Address{}, map[string]bool{}
		for _, s := range list[name] {
			m, r := p.g.Machine(s.Place.Machine), p.g.Resource(s.Place.Machine)
			if m == nil || m.Module == "" || r == nil || r.Type != "aws.instance" {
				records = nil // it stands elsewhere, whose names are not ours to give
				break
			}
			follows = append(follows, s.Address)
			if !seen[m.Name] {
				seen[m.Name] = true
				attr := "private_ip"
				if p.g.EC2.Address == "public" {
					attr = "public_ip"
				}
				records = append(records, outputOf(m.Name, attr))
			}
		}
		if s := list[name][0]; len(records) > 0 {
			a := s.Address
			a.Member, a.Replica = "", ""
			p.record(a, s.Path, s.FQDN, map[string]any{"ttl": 60.0, "records": records}, follows)
		}
	}
	for _, s := range p.g.Scaled {
		if s.FQDN != "" && p.zone(s.FQDN) != nil {
			p.fail(s, append(slices.Clone(s.Path), "fqdn"), "the cloud owns the instances that it runs on: nobody could keep their record").WithHint("give a loadBalancer before it the name")
		}
	}
}

// zone is the smallest zone among the resources that a name is in; nil if there is none.
func (p *packer) zone(fqdn string) *graph.Resource {
	var out *graph.Resource
	best := 0
	for _, r := range p.g.Resources {
		n, ok := literal(r.Fields["name"])
		n = strings.TrimSuffix(n, ".")
		if r.Type == "aws.dnsZone" && ok && len(n) > best && (fqdn == n || strings.HasSuffix(fqdn, "."+n)) {
			out, best = r, len(n)
		}
	}
	return out
}

var nameRE = regexp.MustCompile(`^(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// record gives what has a name in DNS a record, if its zone is among the resources.
func (p *packer) record(a graph.Address, path []string, fqdn string, f map[string]any, follows []graph.Address) {
	z := p.zone(strings.TrimSuffix(fqdn, "."))
	if z == nil {
		return
	}
	if !nameRE.MatchString(fqdn) {
		p.failed(a, append(slices.Clone(path), "fqdn"), "%q is no name in DNS", fqdn).WithHint("letters a-z, digits and -, with dots between: 'shop.example.com'")
		return
	}
	if other, twice := p.named[fqdn]; twice {
		p.failed(a, append(slices.Clone(path), "fqdn"), "%s has the name %q already", other, fqdn).WithHint("each has a name of its own; replicas of one functionality share one")
		return
	}
	p.named[fqdn] = a.String()
	n := short(stem(a)+"-dns", longest)
	if p.g.Resource(n) != nil {
		p.failed(a, append(slices.Clone(path), "fqdn"), "its record would be called %q, which is taken", n).WithHint("another name of the resource")
		return
	}
	f["module"], f["zone"], f["name"], f["kind"] = token.Lit(n), outputOf(z.Address.String(), "zone_id"), token.Lit(fqdn), token.Lit("A")
	p.g.Resources = append(p.g.Resources, &graph.Resource{Address: graph.Address{Name: n}, Type: "aws.dnsRecord", Fields: f, Path: path, Follows: follows})
}
