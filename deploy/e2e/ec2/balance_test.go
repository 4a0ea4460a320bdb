package ec2

import (
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/defx-dev/defx/deploy/machinetest"
)

// targets returns the instances registered at the balancer, according to the cloud.
func (c *cloud) targets() []string {
	c.t.Helper()
	var groups struct {
		ARN []string `xml:"DescribeTargetGroupsResult>TargetGroups>member>TargetGroupArn"`
	}
	c.ask("elasticloadbalancing", url.Values{"Action": {"DescribeTargetGroups"}, "Version": {"2015-12-01"}}, &groups)
	var out []string
	for _, arn := range groups.ARN {
		var doc struct {
			Items []struct {
				ID    string `xml:"Target>Id"`
				State string `xml:"TargetHealth>State"`
			} `xml:"DescribeTargetHealthResult>TargetHealthDescriptions>member"`
		}
		c.ask("elasticloadbalancing", url.Values{"Action": {"DescribeTargetHealth"}, "Version": {"2015-12-01"}, "TargetGroupArn": {arn}}, &doc)
		for _, i := range doc.Items {
			if i.State == "healthy" {
				out = append(out, i.ID)
			}
		}
	}
	slices.Sort(out)
	return out
}

// names returns the addresses of a DNS name, according to the cloud.
func (c *cloud) names(name string) []string {
	c.t.Helper()
	var out []string
	for _, m := range c.modules() {
		if strings.HasSuffix(m, "/"+name) {
			for _, l := range strings.Split(c.terraform(m, "state", "show", "-no-color", "aws_route53_record."+name), "\n") {
				if l = strings.Trim(strings.TrimSpace(l), `",`); strings.HasPrefix(l, "10.213.") {
					out = append(out, l)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// TestBalancer_UpdateReplaceRestart: a replica is registered when it is ready, and
// deregistered before it stops; a DNS name without a balancer resolves to all replicas; and
// the services of a replaced instance run on the new one after the same apply.
func TestBalancer_UpdateReplaceRestart(t *testing.T) {
	lab := machinetest.Boot(t, 0)
	c := newCloud(t)
	key, err := os.ReadFile(lab.Key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	c.env = append(c.env, "PATH="+lab.Bin+":"+os.Getenv("PATH"))
	more := "" // more resources
	entry := func(greeting, image, attach string) {
		c.write("defx.jsonnet", fmt.Sprintf(`local defx = import 'defx/v1.libsonnet';
local site = 'daemon off;\npid %%(run)s/pid;\nerror_log stderr;\nevents {}\nhttp {\n access_log off;\n client_body_temp_path %%(run)s/b; proxy_temp_path %%(run)s/p; fastcgi_temp_path %%(run)s/f; uwsgi_temp_path %%(run)s/u; scgi_temp_path %%(run)s/s;\n server { listen %%(port)s; return 200 "%%(text)s"; }\n}\n';
function(env='dev') {
  name: 'shop',
  libs: { shop: {
    web: { place: { replicas: 2, spread: 'machine' }, fqdn: 'direct.example.com',
      service: { command: ['/usr/sbin/nginx', '-c', '/etc/site.conf'], ports: { http: 8080 }, dirs: { runtime: 'web' }, files: { '/etc/site.conf': site %% { run: defx.me.dir('runtime'), port: defx.me.port('http'), text: '%s' } }, ready: { http: '/', port: 'http' } } },
    front: { loadBalancer: { listen: 80, target: 'http', backends: ['web'], attach: '%s', drain: '1s' }, fqdn: 'shop.example.com' },
  } },
  defaults: { backend: 'ec2', ec2: { region: '%s', instanceType: 't3.small', image: '%s', user: 'ops', authorizedKeys: ['%s'], subnet: defx.ref('a').output('id') } },
  resources: {
    vpc: { type: 'aws.vpc', cidr: '10.213.0.0/16' },
    a: { type: 'aws.subnet', vpc: defx.ref('vpc').output('id'), cidr: '%s', zone: 'eu-central-1a' },
    zone: { type: 'aws.dnsZone', name: 'example.com' },%s
  },
}
`, greeting, attach, region, image, strings.TrimSpace(string(key)), lab.Network(), more), 0o644)
	}
	c.bootInstances(lab, region)

	// Requests about targets, and what the replica answered at that moment.
	var mu sync.Mutex
	var said []string
	var victim *os.Process        // killed at the next request about a target
	unhealthy := map[string]int{} // target → number of times it is still reported unhealthy
	c.between(func(action string, form url.Values) string {
		mu.Lock()
		target := form.Get("Targets.member.1.Id")
		if action == "RegisterTargets" {
			unhealthy[target] = 3 // the provider asks too
		}
		if action == "DescribeTargetHealth" && unhealthy[target] > 0 {
			unhealthy[target]--
			mu.Unlock()
			return `<DescribeTargetHealthResponse xmlns="http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/"><DescribeTargetHealthResult><TargetHealthDescriptions><member><TargetHealth><State>initial</State><Reason>Elb.RegistrationInProgress</Reason></TargetHealth></member></TargetHealthDescriptions></DescribeTargetHealthResult></DescribeTargetHealthResponse>`
		}
		mu.Unlock()
		if action != "RegisterTargets" && action != "DeregisterTargets" {
			return ""
		}
		word := strings.ToLower(strings.TrimSuffix(action, "Targets")) + " " + c.answer(form.Get("Targets.member.1.Id"))
		mu.Lock()
		defer mu.Unlock()
		for other, n := range unhealthy {
			if action == "DeregisterTargets" && other != target && n > 0 {
				word += " before the other one is well"
			}
		}
		said = append(said, word)
		if victim != nil {
			victim.Kill()
			victim = nil
		}
		return ""
	})
	requests := func() []string {
		mu.Lock()
		defer mu.Unlock()
		out := said
		said = nil
		return out
	}

	// First without automatic registration: both replicas run, and get no requests.
	entry("one", "ami-12345678", "manual")
	if out := c.must("apply", "--yes"); !strings.Contains(out, "not registered with shop/front: shop/web#0, shop/web#1") {
		t.Error("the output does not say that something is left to do")
	}
	if got := c.targets(); len(got) != 0 {
		t.Fatalf("registered without consent: %v", got)
	}
	c.must("attach", "front", "shop/web#0", "--yes")
	if got := c.targets(); len(got) != 1 {
		t.Fatalf("targets: %v", got)
	}
	if code, out := c.run("plan", "--exit-code"); code != 0 {
		t.Errorf("a manually registered target is reported as a difference\n%s", out)
	}
	c.must("detach", "front", "--yes")
	if got := c.targets(); len(got) != 0 {
		t.Fatalf("targets: %v", got)
	}
	if code, _ := c.run("detach", "front", "shop/wbe#0"); code != 1 {
		t.Errorf("exit code %d", code)
	}

	// With automatic registration: after the replica is ready.
	entry("one", "ami-12345678", "auto")
	requests()
	c.must("apply", "--yes")
	if got := c.targets(); len(got) != 2 {
		t.Fatalf("targets: %v", got)
	}
	if got := requests(); !slices.Equal(got, []string{"register one", "register one"}) {
		t.Errorf("%q", got)
	}
	before := c.instances()
	if got := c.names("shop-web-dns"); !slices.Equal(got, addresses(before)) {
		t.Errorf("the name leads to %v, and there is %v", got, before)
	}
	for _, m := range c.modules() {
		if out := c.terraform(m, "plan", "-no-color"); !strings.Contains(out, "No changes.") {
			t.Errorf("%s\n%s", m, out)
		}
	}

	// An update: deregister, then stop; ready, then register; and only then the other one.
	entry("two", "ami-12345678", "auto")
	if out := c.must("plan"); strings.Count(out, "attach") != 2 {
		t.Error("the plan does not show the registrations")
	}
	c.must("apply", "--yes")
	if got, want := requests(), []string{"deregister one", "register two", "deregister one", "register two"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := c.targets(); len(got) != 2 {
		t.Fatalf("targets: %v", got)
	}

	// A restart deregisters the replica too, and the same version runs afterwards.
	c.must("restart", "shop/web#0")
	if got, want := requests(), []string{"deregister two", "register two"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := c.targets(); len(got) != 2 {
		t.Fatalf("targets: %v", got)
	}
	if code, out := c.run("plan", "--exit-code"); code != 0 {
		t.Errorf("something is left to do\n%s", out)
	}

	// An unfinished module elsewhere does not stop a restart; nor does an earlier restart
	// that failed.
	const trust = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{"Service":"ec2.amazonaws.com"}}]}`
	c.ask("iam", url.Values{"Action": {"CreateRole"}, "Version": {"2010-05-08"}, "RoleName": {"taken"}, "AssumeRolePolicyDocument": {trust}}, nil)
	more = fmt.Sprintf("\n    free: { type: 'aws.iamRole', module: 'half', name: 'free', assume: '%[1]s' },\n    taken: { type: 'aws.iamRole', module: 'half', name: 'taken', assume: '%[1]s' },", trust)
	entry("two", "ami-12345678", "auto")
	if code, _ := c.run("apply", "--yes"); code != 3 {
		t.Errorf("exit code %d", code)
	}
	for _, m := range lab.Machines {
		m.Exec("mv /usr/sbin/nginx /usr/sbin/nginx-away")
	}
	if code, out := c.run("restart", "shop/web#0"); code == 0 || strings.Contains(out, "module/half") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	for _, m := range lab.Machines {
		m.Exec("mv /usr/sbin/nginx-away /usr/sbin/nginx")
	}
	if got := c.targets(); len(got) != 1 {
		t.Errorf("targets: %v", got)
	}
	c.must("restart", "shop/web#0")
	if got, want := requests(), []string{"deregister two", "register two"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := c.targets(); len(got) != 2 {
		t.Fatalf("targets: %v", got)
	}
	more = ""
	entry("two", "ami-12345678", "auto")
	if out := c.must("apply", "--yes"); !strings.Contains(out, "1 deleted") {
		t.Error("the unfinished module was forgotten")
	}
	if code, out := c.run("plan", "--exit-code"); code != 0 {
		t.Errorf("something is left to do\n%s", out)
	}

	// A version that does not start is rolled back and registered again.
	entry(`three"; bad`, "ami-12345678", "auto")
	if code, _ := c.run("apply", "--yes"); code != 3 {
		t.Errorf("exit code %d", code)
	}
	if got, want := requests(), []string{"deregister two", "register two"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}

	// Killed while a replica is deregistered: the next apply registers it again, and updates
	// the others.
	entry("four", "ami-12345678", "auto")
	cmd := c.command("apply", "--yes")
	mu.Lock() // no request may be answered before the victim is set
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	victim = cmd.Process
	mu.Unlock()
	if cmd.Wait() == nil {
		t.Error("defx was not killed")
	}
	c.must("apply", "--yes")
	if got := c.targets(); len(got) != 2 {
		t.Fatalf("targets: %v", got)
	}
	if code, out := c.run("plan", "--exit-code"); code != 0 {
		t.Errorf("something is left to do\n%s", out)
	}

	// Other instances: everything runs on them after one apply.
	entry("four", "ami-87654321", "auto")
	c.must("apply", "--yes")
	after := c.instances()
	if len(after) != 2 || slices.ContainsFunc(after, func(i instance) bool { return slices.Contains(before, i) }) {
		t.Fatalf("instances: %v → %v", before, after)
	}
	for _, i := range after {
		if got := c.answer(i.ID); got != "four" {
			t.Errorf("%v answers %q", i, got)
		}
	}
	if got := c.targets(); len(got) != 2 || !slices.Contains(got, after[0].ID) {
		t.Errorf("targets: %v", got)
	}
	if got := c.names("shop-web-dns"); !slices.Equal(got, addresses(after)) {
		t.Errorf("the name leads to %v, and there is %v", got, after)
	}
	if code, out := c.run("plan", "--exit-code"); code != 0 {
		t.Errorf("something is left to do\n%s", out)
	}
	c.must("destroy", "--confirm", "dev")
	if n := len(c.instances()) + len(c.targets()); n > 0 {
		t.Errorf("%d are left", n)
	}
}

func addresses(list []instance) []string {
	var out []string
	for _, i := range list {
		out = append(out, i.Address)
	}
	slices.Sort(out)
	return out
}

// answer returns what the web service on an instance answers; "" if it does not.
func (c *cloud) answer(id string) string {
	for _, i := range c.instances() {
		if i.ID == id {
			if got, err := c.fetch(i.Address + ":8080"); err == nil {
				return got
			}
		}
	}
	return ""
}
