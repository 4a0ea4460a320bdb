package ec2

import (
	"fmt"
	"slices"

	"github.com/defx-dev/defx/compile/graph"
)

// needs returns what a resource asks for: a provider, which is a program that Terraform downloads and
// runs, and what becomes reachable from the internet.
func (m *node) needs() []graph.Need {
	out := slices.Clone(m.resource.Needs)
	add := func(kind graph.NeedKind, value string, field ...string) {
		out = append(out, graph.Need{Kind: kind, Value: value, Field: m.at(field...)})
	}
	if m.source != awsSource {
		version, _ := literal(m.resource.Fields["version"])
		value := "Terraform's provider " + m.source
		if version != "" {
			value += " " + version
		}
		add(graph.NeedProgram, value)
	}
	switch m.typ.tfType {
	case "aws_lb":
		if internal, _ := m.body["internal"].(bool); !internal {
			add(graph.NeedPublic, "everyone: load balancer "+m.address())
		}
	case "aws_db_instance":
		if public, _ := m.body["publicly_accessible"].(bool); public {
			add(graph.NeedPublic, "everyone: database "+m.address())
		}
	case "aws_vpc_security_group_ingress_rule", "aws_security_group", "aws_security_group_rule", "aws_default_security_group":
		if kind, _ := constant(m.body["type"]); kind == "egress" {
			break
		}
		body := map[string]any{"": m.body}
		if m.typ.tfType != "aws_vpc_security_group_ingress_rule" && m.typ.tfType != "aws_security_group_rule" {
			body = map[string]any{"": m.body["ingress"]}
		}
		walkBody(body, nil, func(_ []string, v any) {
			if s, ok := constant(v); ok && (s == "0.0.0.0/0" || s == "::/0") {
				add(graph.NeedPublic, fmt.Sprintf("%s: %s%s", s, portRange(m.body), m.address()))
			}
		})
	case "aws_s3_bucket_public_access_block":
		for _, k := range []string{"block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"} {
			if v, set := m.body[k].(bool); set && !v {
				add(graph.NeedPublic, "everyone: bucket of "+m.address())
				break
			}
		}
	}
	return out
}

// portRange returns the ports of a rule and a space, or "".
func portRange(body map[string]any) string {
	from, hasFrom := body["from_port"].(float64)
	to, hasTo := body["to_port"].(float64)
	protocol, _ := constant(body["ip_protocol"])
	switch {
	case !hasFrom || !hasTo:
		return ""
	case from == to:
		return fmt.Sprintf("%s/%.0f of ", protocol, from)
	}
	return fmt.Sprintf("%s/%.0f-%.0f of ", protocol, from, to)
}
