package ec2

import (
	"strings"

	"github.com/defx-dev/defx/internal/sets"
)

// resourceType maps a resource type of defx to one of the provider.
type resourceType struct {
	tfType    string            // aws_vpc
	arguments map[string]string // argument in defx → the provider's, if it is not the same in snake case
	outputs   []string          // usual outputs in addition to id and arn
	module    string            // default module; "" means a module of its own
}

// resourceTypes are the types with names of their own. All other types of the provider are
// available as terraform.resource.
var resourceTypes = map[string]resourceType{
	"aws.vpc":                   {"aws_vpc", map[string]string{"cidr": "cidr_block"}, []string{"cidr_block"}, "network"},
	"aws.subnet":                {"aws_subnet", map[string]string{"vpc": "vpc_id", "cidr": "cidr_block", "zone": "availability_zone"}, []string{"availability_zone", "cidr_block"}, "network"},
	"aws.securityGroup":         {"aws_security_group", map[string]string{"vpc": "vpc_id"}, []string{"name"}, "network"},
	"aws.ingressRule":           {"aws_vpc_security_group_ingress_rule", map[string]string{"securityGroup": "security_group_id", "cidr": "cidr_ipv4", "from": "referenced_security_group_id", "protocol": "ip_protocol"}, nil, "network"},
	"aws.egressRule":            {"aws_vpc_security_group_egress_rule", map[string]string{"securityGroup": "security_group_id", "cidr": "cidr_ipv4", "to": "referenced_security_group_id", "protocol": "ip_protocol"}, nil, "network"},
	"aws.internetGateway":       {"aws_internet_gateway", map[string]string{"vpc": "vpc_id"}, nil, "network"},
	"aws.natGateway":            {"aws_nat_gateway", map[string]string{"subnet": "subnet_id", "elasticIp": "allocation_id"}, []string{"public_ip"}, "network"},
	"aws.routeTable":            {"aws_route_table", map[string]string{"vpc": "vpc_id", "routes": "route"}, nil, "network"},
	"aws.route":                 {"aws_route", map[string]string{"routeTable": "route_table_id", "cidr": "destination_cidr_block", "gateway": "gateway_id", "natGateway": "nat_gateway_id"}, nil, "network"},
	"aws.routeTableAssociation": {"aws_route_table_association", map[string]string{"subnet": "subnet_id", "routeTable": "route_table_id"}, nil, "network"},
	"aws.instance": {"aws_instance", map[string]string{"image": "ami", "subnet": "subnet_id", "securityGroups": "vpc_security_group_ids", "zone": "availability_zone",
		"profile": "iam_instance_profile"}, []string{"private_ip", "public_ip", "availability_zone"}, "instances"},
	"aws.volume":           {"aws_ebs_volume", map[string]string{"zone": "availability_zone", "volumeType": "type"}, nil, "instances"},
	"aws.volumeAttachment": {"aws_volume_attachment", map[string]string{"volume": "volume_id", "instance": "instance_id", "device": "device_name"}, nil, "instances"},
	"aws.elasticIp":        {"aws_eip", nil, []string{"public_ip"}, "instances"},
	"aws.loadBalancer":     {"aws_lb", map[string]string{"kind": "load_balancer_type"}, []string{"dns_name", "zone_id"}, ""},
	"aws.targetGroup":      {"aws_lb_target_group", map[string]string{"vpc": "vpc_id"}, nil, ""},
	"aws.listener":         {"aws_lb_listener", map[string]string{"loadBalancer": "load_balancer_arn", "actions": "default_action"}, nil, ""},
	"aws.listenerRule":     {"aws_lb_listener_rule", map[string]string{"listener": "listener_arn", "actions": "action", "conditions": "condition"}, nil, ""},
	"aws.lbAttachment":     {"aws_lb_target_group_attachment", map[string]string{"targetGroup": "target_group_arn", "target": "target_id"}, nil, ""},
	"aws.autoscalingGroup": {"aws_autoscaling_group", map[string]string{"min": "min_size", "max": "max_size", "desired": "desired_capacity", "subnets": "vpc_zone_identifier",
		"targetGroups": "target_group_arns", "launchTemplate": "launch_template"}, []string{"name"}, ""},
	"aws.autoscalingPolicy": {"aws_autoscaling_policy", map[string]string{"group": "autoscaling_group_name"}, nil, ""},
	"aws.launchTemplate":    {"aws_launch_template", map[string]string{"image": "image_id", "securityGroups": "vpc_security_group_ids"}, []string{"name"}, ""},
	"aws.dnsZone":           {"aws_route53_zone", nil, []string{"name"}, "dns"},
	"aws.dnsRecord":         {"aws_route53_record", map[string]string{"zone": "zone_id", "kind": "type"}, []string{"fqdn"}, "dns"},
	"aws.keyPair":           {"aws_key_pair", map[string]string{"name": "key_name"}, []string{"key_name"}, "access"},
	"aws.iamRole":           {"aws_iam_role", map[string]string{"assume": "assume_role_policy"}, []string{"name"}, "access"},
	"aws.iamRolePolicy":     {"aws_iam_role_policy", nil, nil, "access"},
	"aws.iamPolicy":         {"aws_iam_policy", nil, []string{"name"}, "access"},
	"aws.iamRoleAttachment": {"aws_iam_role_policy_attachment", map[string]string{"policy": "policy_arn"}, nil, "access"},
	"aws.instanceProfile":   {"aws_iam_instance_profile", nil, []string{"name"}, "access"},
	"aws.s3":                {"aws_s3_bucket", map[string]string{"name": "bucket"}, []string{"bucket"}, ""},
	"aws.s3Object":          {"aws_s3_object", nil, nil, ""},
	"aws.queue":             {"aws_sqs_queue", nil, []string{"url", "name"}, ""},
	"aws.parameter":         {"aws_ssm_parameter", map[string]string{"kind": "type"}, []string{"name"}, ""},
	"aws.logGroup":          {"aws_cloudwatch_log_group", map[string]string{"retention": "retention_in_days"}, []string{"name"}, ""},
	"aws.database":          {"aws_db_instance", map[string]string{"class": "instance_class"}, []string{"address", "endpoint", "port"}, ""},
	"aws.databaseSubnets":   {"aws_db_subnet_group", map[string]string{"subnets": "subnet_ids"}, []string{"name"}, ""},
}

// Types returns the names of all resource types, sorted.
func Types() []string { return append(sets.Keys(resourceTypes), anyType) }

// anyType is the type for any resource of any provider.
const anyType = "terraform.resource"

// statefulTypes hold data: removing such a resource from the configuration does not delete it.
var statefulTypes = map[string]bool{"aws_ebs_volume": true, "aws_s3_bucket": true, "aws_db_instance": true, "aws_elasticache_cluster": true, "aws_route53_zone": true}

// snake converts a name to the provider's style: availabilityZone → availability_zone.
func snake(s string) string {
	var b strings.Builder
	for i, r := range s {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// camel converts a name of the provider to the style of defx.
func camel(s string) string {
	parts := strings.Split(s, "_")
	for i := 1; i < len(parts); i++ {
		if parts[i] != "" {
			parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
		}
	}
	return strings.Join(parts, "")
}

// toProvider returns the provider's name of an argument.
func (w resourceType) toProvider(name string) string {
	if n := w.arguments[name]; n != "" {
		return n
	}
	return snake(name)
}

// fromProvider returns the name in defx of a provider's argument.
func (w resourceType) fromProvider(name string) string {
	for o, n := range w.arguments {
		if n == name {
			return o
		}
	}
	return camel(name)
}
