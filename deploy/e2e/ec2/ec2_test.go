package ec2

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const small = `
    vpc: { type: 'aws.vpc', cidr: '10.0.0.0/16', tags: { Name: 'a ${b} %{c} $${d} 100%' } },
    a: { type: 'aws.subnet', vpc: defx.ref('vpc').output('id'), cidr: '10.0.1.0/24', zone: 'eu-central-1a' },
    web: { type: 'aws.securityGroup', vpc: defx.ref('vpc').output('id'), name: 'web', description: 'the web',
      ingress: [{ fromPort: 80, toPort: 80, protocol: 'tcp', cidrBlocks: ['0.0.0.0/0'] }] },
    key: { type: 'aws.keyPair', name: 'ops', publicKey: 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKkF4gN0c1kAbzYwP4Vv7Q0Dd2kq3YyT5G8W8d0b2f1u' },
    box: { type: 'aws.instance', image: 'ami-12345678', instanceType: 't3.small', subnet: defx.ref('a').output('id'), securityGroups: [defx.ref('web').output('id')] },`

// TestModules_NetworkAndInstance creates, updates and destroys three modules.
func TestModules_NetworkAndInstance(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	c.entry(small, "")
	if out := c.must("plan"); !strings.Contains(out, "+ module/network") || len(c.starts()) > 0 {
		t.Fatal("the plan has no network module, or started Terraform")
	}
	c.must("apply", "--yes")
	if list := c.instances(); len(list) != 1 || list[0].Type != "t3.small" || !strings.HasPrefix(list[0].Address, "10.0.1.") {
		t.Fatalf("instances: %v", list)
	}
	c.starts()

	c.must("apply", "--yes")
	if s := c.starts(); len(s) > 0 {
		t.Fatalf("nothing changed, and Terraform was started: %v", s)
	}
	for _, m := range c.modules() {
		if out := c.terraform(m, "plan", "-no-color"); !strings.Contains(out, "No changes.") {
			t.Errorf("%s\n%s", m, out)
		}
	}
	if out := c.terraform(c.modules()[len(c.modules())-1], "validate", "-no-color"); !strings.Contains(out, "The configuration is valid.") {
		t.Error(out)
	}
	filepath.WalkDir(filepath.Join(c.dir, ".defx/shop/dev/terraform"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() == ".terraform" {
			return fs.SkipDir
		}
		if info, err := d.Info(); err == nil && !d.IsDir() && info.Mode().Perm()&0o077 != 0 && d.Name() != ".terraform.lock.hcl" {
			t.Errorf("others may read %s: %s", p, info.Mode())
		}
		return nil
	})
	c.starts()

	// One changed field: only its module is applied; modules that read it are planned, but
	// not changed.
	c.entry(strings.Replace(small, "t3.small", "t3.large", 1), "")
	before := c.instances()[0].ID
	if out := c.must("plan"); !strings.Contains(out, `box.instanceType`) || !strings.Contains(out, "1 to update") {
		t.Fatal("the plan does not show the field")
	}
	c.must("apply", "--yes")
	if now := c.instances()[0]; now.ID != before || now.Type != "t3.large" {
		t.Fatalf("%v", now)
	}
	for _, s := range c.starts() {
		if !strings.Contains(s, "/terraform/instances ") {
			t.Errorf("another module was changed: %s", s)
		}
	}

	// Manual changes: only a query of the cloud shows them.
	c.ask("ec2", url.Values{"Action": {"ModifyInstanceAttribute"}, "Version": {"2016-11-15"}, "InstanceId": {before}, "InstanceType.Value": {"t3.nano"}}, nil)
	if code, _ := c.run("plan", "--exit-code"); code != 0 {
		t.Errorf("a plan without --refresh queries the cloud: exit code %d", code)
	}
	if code, out := c.run("plan", "--refresh"); code != 1 || !strings.Contains(out, "defx providers lock") {
		t.Errorf("exit code %d: a provider that is not locked runs before an apply", code)
	}
	c.lockProviders()
	if code, out := c.run("plan", "--refresh", "--exit-code"); code != 2 || !strings.Contains(out, "t3.nano") || !strings.Contains(out, "t3.large") {
		t.Errorf("exit code %d: drift is not shown", code)
	}
	c.must("apply", "--refresh", "--yes")
	if now := c.instances()[0]; now.ID != before || now.Type != "t3.large" {
		t.Fatalf("the drift was not repaired: %v", now)
	}

	// Back to the previous configuration: the same.
	c.must("rollback", "--to", "1", "--yes")
	if now := c.instances()[0]; now.Type != "t3.small" {
		t.Fatalf("%v", now)
	}
	c.must("destroy", "--confirm", "dev")
	if n := len(c.instances()) + c.count("DescribeVpcs", "vpcId") + c.count("DescribeSecurityGroups", "groupId"); n != 0 {
		t.Errorf("%d resources are left", n)
	}
	if list := c.modules(); len(list) > 0 {
		t.Errorf("folders are left: %v", list)
	}
}

// TestModules_KilledAnywhere kills defx at seeded moments.
func TestModules_KilledAnywhere(t *testing.T) {
	t.Parallel()
	n := 5
	if s := os.Getenv("DEFX_TEST_KILLS_EC2"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	c := newCloud(t)
	c.entry(`
    vpc: { type: 'aws.vpc', cidr: '10.0.0.0/16' },
    a: { type: 'aws.subnet', vpc: defx.ref('vpc').output('id'), cidr: '10.0.1.0/24', zone: 'eu-central-1a' },
    other: { type: 'aws.subnet', module: 'second', vpc: defx.ref('vpc').output('id'), cidr: '10.0.2.0/24', zone: 'eu-central-1a' },`, "")
	seed, _ := strconv.ParseUint(os.Getenv("DEFX_TEST_KILLS_SEED"), 10, 64)
	random := rand.New(rand.NewPCG(1, 2+seed))
	begun := time.Now()
	c.must("apply", "--yes")
	whole := time.Since(begun)
	for i := range n {
		c.ask("moto-api/reset", nil, nil) // the cloud loses everything, and defx does not know
		if err := os.RemoveAll(filepath.Join(c.dir, ".defx/shop")); err != nil {
			t.Fatal(err)
		}
		cmd := c.command("apply", "--yes")
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := time.Duration(random.Int64N(int64(whole)))
		time.Sleep(after)
		cmd.Process.Signal(syscall.SIGKILL)
		cmd.Wait()
		t.Logf("kill %d after %s:\n%s", i, after, said.String())
		c.must("apply", "--yes")
		if code, out := c.run("plan", "--exit-code"); code != 0 {
			t.Fatalf("something is left to do\n%s", out)
		}
		if v, s := c.count("DescribeVpcs", "vpcId"), c.count("DescribeSubnets", "subnetId"); v != 1 || s != 2 {
			t.Fatalf("%d VPCs and %d subnets after a kill", v, s)
		}
	}
}

// TestModules_ProviderErrors: errors of the cloud are shown with defx's addresses, and what
// was created.
func TestModules_ProviderErrors(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	c.entry(`
    vpc: { type: 'aws.vpc', cidr: '10.0.0.0/16' },
    a: { type: 'aws.subnet', vpc: 'vpc-0123456789abcdef0', cidr: '10.0.1.0/24' },`, "")
	code, out := c.run("apply", "--yes")
	if code != 3 || !strings.Contains(out, "a: creating EC2 Subnet") || !strings.Contains(out, "vpc-0123456789abcdef0") || !strings.Contains(out, "existing resources: vpc; not created: a") {
		t.Errorf("exit code %d", code)
	}
	// After the fix it continues with what exists.
	c.entry(`
    vpc: { type: 'aws.vpc', cidr: '10.0.0.0/16' },
    a: { type: 'aws.subnet', vpc: defx.ref('vpc').output('id'), cidr: '10.0.1.0/24' },`, "")
	c.must("apply", "--yes")
	if v, s := c.count("DescribeVpcs", "vpcId"), c.count("DescribeSubnets", "subnetId"); v != 1 || s != 1 {
		t.Fatalf("%d VPCs and %d subnets", v, s)
	}
	// A resource that keeps data is not deleted when it is removed from the configuration.
	c.entry(`
    vpc: { type: 'aws.vpc', cidr: '10.0.0.0/16' },
    a: { type: 'aws.subnet', vpc: defx.ref('vpc').output('id'), cidr: '10.0.1.0/24' },
    data: { type: 'aws.volume', module: 'network', zone: 'eu-central-1a', size: 1, volumeType: 'gp3' },`, "")
	c.must("apply", "--yes")
	// Nor is it replaced without consent, in any way. An update in place takes one start.
	c.edit("size: 1", "size: 2")
	c.starts()
	c.must("apply", "--yes")
	if s := c.starts(); len(s) != 1 {
		t.Errorf("Terraform was started %d times: %v", len(s), s)
	}
	c.lockProviders()
	c.edit("zone: 'eu-central-1a'", "zone: 'eu-central-1b'")
	before := c.ids("DescribeVolumes", "volumeId")
	for _, how := range [][]string{{"apply", "--yes"}, {"apply", "--refresh", "--yes"}} {
		if code, out := c.run(how...); code != 3 || !strings.Contains(out, "it would replace data, which is protected or has data; nothing was changed") || c.ids("DescribeVolumes", "volumeId") != before {
			t.Errorf("exit code %d: a volume is made anew unasked", code)
		}
	}
	c.must("apply", "--refresh", "--yes", "--allow-delete", "module/network")
	if c.ids("DescribeVolumes", "volumeId") == before {
		t.Error("consent was assumed")
	}
	c.entry(`
    vpc: { type: 'aws.vpc', cidr: '10.0.0.0/16' },
    a: { type: 'aws.subnet', vpc: defx.ref('vpc').output('id'), cidr: '10.0.1.0/24' },`, "")
	if code, out := c.run("apply", "--yes"); code != 3 || !strings.Contains(out, "data, which is protected or has data; nothing was changed") {
		t.Errorf("exit code %d: a volume may go unasked", code)
	}
	if n := c.count("DescribeVolumes", "volumeId"); n != 1 {
		t.Errorf("%d volumes", n)
	}
	c.must("apply", "--yes", "--allow-delete", "module/network")
	if n := c.count("DescribeVolumes", "volumeId"); n != 0 {
		t.Errorf("%d volumes", n)
	}
}

// TestModules_WithoutTerraform: a plan works without Terraform, and apply says what is
// missing.
func TestModules_WithoutTerraform(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	c.entry(`    vpc: { type: 'aws.vpc', cidr: '10.0.0.0/16' },`, "  machines: { box: { connect: 'dir:./box' } },\n")
	old := filepath.Join(c.home, "old")
	c.write(old, "#!/bin/sh\necho '{\"terraform_version\":\"1.1.0\"}'\n", 0o755)
	env := c.env
	for program, want := range map[string]string{"/nowhere/terraform": "cannot be executed", old: "is version 1.1.0, but at least 1.5.0 is required"} {
		c.env = append(env[:len(env):len(env)], "DEFX_TERRAFORM="+program)
		c.must("plan")
		if code, out := c.run("apply", "--yes"); code != 3 || !strings.Contains(out, want) || !strings.Contains(out, "hint: install Terraform 1.5.0 or newer") {
			t.Errorf("%s: exit code %d", program, code)
		}
	}
	c.env = env
	c.must("apply", "--yes")

	// Types that are not built in are checked against the provider's schema, as soon as that
	// is available.
	c.entry(`    table: { type: 'terraform.resource', resource: 'aws_dynamodb_table', arguments: { name: 'jobs', billingmode: 'PAY_PER_REQUEST', hash_key: 'id', attribute: { name: 'id', type: 'S' } } },`, "")
	if code, out := c.run("plan"); code != 1 || !strings.Contains(out, "run defx providers lock") {
		t.Errorf("exit code %d: a plan without the schema of a resource\n%s", code, out)
	}
	c.lockProviders()
	if code, out := c.run("plan"); code != 1 || !strings.Contains(out, `has no argument "billingmode"`) || !strings.Contains(out, `did you mean "billingMode"?`) || !strings.Contains(out, "defx.jsonnet:7:") {
		t.Errorf("exit code %d: the provider's schema was not used", code)
	}
}

// TestModules_RenamedResource: a renamed resource is kept; one with retain is forgotten and
// not deleted.
func TestModules_RenamedResource(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	c.entry(`
    vpc: { type: 'aws.vpc', cidr: '10.0.0.0/16' },
    a: { type: 'aws.subnet', vpc: defx.ref('vpc').output('id'), cidr: '10.0.1.0/24', zone: 'eu-central-1a' },
    jobs: { type: 'aws.queue', name: 'jobs' },
    kept: { type: 'aws.volume', module: 'network', zone: 'eu-central-1a', size: 1, volumeType: 'gp3', retain: true },`, "")
	c.must("apply", "--yes")
	ids := func() string {
		var out string
		for _, what := range [][2]string{{"DescribeVpcs", "vpcId"}, {"DescribeSubnets", "subnetId"}} {
			out += c.ids(what[0], what[1])
		}
		for _, m := range c.modules() {
			if strings.HasSuffix(m, "/jobs") || strings.HasSuffix(m, "/work") {
				out += c.terraform(m, "output", "-no-color", "-json")
			}
		}
		return strings.NewReplacer("jobs__", "", "work__", "").Replace(out)
	}
	before := ids()
	renamed := `
    net: { type: 'aws.vpc', cidr: '10.0.0.0/16' },
    a: { type: 'aws.subnet', vpc: defx.ref('net').output('id'), cidr: '10.0.1.0/24', zone: 'eu-central-1a' },
    work: { type: 'aws.queue', name: 'jobs' },`
	c.entry(renamed, "  moved: { vpc: 'net', jobs: 'work' },\n")
	c.lockProviders()
	if out := c.must("plan", "--refresh"); strings.Contains(out, "a.vpc") || strings.Contains(out, "delete") || strings.Contains(out, "create") && !strings.Contains(out, "0 to create") {
		t.Error("a rename is shown as another change")
	}
	c.must("apply", "--yes", "--allow-delete", "module/network")
	if after := ids(); after != before {
		t.Errorf("the renamed resource was replaced:\n%s\n%s", before, after)
	}
	if n := c.count("DescribeVolumes", "volumeId"); n != 1 {
		t.Errorf("%d volumes: a retained one was deleted", n)
	}
	for _, m := range c.modules() {
		if out := c.terraform(m, "plan", "-no-color"); !strings.Contains(out, "No changes.") {
			t.Errorf("%s\n%s", m, out)
		}
	}
	c.entry(renamed, "")
	c.starts()
	if code, out := c.run("plan", "--exit-code"); code != 0 || len(c.starts()) > 0 {
		t.Errorf("the rename is repeated\n%s", out)
	}
	c.must("rollback", "--to", "1", "--yes") // to the old names
	if after := ids(); after != before {
		t.Errorf("the resource was replaced when renamed back:\n%s\n%s", before, after)
	}
	c.must("destroy", "--confirm", "dev")
	if n := c.count("DescribeVpcs", "vpcId"); n != 0 {
		t.Errorf("%d networks are left", n)
	}
}

// TestModules_UnknownValuesOnlyCreate: a change that no plan has shown may create resources,
// but not change existing ones.
func TestModules_UnknownValuesOnlyCreate(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	resources := `
    jobs: { type: 'aws.queue', name: 'jobs' },
    where: { type: 'aws.parameter', kind: 'String', name: '/jobs', value: defx.ref('jobs').output('url') },`
	c.entry(resources, "")
	c.must("apply", "--yes")
	c.entry(strings.Replace(resources, "name: 'jobs'", "name: 'work'", 1), "")
	if out := c.must("plan"); !strings.Contains(out, "? module/where") || !strings.Contains(out, "if jobs.output(url) changes") {
		t.Error("the plan does not show what is unknown")
	}
	if code, out := c.run("apply", "--yes"); code != 3 || !strings.Contains(out, "unknown in the plan would change existing resources: where (update); nothing was changed") {
		t.Errorf("exit code %d", code)
	}
	c.must("apply", "--yes") // now a plan shows it
	if code, out := c.run("plan", "--exit-code"); code != 0 {
		t.Errorf("something is left to do\n%s", out)
	}
}
