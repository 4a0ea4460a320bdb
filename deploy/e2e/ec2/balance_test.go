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

// targets lists the instances behind the balancer, as the cloud tells.
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

// names are the addresses that a name in DNS leads to, as the cloud tells.
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

// TestBehindABalancer: a replica comes before users when it is ready, and is
// taken out before it stops; a name without a balancer leads to all; and what
// stood on an instance that is replaced stands on the new one after the same apply.
func TestBehindABalancer(t *testing.T) {
	lab := machinetest.Boot(t, 0)
	c := newCloud(t)
	key, err := os.ReadFile(lab.Key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	c.env = append(c.env, "PATH="+lab.Bin+":"+os.Getenv("PATH"))
	more := "" // among the resources
	entry := func(greeting, image, attach string) {
		c.write("defx.jsonnet", fmt.Sprintf(`local defx = import 'defx/v1.libsonnet';
local site = 'daemon off;\npid /run/web/pid;\nerror_log stderr;\nevents {}\nhttp {\n access_log off;\n client_body_temp_path /run/web/b; proxy_temp_path /run/web/p; fastcgi_temp_path /run/web/f; uwsgi_temp_path /run/web/u; scgi_temp_path /run/web/s;\n server { listen %%s; return 200 "%%s"; }\n}\n';
function(env='dev') {
  name: 'shop',
  libs: { shop: {
    web: { place: { replicas: 2, spread: 'machine' }, fqdn: 'direct.example.com',
      service: { command: ['/usr/sbin/nginx', '-c', '/etc/site.conf'], ports: { http: 8080 }, dirs: { runtime: 'web' }, files: { '/etc/site.conf': site %% [defx.me.port('http'), '%s'] }, ready: { http: '/', port: 'http' } } },
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
	c.hatch(lab, region)

	// What is said of targets, and what the replica answered at that moment.
	var mu sync.Mutex
	var said []string
	var victim *os.Process  // dies as soon as something is said
	ill := map[string]int{} // target → how often it is still said not to be well
	c.between(func(action string, form url.Values) string {
		mu.Lock()
		target := form.Get("Targets.member.1.Id")
		if action == "RegisterTargets" {
			ill[target] = 3 // the provider asks too
		}
		if action == "DescribeTargetHealth" && ill[target] > 0 {
			ill[target]--
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
		for other, n := range ill {
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
	told := func() []string {
		mu.Lock()
		defer mu.Unlock()
		out := said
		said = nil
		return out
	}

	// By hand first: both stand, and nobody comes to them.
	entry("one", "ami-12345678", "manual")
	if out := c.must("apply", "--yes"); !strings.Contains(out, "not registered with shop/front: shop/web#0, shop/web#1") {
		t.Error("nobody is told that something is left to do")
	}
	if got := c.targets(); len(got) != 0 {
		t.Fatalf("attached unasked: %v", got)
	}
	c.must("attach", "front", "shop/web#0", "--yes")
	if got := c.targets(); len(got) != 1 {
		t.Fatalf("targets: %v", got)
	}
	if code, out := c.run("plan", "--exit-code"); code != 0 {
		t.Errorf("an attached one is no difference\n%s", out)
	}
	c.must("detach", "front", "--yes")
	if got := c.targets(); len(got) != 0 {
		t.Fatalf("targets: %v", got)
	}
	if code, _ := c.run("detach", "front", "shop/wbe#0"); code != 1 {
		t.Errorf("exit code %d", code)
	}

	// By itself: after it is ready.
	entry("one", "ami-12345678", "auto")
	told()
	c.must("apply", "--yes")
	if got := c.targets(); len(got) != 2 {
		t.Fatalf("targets: %v", got)
	}
	if got := told(); !slices.Equal(got, []string{"register one", "register one"}) {
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

	// A change: out, then stopped; ready, then in; and only then the other one.
	entry("two", "ami-12345678", "auto")
	if out := c.must("plan"); strings.Count(out, "attach") != 2 {
		t.Error("the plan does not tell that they are attached again")
	}
	c.must("apply", "--yes")
	if got, want := told(), []string{"deregister one", "register two", "deregister one", "register two"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := c.targets(); len(got) != 2 {
		t.Fatalf("targets: %v", got)
	}

	// A restart takes it out as well, and what stands is what stood.
	c.must("restart", "shop/web#0")
	if got, want := told(), []string{"deregister two", "register two"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := c.targets(); len(got) != 2 {
		t.Fatalf("targets: %v", got)
	}
	if code, out := c.run("plan", "--exit-code"); code != 0 {
		t.Errorf("something is left to do\n%s", out)
	}

	// What is in doubt elsewhere does not stop one; nor does one before it that failed.
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
	if got, want := told(), []string{"deregister two", "register two"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := c.targets(); len(got) != 2 {
		t.Fatalf("targets: %v", got)
	}
	more = ""
	entry("two", "ami-12345678", "auto")
	if out := c.must("apply", "--yes"); !strings.Contains(out, "1 deleted") {
		t.Error("what is in doubt was forgotten")
	}
	if code, out := c.run("plan", "--exit-code"); code != 0 {
		t.Errorf("something is left to do\n%s", out)
	}

	// What does not come up is put back as it was.
	entry(`three"; bad`, "ami-12345678", "auto")
	if code, _ := c.run("apply", "--yes"); code != 3 {
		t.Errorf("exit code %d", code)
	}
	if got, want := told(), []string{"deregister two", "register two"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}

	// Killed while one is out: one more apply puts it back, and brings the others along.
	entry("four", "ami-12345678", "auto")
	cmd := c.command("apply", "--yes")
	mu.Lock() // nobody may speak before it is known who dies
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	victim = cmd.Process
	mu.Unlock()
	if cmd.Wait() == nil {
		t.Error("it was not killed")
	}
	c.must("apply", "--yes")
	if got := c.targets(); len(got) != 2 {
		t.Fatalf("targets: %v", got)
	}
	if code, out := c.run("plan", "--exit-code"); code != 0 {
		t.Errorf("something is left to do\n%s", out)
	}

	// Other instances: all stands on them after one apply.
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

// answer is what the web on an instance says; "" if nobody answers there.
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
