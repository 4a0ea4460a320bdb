package ec2

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// This file has rules that neither the provider nor its plan checks. AWS would refuse the resource when
// half of the others already exist.

var (
	regionRE       = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]+$`)
	zoneRE         = regexp.MustCompile(`^([a-z]{2}(?:-[a-z]+)+-[0-9]+)(?:[a-z]|-[a-z]+-[0-9]+[a-z])$`)
	instanceTypeRE = regexp.MustCompile(`^[a-z][a-z0-9-]*\.(nano|micro|small|medium|large|xlarge|[0-9]+xlarge|metal(-[0-9]+xl)?)$`)
	imageRE        = regexp.MustCompile(`^ami-[0-9a-f]{8}([0-9a-f]{9})?$`)
	groupTextRE    = regexp.MustCompile(`^[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]*$`)
	balancerRE     = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?$`)
	bucketRE       = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	publicKeyRE    = regexp.MustCompile(`^(ssh-rsa|ssh-ed25519|ecdsa-sha2-[a-z0-9-]+) [A-Za-z0-9+/=]+( .*)?$`)
	deviceRE       = regexp.MustCompile(`^(/dev/)?(sd[a-z][a-z0-9]*|xvd[a-z]+|hd[a-z])$`)
)

// enums has the values of arguments for which the provider accepts any string.
var enums = map[string]map[string][]string{
	"aws_ebs_volume":                      {"type": {"gp2", "gp3", "io1", "io2", "sc1", "st1", "standard"}},
	"aws_lb":                              {"load_balancer_type": {"application", "network", "gateway"}, "ip_address_type": {"ipv4", "dualstack"}},
	"aws_lb_listener":                     {"protocol": {"HTTP", "HTTPS", "TCP", "TLS", "UDP", "TCP_UDP", "GENEVE"}},
	"aws_lb_target_group":                 {"protocol": {"HTTP", "HTTPS", "TCP", "TLS", "UDP", "TCP_UDP", "GENEVE"}, "target_type": {"instance", "ip", "lambda", "alb"}},
	"aws_route53_record":                  {"type": {"A", "AAAA", "CAA", "CNAME", "DS", "MX", "NAPTR", "NS", "PTR", "SOA", "SPF", "SRV", "SSHFP", "SVCB", "HTTPS", "TLSA", "TXT"}},
	"aws_vpc":                             {"instance_tenancy": {"default", "dedicated"}},
	"aws_autoscaling_group":               {"health_check_type": {"EC2", "ELB"}},
	"aws_vpc_security_group_ingress_rule": {"ip_protocol": {"tcp", "udp", "icmp", "icmpv6", "-1"}},
	"aws_vpc_security_group_egress_rule":  {"ip_protocol": {"tcp", "udp", "icmp", "icmpv6", "-1"}},
	"aws_ssm_parameter":                   {"type": {"String", "StringList", "SecureString"}},
}

// checkRules checks one resource by itself.
func (c *checker) checkRules(m *node) {
	if m.schema == nil {
		return
	}
	text := func(n string) (string, bool) { s, ok := constant(m.body[n]); return s, ok && s != "" }
	is := func(n string, re *regexp.Regexp, what, hint string) {
		if s, ok := text(n); ok && !re.MatchString(s) {
			c.errorf(m, m.position(n, m.resource.Path), "%q is not %s", s, what).WithHint("%s", hint)
		}
	}
	for _, n := range sets.Keys(enums[m.typ.tfType]) {
		if s, ok := text(n); ok && !slices.Contains(enums[m.typ.tfType][n], s) {
			c.errorf(m, m.position(n, m.resource.Path), "%s cannot be %q", m.typ.fromProvider(n), s).WithHint("%s", suggest(s, enums[m.typ.tfType][n]))
		}
	}
	walkBody(m.body, nil, func(path []string, v any) {
		name := path[len(path)-1]
		p := m.positionIn(path)
		if f, ok := v.(float64); ok && (name == "port" || strings.HasSuffix(name, "_port")) && (f < -1 || f > 65535 || f != float64(int(f))) {
			c.errorf(m, p, "%v is not a port", f).WithHint("a whole number from 0 to 65535")
		}
		s, ok := constant(v)
		if !ok {
			return
		}
		switch {
		case name == "availability_zone":
			parts := zoneRE.FindStringSubmatch(s)
			if parts == nil {
				c.errorf(m, p, "%q is not a zone", s).WithHint("write the region and a letter: '%sa'", m.region)
			} else if m.region != "" && parts[1] != m.region {
				c.errorf(m, p, "zone %q is not in region %q", s, m.region).WithHint("use '%sa', or another region", m.region)
			}
		case name == "instance_type" && !instanceTypeRE.MatchString(s):
			c.errorf(m, p, "%q is not an instance type", s).WithHint("write a family and a size: 't3.small'")
		case strings.Contains(name, "cidr") && name != "carrier_gateway_cidr":
			c.checkNetwork(m, p, s)
		case (name == "policy" || name == "assume_role_policy") && !json.Valid([]byte(s)):
			c.errorf(m, p, "a policy must be JSON").WithHint("std.manifestJsonMinified({ Version: '2012-10-17', Statement: [ … ] })")
		}
	})
	switch m.typ.tfType {
	case "aws_security_group":
		for _, n := range []string{"name", "description"} {
			if s, ok := text(n); ok && (!groupTextRE.MatchString(s) || len(s) > 255) {
				c.errorf(m, m.position(n, m.resource.Path), "%q is not a valid %s of a security group", s, n).WithHint("at most 255 letters, digits, spaces and ._-:/()#,@[]+=&;{}!$*")
			}
		}
		if s, ok := text("name"); ok && strings.HasPrefix(s, "sg-") {
			c.errorf(m, m.position("name", m.resource.Path), "name %q begins with sg-, which is reserved for IDs", s).WithHint("use another name")
		}
	case "aws_instance":
		is("ami", imageRE, "an image ID", "'ami-' and 8 or 17 hexadecimal digits")
		if s, ok := text("user_data"); ok && len(s) > 16<<10 {
			c.errorf(m, m.position("user_data", m.resource.Path), "user data has %d bytes, but at most 16384 are possible", len(s)).WithHint("let the instance download large files")
		}
	case "aws_launch_template":
		is("image_id", imageRE, "an image ID", "'ami-' and 8 or 17 hexadecimal digits")
		if s, ok := text("user_data"); ok {
			if raw, err := base64.StdEncoding.DecodeString(s); err != nil {
				c.errorf(m, m.position("user_data", m.resource.Path), "user data of a launch template must be base64").WithHint("std.base64('…')")
			} else if len(raw) > 16<<10 {
				c.errorf(m, m.position("user_data", m.resource.Path), "user data has %d bytes, but at most 16384 are possible", len(raw)).WithHint("let the instance download large files")
			}
		}
	case "aws_autoscaling_group":
		low, lok := m.body["min_size"].(float64)
		high, hok := m.body["max_size"].(float64)
		if lok && hok && low > high {
			c.errorf(m, m.position("min_size", m.resource.Path), "min %v is greater than max %v", low, high).WithHint("swap them")
		}
		if n, ok := m.body["desired_capacity"].(float64); ok && lok && hok && low <= high && (n < low || n > high) {
			c.errorf(m, m.position("desired_capacity", m.resource.Path), "%v is not between %v and %v", n, low, high).WithHint("use a number from min to max, or remove desired")
		}
		if m.body["vpc_zone_identifier"] == nil && m.body["availability_zones"] == nil {
			c.errorf(m, m.resource.Path, "the group has neither subnets nor availabilityZones").WithHint("subnets: [defx.ref('a-subnet').output('id')]")
		}
	case "aws_lb":
		is("name", balancerRE, "a valid load balancer name", "at most 32 letters, digits and -, without - at the ends")
		kind, _ := text("load_balancer_type")
		if subnets, ok := m.body["subnets"].([]any); ok && len(subnets) < 2 && (kind == "" || kind == "application") {
			c.errorf(m, m.position("subnets", m.resource.Path), "an application load balancer needs subnets in two zones, but has %d", len(subnets)).WithHint("add a subnet in another zone, or set kind: 'network'")
		}
		if m.body["subnets"] == nil && m.body["subnet_mapping"] == nil {
			c.errorf(m, m.resource.Path, "\"subnets\" is missing").WithHint("subnets: [defx.ref('a').output('id'), defx.ref('b').output('id')]")
		}
	case "aws_lb_target_group":
		is("name", balancerRE, "a valid target group name", "at most 32 letters, digits and -, without - at the ends")
		if kind, _ := text("target_type"); kind != "lambda" && (m.body["port"] == nil || m.body["protocol"] == nil || m.body["vpc_id"] == nil) {
			c.errorf(m, m.resource.Path, "port, protocol and vpc must be set").WithHint("port: 80, protocol: 'HTTP', vpc: defx.ref('vpc').output('id')")
		}
	case "aws_lb_listener":
		if p, _ := text("protocol"); (p == "HTTPS" || p == "TLS") && m.body["certificate_arn"] == nil {
			c.errorf(m, m.resource.Path, "a listener with protocol %s needs a certificate", p).WithHint("certificateArn: '…'")
		}
	case "aws_s3_bucket":
		is("bucket", bucketRE, "a valid bucket name", "3 to 63 letters a-z, digits, . and -")
	case "aws_key_pair":
		is("public_key", publicKeyRE, "a public key", "a line like the one in ~/.ssh/id_ed25519.pub")
	case "aws_volume_attachment":
		is("device_name", deviceRE, "a device name", "'/dev/sdf' to '/dev/sdp'")
	case "aws_ebs_volume":
		kind, _ := text("type")
		if m.body["iops"] == nil && (kind == "io1" || kind == "io2") {
			c.errorf(m, m.position("type", m.resource.Path), "a volume of type %s needs iops", kind).WithHint("iops: 3000")
		}
		if m.body["size"] == nil && m.body["snapshot_id"] == nil {
			c.errorf(m, m.resource.Path, "\"size\" is missing").WithHint("size: 20, in GiB")
		}
		if f, ok := m.body["size"].(float64); ok && (f < 1 || f > 65536 || f != float64(int(f))) {
			c.errorf(m, m.position("size", m.resource.Path), "%v is not a valid volume size", f).WithHint("GiB, a whole number from 1 to 65536")
		}
	case "aws_route53_record":
		kind, _ := text("type")
		records, _ := m.body["records"].([]any)
		for i, r := range records {
			s, ok := constant(r)
			p := append(slices.Clone(m.position("records", m.resource.Path)), strconv.Itoa(i))
			if a, err := netip.ParseAddr(s); ok && (kind == "A" && (err != nil || !a.Is4()) || kind == "AAAA" && (err != nil || !a.Is6())) {
				c.errorf(m, p, "%q is not an address for a record of kind %s", s, kind).WithHint("use kind: 'CNAME' for a name")
			}
		}
		if kind == "CNAME" && len(records) > 1 {
			c.errorf(m, m.position("records", m.resource.Path), "a CNAME must have one record, but has %d", len(records)).WithHint("remove all records except one")
		}
		if m.body["records"] != nil && m.body["ttl"] == nil {
			c.errorf(m, m.resource.Path, "\"ttl\" is missing").WithHint("ttl: 60, in seconds")
		}
	case "aws_vpc_security_group_ingress_rule", "aws_vpc_security_group_egress_rule":
		from, fok := m.body["from_port"].(float64)
		to, tok := m.body["to_port"].(float64)
		if fok && tok && from > to {
			c.errorf(m, m.position("from_port", m.resource.Path), "fromPort %v is greater than toPort %v", from, to).WithHint("swap them")
		}
		if p, _ := text("ip_protocol"); (p == "tcp" || p == "udp") && (m.body["from_port"] == nil || m.body["to_port"] == nil) {
			c.errorf(m, m.resource.Path, "a rule for %s needs fromPort and toPort", p).WithHint("fromPort: 443, toPort: 443")
		}
		n := 0
		for _, k := range []string{"cidr_ipv4", "cidr_ipv6", "prefix_list_id", "referenced_security_group_id"} {
			if m.body[k] != nil {
				n++
			}
		}
		if n != 1 {
			c.errorf(m, m.resource.Path, "exactly one of cidr, cidrIpv6, prefixListId and a security group must be set").WithHint("cidr: '10.0.0.0/16'")
		}
	}
}

// constant returns the text of a value that has neither tokens nor expressions.
func constant(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case token.Text:
		s, ok := v.Literal()
		if strings.Contains(s, "${") {
			return "", false
		}
		return s, ok
	}
	return "", false
}

// walkBody calls f for every value in a body, with its path. Scalars in a list have the path of the
// list.
func walkBody(v any, path []string, f func(path []string, v any)) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range sets.Keys(v) {
			walkBody(v[k], append(slices.Clone(path), k), f)
		}
	case []any:
		for i, x := range v {
			if _, nested := x.(map[string]any); nested {
				walkBody(x, append(slices.Clone(path), strconv.Itoa(i)), f)
			} else {
				f(path, x)
			}
		}
	default:
		if len(path) > 0 {
			f(path, v)
		}
	}
}

// positionIn returns the path where the user set the argument that contains a path of the body.
func (m *node) positionIn(path []string) []string {
	p := m.positions[path[0]]
	if p == nil {
		return m.resource.Path
	}
	return slices.Clone(p)
}

// checkNetwork checks a network in CIDR notation.
func (c *checker) checkNetwork(m *node, at []string, s string) {
	n, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		c.errorf(m, at, "%q is not a network in CIDR notation", s).WithHint("for example '10.0.0.0/16'")
	case n.Masked() != n:
		c.errorf(m, at, "%q has host bits set after the first %d bits", s, n.Bits()).WithHint("use '%s'", n.Masked())
	case (m.typ.tfType == "aws_vpc" || m.typ.tfType == "aws_subnet") && n.Addr().Is4() && (n.Bits() < 16 || n.Bits() > 28):
		c.errorf(m, at, "%q is %s for a VPC or subnet", s, map[bool]string{true: "too large", false: "too small"}[n.Bits() < 16]).WithHint("use /16 to /28")
	}
}

// checkRelations checks resources against those that they read.
func (c *checker) checkRelations(all []*node) {
	vpcOf := func(m *node) *node { return m.target("vpc_id", "aws_vpc") }
	inside := map[*node][]*node{}
	for _, m := range all {
		if m.typ.tfType != "aws_subnet" {
			continue
		}
		v := vpcOf(m)
		if v == nil {
			continue
		}
		own, ok1 := prefix(m)
		parent, ok2 := prefix(v)
		if !ok1 || !ok2 {
			continue
		}
		if !parent.Contains(own.Addr()) || own.Bits() < parent.Bits() {
			c.errorf(m, m.position("cidr_block", m.resource.Path), "%s is not inside %s of %s", own, parent, v.address()).WithHint("use a part of %s", parent)
			continue
		}
		for _, other := range inside[v] {
			if o, _ := prefix(other); o.Overlaps(own) {
				c.errorf(m, m.position("cidr_block", m.resource.Path), "%s overlaps %s of %s", own, o, other.address()).WithHint("subnets of one VPC must not overlap")
			}
		}
		inside[v] = append(inside[v], m)
	}
	for _, m := range all {
		switch m.typ.tfType {
		case "aws_lb":
			zones := map[string]*node{}
			for _, s := range m.targets("subnets", "aws_subnet") {
				z, ok := constant(s.body["availability_zone"])
				if !ok {
					continue
				}
				if first := zones[z]; first != nil {
					c.errorf(m, m.position("subnets", m.resource.Path), "%s and %s are in the same zone %q", first.address(), s.address(), z).WithHint("use one subnet per zone")
				}
				zones[z] = s
			}
		case "aws_volume_attachment":
			v, i := m.target("volume_id", "aws_ebs_volume"), m.target("instance_id", "aws_instance")
			if v == nil || i == nil {
				continue
			}
			there, ok1 := constant(v.body["availability_zone"])
			here, ok2 := constant(i.body["availability_zone"])
			if s := i.target("subnet_id", "aws_subnet"); !ok2 && s != nil {
				here, ok2 = constant(s.body["availability_zone"])
			}
			if ok1 && ok2 && there != here {
				c.errorf(m, m.position("volume_id", m.resource.Path), "%s is in zone %q, but %s is in %q", v.address(), there, i.address(), here).WithHint("a volume can be attached only in its own zone")
			}
		case "aws_instance":
			s := m.target("subnet_id", "aws_subnet")
			if s == nil {
				continue
			}
			for _, g := range m.targets("vpc_security_group_ids", "aws_security_group") {
				if a, b := vpcOf(s), vpcOf(g); a != nil && b != nil && a != b {
					c.errorf(m, m.position("vpc_security_group_ids", m.resource.Path), "%s is in %s, but the subnet is in %s", g.address(), b.address(), a.address()).WithHint("use a security group of the same VPC")
				}
			}
			if z, ok := constant(m.body["availability_zone"]); ok {
				if there, ok := constant(s.body["availability_zone"]); ok && there != z {
					c.errorf(m, m.position("availability_zone", m.resource.Path), "zone is %q, but the subnet is in %q", z, there).WithHint("remove zone: the subnet determines it")
				}
			}
		}
	}
	for _, m := range all {
		for _, r := range m.refs { // an argument must read a resource of the expected type
			attr := r.attr
			if want, ok := expectedTypes[m.argument(r)]; ok && attr == "id" && r.target.typ.tfType != want && r.target.schema != nil {
				c.errorf(m, r.path, "%s is of type %s, but must be of type %s", r.target.address(), r.target.resource.Type, typeName(want)).WithHint("%s", suggest("", addressesOfType(all, want)))
			}
		}
	}
	c.checkUniqueNames(all)
}

// expectedTypes maps arguments that take IDs to the type of resource they identify.
var expectedTypes = map[string]string{"vpc_id": "aws_vpc", "subnet_id": "aws_subnet", "subnets": "aws_subnet", "vpc_security_group_ids": "aws_security_group",
	"security_group_id": "aws_security_group", "route_table_id": "aws_route_table", "volume_id": "aws_ebs_volume", "instance_id": "aws_instance", "security_groups": "aws_security_group",
	"referenced_security_group_id": "aws_security_group"}

// typeName returns the name in defx of a provider's resource type.
func typeName(kind string) string {
	for _, n := range sets.Keys(resourceTypes) {
		if resourceTypes[n].tfType == kind {
			return n
		}
	}
	return kind
}

// addressesOfType returns the addresses of all resources of a type, or a hint to declare one.
func addressesOfType(all []*node, kind string) []string {
	var out []string
	for _, m := range all {
		if m.typ.tfType == kind {
			out = append(out, m.address())
		}
	}
	if len(out) == 0 {
		out = []string{"none: declare one, type '" + typeName(kind) + "'"}
	}
	return out
}

// argument returns the provider's argument that contains a ref.
func (m *node) argument(r ref) string {
	for n, p := range m.positions {
		if len(r.path) >= len(p) && slices.Equal(r.path[:len(p)], p) {
			return n
		}
	}
	return ""
}

// target returns the only resource of a type that an argument reads, or nil.
func (m *node) target(attr, kind string) *node {
	if l := m.targets(attr, kind); len(l) == 1 {
		return l[0]
	}
	return nil
}

// targets returns the resources of a type that an argument reads.
func (m *node) targets(attr, kind string) []*node {
	var out []*node
	for _, r := range m.refs {
		if r.target.typ.tfType == kind && m.argument(r) == attr {
			out = append(out, r.target)
		}
	}
	return out
}

// prefix returns the network of a VPC or subnet.
func prefix(m *node) (netip.Prefix, bool) {
	s, ok := constant(m.body["cidr_block"])
	if !ok {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(s)
	return p, err == nil && p.Masked() == p
}

// checkUniqueNames refuses names that must be unique in AWS and are used twice.
func (c *checker) checkUniqueNames(all []*node) {
	first := map[string]*node{}
	for _, m := range all {
		attr := map[string]string{"aws_lb": "name", "aws_lb_target_group": "name", "aws_key_pair": "key_name", "aws_iam_role": "name", "aws_iam_instance_profile": "name",
			"aws_s3_bucket": "bucket", "aws_autoscaling_group": "name", "aws_sqs_queue": "name"}[m.typ.tfType]
		s, ok := constant(m.body[attr])
		if attr == "" || !ok || s == "" {
			continue
		}
		key := fmt.Sprint(m.typ.tfType, " ", m.region, " ", s)
		if o := first[key]; o != nil {
			c.errorf(m, m.position(attr, m.resource.Path), "%s already has the name %q", o.address(), s).WithHint("use another name")
			continue
		}
		first[key] = m
	}
}
