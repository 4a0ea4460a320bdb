package project_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang"
)

// sound is a deployment without a mistake.
const sound = `local defx = import 'defx/v1.libsonnet';
local id(name) = defx.ref(name).output('id');
function(env='dev') {
  name: 'shop',
  libs: {},
  defaults: { ec2: { region: 'eu-central-1' } },
  resources: {
    vpc: { type: 'aws.vpc', cidr: '10.0.0.0/16' },
    a: { type: 'aws.subnet', vpc: id('vpc'), cidr: '10.0.1.0/24', zone: 'eu-central-1a' },
    b: { type: 'aws.subnet', vpc: id('vpc'), cidr: '10.0.2.0/24', zone: 'eu-central-1b' },
    web: { type: 'aws.securityGroup', vpc: id('vpc'), name: 'web', description: 'the web', ingress: [{ fromPort: 80, toPort: 80, protocol: 'tcp', cidrBlocks: ['0.0.0.0/0'] }] },
    box: { type: 'aws.instance', image: 'ami-12345678', instanceType: 't3.small', subnet: id('a'), securityGroups: [id('web')] },
    data: { type: 'aws.volume', zone: 'eu-central-1a', size: 20, volumeType: 'gp3' },
    mount: { type: 'aws.volumeAttachment', volume: id('data'), instance: id('box'), device: '/dev/sdf' },
    front: { type: 'aws.loadBalancer', name: 'front', kind: 'application', subnets: [id('a'), id('b')], securityGroups: [id('web')] },
    pool: { type: 'aws.targetGroup', name: 'pool', port: 80, protocol: 'HTTP', vpc: id('vpc') },
    listen: { type: 'aws.listener', loadBalancer: defx.ref('front').output('arn'), port: 80, protocol: 'HTTP', actions: { type: 'forward', targetGroupArn: defx.ref('pool').output('arn') } },
    in1: { type: 'aws.lbAttachment', targetGroup: defx.ref('pool').output('arn'), target: id('box'), port: 80 },
    plan: { type: 'aws.launchTemplate', image: 'ami-12345678', instanceType: 't3.small', userData: std.base64('#!/bin/sh') },
    herd: { type: 'aws.autoscalingGroup', min: 1, max: 3, desired: 2, subnets: [id('a')], launchTemplate: { id: id('plan'), version: '$Latest' } },
    zone: { type: 'aws.dnsZone', name: 'example.com' },
    www: { type: 'aws.dnsRecord', zone: id('zone'), name: 'www.example.com', kind: 'A', ttl: 60, records: ['192.0.2.1'] },
    key: { type: 'aws.keyPair', name: 'ops', publicKey: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKkF4gN0c1kAbzYwP4Vv7Q0Dd2kq3YyT5G8W8d0b2f1u' },
    role: { type: 'aws.iamRole', name: 'box', assume: std.manifestJsonMinified({ Version: '2012-10-17', Statement: [] }) },
    store: { type: 'aws.s3', name: 'shop-backups' },
    jobs: { type: 'terraform.resource', resource: 'aws_sqs_queue', arguments: { name: 'jobs', delay_seconds: 5 } },
  },
}
`

// mistakes replace old in the sound deployment. The error must contain want and
// the line of old.
var mistakes = map[string]struct{ old, new, want string }{
	"an unknown argument":               {"device: '/dev/sdf'", "device: '/dev/sdf', forceDetatch: true", `has no argument "forceDetatch"`},
	"an unknown type":                   {"type: 'aws.volume',", "type: 'aws.volumes',", `unknown resource type "aws.volumes"`},
	"a text for a number":               {"size: 20", "size: 'big'", "must be a number"},
	"a text for a boolean":              {"cidr: '10.0.1.0/24',", "cidr: '10.0.1.0/24', mapPublicIpOnLaunch: 'yes',", "must be true or false"},
	"a text for a list":                 {"securityGroups: [id('web')] },\n    data", "securityGroups: 'web' },\n    data", "must be a list"},
	"what is needed is missing":         {"vpc: id('vpc'), cidr: '10.0.2.0/24',", "cidr: '10.0.2.0/24',", `"vpc" is missing`},
	"what the cloud tells is set":       {"cidr: '10.0.0.0/16'", "cidr: '10.0.0.0/16', arn: 'x'", "is computed by AWS"},
	"no network":                        {"'10.0.0.0/16'", "'10.0.0.0'", "is not a network"},
	"bits behind the mask":              {"'10.0.2.0/24'", "'10.0.2.7/24'", "has host bits set"},
	"networks that overlap":             {"'10.0.2.0/24'", "'10.0.1.128/25'", "overlaps 10.0.1.0/24 of a"},
	"a subnet outside its VPC":          {"'10.0.2.0/24'", "'10.9.2.0/24'", "is not inside 10.0.0.0/16 of vpc"},
	"no region":                         {"ec2: { region: 'eu-central-1' }", "ec2: {}", "no region is set"},
	"no such region":                    {"region: 'eu-central-1'", "region: 'frankfurt'", "not a region"},
	"a zone of another region":          {"zone: 'eu-central-1b'", "zone: 'us-east-1b'", "is not in region"},
	"a circle":                          {"cidr: '10.0.0.0/16'", "cidr: '10.0.0.0/16', ipv4IpamPoolId: id('a')", "depend on each other in a cycle"},
	"modules in a circle":               {"cidr: '10.0.0.0/16'", "cidr: '10.0.0.0/16', ipv4IpamPoolId: id('data')}, box2: { type: 'aws.instance', subnet: id('a'), image: 'ami-12345678', instanceType: 't3.small'", "modules depend on each other in a cycle: network → instances → network"},
	"a ref to nothing":                  {"subnet: id('a')", "subnet: id('c')", `"c", which no library defines`},
	"an output that is none":            {"target: id('box')", "target: defx.ref('box').output('idd')", `has no output "idd"`},
	"a thing of another kind":           {"subnet: id('a')", "subnet: id('web')", "is of type aws.securityGroup"},
	"a port of 70000":                   {"port: 80, protocol: 'HTTP', actions", "port: 70000, protocol: 'HTTP', actions", "70000 is not a port"},
	"a line break in a description":     {"'the web'", "'the\\nweb'", "is not a valid description of a security group"},
	"user data in clear":                {"std.base64('#!/bin/sh')", "'#!/bin/sh'", "must be base64"},
	"a volume of an unknown type":       {"'gp3'", "'gp9'", `cannot be "gp9"`},
	"at least more than at most":        {"min: 1,", "min: 4,", "min 4 is greater than max 3"},
	"a desired count out of bounds":     {"desired: 2", "desired: 9", "not between 1 and 3"},
	"an unknown instance type":          {"instanceType: 't3.small', subnet", "instanceType: 't3-small', subnet", "not an instance type"},
	"a balancer in one subnet":          {"[id('a'), id('b')]", "[id('a')]", "needs subnets in two zones"},
	"two subnets of one zone":           {"zone: 'eu-central-1b'", "zone: 'eu-central-1a'", "are in the same zone"},
	"a volume of another zone":          {"zone: 'eu-central-1a', size", "zone: 'eu-central-1b', size", `in zone "eu-central-1b"`},
	"no image":                          {"image: 'ami-12345678', instanceType: 't3.small', subnet", "image: 'debian-12', instanceType: 't3.small', subnet", "is not an image"},
	"no public key":                     {"'ssh-ed25519 AAAA", "'ed25519 AAAA", "is not a public key"},
	"a policy that is no JSON":          {"std.manifestJsonMinified({ Version: '2012-10-17', Statement: [] })", "'allow'", "a policy must be JSON"},
	"a name for an address":             {"'192.0.2.1'", "'host.example.com'", "is not an address for a record of kind A"},
	"what excludes each other":          {"name: 'ops'", "name: 'ops', keyNamePrefix: 'o'", "cannot be set together"},
	"the same argument twice":           {"cidr: '10.0.0.0/16'", "cidr: '10.0.0.0/16', cidrBlock: '10.0.0.0/16'", "are the same argument"},
	"a secret":                          {"'shop-backups'", "defx.secret('x')", "would be stored in Terraform's state"},
	"an unknown argument of any type":   {"delay_seconds: 5", "delay_second: 5", `has no argument "delay_second"`},
	"an unknown resource":               {"'aws_sqs_queue'", "'sqs_queue', provider: 'hashicorp/aws'", "is not a resource type of hashicorp/aws"},
	"an unknown name inside an object":  {"cidrBlocks: ['0.0.0.0/0']", "cidrs: ['0.0.0.0/0']", `unknown field "cidrs"`},
	"a list where one object is needed": {"launchTemplate: { id: id('plan'), version: '$Latest' }", "launchTemplate: [{ id: id('plan') }, { id: id('plan') }]", "must be one object"},
	"a module's name":                   {"size: 20", "size: 20, module: 'Data!'", "is not a valid module name"},
	"a number that is no name":          {"name: 'front'", "name: 'front_one'", "is not a valid load balancer name"},
}

func evaluateResources(t *testing.T, text string) error {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "defx.jsonnet"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := project.Open(dir, "defx.jsonnet", "", lang.Config{}, backends.NewSet(systemd.New(), ec2.New()))
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Evaluate(context.Background())
	return err
}

// TestResources_MistakesReportTheirLine checks that mistakes are reported with a
// hint before anything is created and without Terraform.
func TestResources_MistakesReportTheirLine(t *testing.T) {
	if err := evaluateResources(t, sound); err != nil {
		t.Fatalf("the sound deployment: %v", err)
	}
	for name, m := range mistakes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := strings.Index(sound, m.old)
			if at < 0 || strings.Count(sound, m.old) != 1 {
				t.Fatalf("%q is not in the deployment exactly once", m.old)
			}
			err := evaluateResources(t, strings.Replace(sound, m.old, m.new, 1))
			if err == nil {
				t.Fatal("no error")
			}
			text := err.Error()
			t.Log(text)
			if !strings.Contains(text, m.want) {
				t.Errorf("%q is missing", m.want)
			}
			if !strings.Contains(text, "hint: ") {
				t.Error("there is no hint")
			}
			line := 1 + strings.Count(sound[:at], "\n")
			if name == "no region" || name == "a circle" { // reported where the value is needed
				return
			}
			if !strings.Contains(text, fmt.Sprintf("defx.jsonnet:%d:", line)) && name != "two subnets of one zone" && name != "a volume of another zone" && name != "at least more than at most" {
				t.Errorf("line %d is missing", line)
			}
		})
	}
}

const balanced = `local defx = import 'defx/v1.libsonnet';
local id(name) = defx.ref(name).output('id');
function(env='dev') {
  name: 'shop',
  libs: { shop: {
    web: { place: { replicas: 2, spread: 'machine' }, service: { command: ['/usr/bin/web'], ports: { http: 8080 } }, fqdn: 'direct.example.com' },
    many: { ec2: { class: 'autoscale', min: 1, max: 2 }, service: { command: ['/usr/bin/web'], ports: { http: 8080 } } },
    here: { backend: 'systemd', place: { machine: 'box' }, service: { command: ['/usr/bin/web'], ports: { http: 8080 } } },
    front: { loadBalancer: { listen: 80, target: 'http', backends: ['web', 'many'], attach: 'auto', subnets: [id('a'), id('b')], kind: 'application' }, fqdn: 'shop.example.com' },
  } },
  machines: { box: { connect: 'dir:box', address: '10.0.0.9' } },
  defaults: { backend: 'ec2', ec2: { region: 'eu-central-1', instanceType: 't3.small', image: 'ami-12345678', subnet: id('a') } },
  resources: {
    vpc: { type: 'aws.vpc', cidr: '10.0.0.0/16' },
    a: { type: 'aws.subnet', vpc: id('vpc'), cidr: '10.0.1.0/24', zone: 'eu-central-1a' },
    b: { type: 'aws.subnet', vpc: id('vpc'), cidr: '10.0.2.0/24', zone: 'eu-central-1b' },
    zone: { type: 'aws.dnsZone', name: 'example.com' },
  },
}
`

// TestBalancers_MistakesHoldOnlyTheirSubject checks that a mistake holds the
// balancer or its backend, and nothing else.
func TestBalancers_MistakesHoldOnlyTheirSubject(t *testing.T) {
	evaluate := func(text string) *project.Desired {
		t.Helper()
		d, _ := evaluated(t, text)
		if d == nil {
			t.Fatal("it does not evaluate")
		}
		return d
	}
	d := evaluate(balanced)
	if len(d.Held) > 0 {
		t.Fatal(d.Held[0].Err)
	}
	for _, want := range []string{"module/shop-front", "module/shop-front-dns", "module/shop-front-shop-web-0", "module/shop-front-shop-web-1", "module/shop-web-dns"} {
		if d.Rendered.Plan.Find(want) == nil {
			t.Errorf("there is no %s", want)
		}
	}
	if u := d.Rendered.Units["module/shop-front-shop-web-0"]; u == nil || u.Drain != 30 || len(u.Follows) != 1 || u.Follows[0] != "shop/web#0" {
		t.Errorf("the attachment does not follow its replica: %+v", u)
	}
	for name, m := range map[string]struct{ old, new, want string }{
		"no such backend":           {"['web', 'many']", "['wbe']", `did you mean "web"?`},
		"a backend that runs not":   {"['web', 'many']", "['vpc']", "vpc has no service"},
		"no such port":              {"target: 'http'", "target: 'htp'", `has no port "htp"`},
		"a port of udp":             {"ports: { http: 8080 } }, fqdn", "ports: { http: { port: 8080, protocol: 'udp' } } }, fqdn", "has protocol udp"},
		"two ports":                 {"ports: { http: 8080 } }, fqdn", "ports: { http: 8081 } }, fqdn", "but another backend has it as"},
		"nobody behind it":          {"['web', 'many']", "[]", "it has no backends"},
		"on a machine of one's own": {"['web', 'many']", "['here']", "is not on an EC2 instance"},
		"one zone":                  {"[id('a'), id('b')]", "[id('a')]", "needs subnets in two zones"},
		"a network elsewhere":       {"[id('a'), id('b')]", "['subnet-0123456789abcdef0']", "is not among the resources"},
		"no way to attach":          {"'auto'", "'always'", "one of auto, manual"},
		"by hand what scales":       {"'auto'", "'manual'", "AWS attaches the instances of shop/many"},
		"no time":                   {"attach: 'auto'", "attach: 'auto', drain: '1500ms'", "1500ms is out of range"},
		"two kinds":                 {"front: {", "front: { service: { command: ['/x'] },", `"resource" and "loadBalancer" is required`},
		"a name for two":            {"'direct.example.com'", "'shop.example.com'", `already has the DNS name "shop.example.com"`},
		"no name":                   {"'shop.example.com'", "'shop !.example.com'", "is not a valid DNS name"},
		"a name of a group":         {"many: {", "many: { fqdn: 'many.example.com',", "a DNS record of their addresses would be wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Count(balanced, m.old) != 1 {
				t.Fatalf("%q is not in the deployment exactly once", m.old)
			}
			d := evaluate(strings.Replace(balanced, m.old, m.new, 1))
			var text string
			for _, h := range d.Held {
				text += h.Err.Error()
			}
			if !strings.Contains(text, m.want) || !strings.Contains(text, "hint: ") || !strings.Contains(text, "defx.jsonnet:") {
				t.Errorf("no %q with position and hint:\n%s", m.want, text)
			}
			if d.Rendered.Plan.Find("shop/here#0") == nil {
				t.Error("another functionality is held too")
			}
		})
	}
}

// evaluated evaluates an entry file in a folder with a package and secrets, and
// returns all errors; d is nil if evaluation failed as a whole.
func evaluated(t *testing.T, text string) (d *project.Desired, errs string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"defx.jsonnet": text, "pack/bin/web": "#!/bin/sh", "secrets/index.json": `{"app/db": "1", "an other": "1"}`} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p, err := project.Open(dir, "defx.jsonnet", "", lang.Config{}, backends.NewSet(systemd.New(), ec2.New()))
	if err != nil {
		t.Fatal(err)
	}
	if d, err = p.Evaluate(t.Context()); err != nil {
		return nil, err.Error()
	}
	for _, h := range d.Held {
		errs += h.Err.Error()
	}
	return d, errs
}

const scaled = `local defx = import 'defx/v1.libsonnet';
local id(name) = defx.ref(name).output('id');
function(env='dev') {
  name: 'shop',
  libs: { app: {
    web: { ec2: { class: 'autoscale', min: 1, max: 2 }, service: { package: defx.artifact('pack'), command: ['bin/web'], ports: { http: 8080 }, secrets: { DB: defx.secret('app/db') } } },
  } },
  defaults: { backend: 'ec2', ec2: { region: 'cn-north-1', instanceType: 't3.small', image: 'ami-12345678', subnet: id('a'), bucket: id('packages'), secretStore: 'secretsmanager:prod/' } },
  resources: {
    packages: { type: 'aws.s3', name: 'shop-packages' },
    vpc: { type: 'aws.vpc', cidr: '10.0.0.0/16' },
    a: { type: 'aws.subnet', vpc: id('vpc'), cidr: '10.0.1.0/24', zone: 'cn-north-1a' },
  },
}
`

// TestAutoscale_MistakesAreRefused checks that everything that instances of a group
// fetch is known before anything is created, or else refused.
func TestAutoscale_MistakesAreRefused(t *testing.T) {
	d, errs := evaluated(t, scaled)
	if errs != "" {
		t.Fatal(errs)
	}
	u := d.Rendered.Units["module/app-web"]
	if u == nil || len(u.Artifacts) != 1 || u.Artifacts[0].Path != "pack" {
		t.Fatalf("the module does not have the package: %+v", u)
	}
	run := string(u.Payload.Run)
	for _, want := range []string{"defx/dev/shop/app-web/" + u.Artifacts[0].Digest.Hex() + ".tar", `"../.packages/` + u.Artifacts[0].Digest.Hex() + `.tar"`,
		`arn:aws-cn:s3:::shop-packages/defx/dev/shop/app-web/*`, `arn:aws-cn:secretsmanager:cn-north-1:*:secret:prod/app/db-??????`, `ec2.amazonaws.com.cn`} {
		if !strings.Contains(run, want) {
			t.Errorf("%s is not in the module:\n%s", want, run)
		}
	}
	if own, _ := evaluated(t, strings.Replace(scaled, "max: 2 }", "max: 2, profile: 'ours' }", 1)); strings.Contains(string(own.Rendered.Units["module/app-web"].Payload.Run), "aws_iam_role") {
		t.Error("a role is created although a profile is named")
	}
	// Other permissions are a new policy resource: instances of the previous template keep theirs.
	policy := func(d *project.Desired) string {
		var module struct {
			Resource struct {
				Policies map[string]struct {
					Name      string
					Lifecycle struct {
						First bool `json:"create_before_destroy"`
					}
				} `json:"aws_iam_role_policy"`
				Groups map[string]struct{ Tag []struct{ Key, Value string } } `json:"aws_autoscaling_group"`
			}
		}
		m, err := ec2.Realize(d.Rendered.Units["module/app-web"].Payload, func(token.Token) (string, bool) { return "known", true })
		if err == nil {
			err = json.Unmarshal(m.JSON, &module)
		}
		if err != nil || len(module.Resource.Policies) != 1 || len(module.Resource.Groups) != 1 {
			t.Fatalf("%v\n%s", err, m.JSON)
		}
		for name, p := range module.Resource.Policies {
			reads := false
			for _, g := range module.Resource.Groups {
				for _, tag := range g.Tag {
					reads = reads || tag.Key == "defx-may" && tag.Value == "${aws_iam_role_policy."+name+".name}"
				}
			}
			if !p.Lifecycle.First || !reads {
				t.Errorf("the policy is not kept until its group has changed:\n%s", m.JSON)
			}
			return name + " " + p.Name
		}
		return ""
	}
	other, _ := evaluated(t, strings.Replace(scaled, "'app/db'", "'app/store'", 1))
	if a, b := policy(d), policy(other); a == b || strings.Fields(a)[1] == strings.Fields(b)[1] {
		t.Errorf("policies %s and %s have the same name", a, b)
	}
	for name, m := range map[string]struct{ old, new, want string }{
		"no bucket":              {"bucket: id('packages'), ", "", "no bucket is set"},
		"no name of a bucket":    {"id('packages'), s", "'Packages', s", `"Packages" is not a valid bucket name`},
		"a bucket of no name":    {", name: 'shop-packages'", "", "must be known before it is created"},
		"a bucket that is none":  {"id('packages'), s", "id('vpc'), s", "bucket must be a name or read an aws.s3"},
		"a bucket elsewhere":     {"name: 'shop-packages'", "name: 'shop-packages', region: 'eu-west-1'", "is in region eu-west-1, but the instances are in cn-north-1"},
		"no store of secrets":    {", secretStore: 'secretsmanager:prod/'", "", "no secret store is set"},
		"an unknown store":       {"'secretsmanager:prod/'", "'vault:prod/'", `"vault:prod/" is not a valid secret store`},
		"a store of a wrong way": {"'secretsmanager:prod/'", "'ssm:$(x)/'", "is not a valid secret store"},
		"a path without a root":  {"'secretsmanager:prod/'", "'ssm:prod/'", `"prod/app/db" is not a valid parameter name`},
		"a path by its name":     {"'secretsmanager:prod/'", "'ssm:'", `"app/db" is not a valid parameter name`},
		"a secret of a bad name": {"'app/db'", "'an other'", "is not a valid secret name in AWS"},
		"a taken name":           {"vpc: {", "'app-web-role': { type: 'aws.queue' }, vpc: {", `would have the name "app-web-role", which is already used`},
		"data of its own":        {"ports:", "dirs: { state: 'web' }, ports:", "AWS deletes instances with their data"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Count(scaled, m.old) != 1 {
				t.Fatalf("%q is not in the deployment exactly once", m.old)
			}
			_, text := evaluated(t, strings.Replace(scaled, m.old, m.new, 1))
			if !strings.Contains(text, m.want) || !strings.Contains(text, "hint: ") || !strings.Contains(text, "defx.jsonnet:") {
				t.Errorf("no %q with position and hint:\n%s", m.want, text)
			}
		})
	}
}
