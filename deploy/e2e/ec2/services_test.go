package ec2

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/machinetest"
)

// userData returns the user data of an instance.
func (c *cloud) userData(id string) (string, error) {
	var doc struct {
		Value string `xml:"userData>value"`
	}
	if err := c.try("ec2", url.Values{"Action": {"DescribeInstanceAttribute"}, "Version": {"2016-11-15"}, "InstanceId": {id}, "Attribute": {"userData"}}, &doc); err != nil {
		return "", err
	}
	raw, err := base64.StdEncoding.DecodeString(doc.Value)
	if err == nil && bytes.HasPrefix(raw, []byte("\x1f\x8b")) { // as cloud-init does
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(raw)); err == nil {
			raw, err = io.ReadAll(z)
		}
	}
	return string(raw), err
}

// bootInstances boots a machine for every instance that the cloud creates, at its address and with
// its user data, until the test ends.
func (c *cloud) bootInstances(lab *machinetest.Lab, regions ...string) {
	stop := make(chan struct{})
	var done sync.WaitGroup
	seen := map[string]bool{}
	done.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(300 * time.Millisecond):
			}
			for _, r := range regions {
				there := *c
				there.in = r
				there.boot(lab, seen)
			}
		}
	})
	c.t.Cleanup(func() { close(stop); done.Wait() })
}

// boot boots the instances that were created in the region since the last call.
func (c *cloud) boot(lab *machinetest.Lab, seen map[string]bool) {
	var doc struct {
		Items []instance `xml:"reservationSet>item>instancesSet>item"`
	}
	if c.try("ec2", url.Values{"Action": {"DescribeInstances"}, "Version": {"2016-11-15"}}, &doc) != nil {
		return
	}
	for _, i := range doc.Items {
		if seen[i.ID] || i.State != "running" || i.Address == "" {
			continue
		}
		seen[i.ID] = true
		for _, m := range lab.Machines { // the address may have belonged to a terminated instance
			if m.Address == i.Address {
				m.Kill()
			}
		}
		boot, err := c.userData(i.ID)
		if err == nil {
			var m *machinetest.Machine
			if m, err = lab.Add(fmt.Sprintf("i%d", len(seen)), i.Address, boot); err == nil && c.engines {
				m.StartDocker()
			}
		}
		if err != nil {
			c.t.Errorf("instance %s at %s: %v", i.ID, i.Address, err)
		}
	}
}

// get requests a page of a service.
func (c *cloud) get(address string) string {
	c.t.Helper()
	got, err := c.fetch(address)
	if err != nil {
		c.t.Fatal(err)
	}
	return got
}

func (c *cloud) fetch(address string) (string, error) {
	res, err := (&http.Client{Timeout: 10 * time.Second}).Get("http://" + address)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	return string(raw), err
}

// TestServices_OnNewInstances deploys to machines that do not exist before.
func TestServices_OnNewInstances(t *testing.T) {
	lab := machinetest.Boot(t, 0)
	c := newCloud(t)
	key, err := os.ReadFile(lab.Key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	c.env = append(c.env, "PATH="+lab.Bin+":"+os.Getenv("PATH"))
	entry := func(greeting string) {
		c.write("defx.jsonnet", fmt.Sprintf(`local defx = import 'defx/v1.libsonnet';
local site(listen, body) = 'daemon off;\npid %%(run)s/pid;\nerror_log stderr;\nevents {}\nhttp {\n access_log off;\n client_body_temp_path %%(run)s/b; proxy_temp_path %%(run)s/p; fastcgi_temp_path %%(run)s/f; uwsgi_temp_path %%(run)s/u; scgi_temp_path %%(run)s/s;\n server { listen %%(port)s; %%(body)s }\n}\n' %% { run: defx.me.dir('runtime'), port: listen, body: body };
local web(port, body) = { command: ['/usr/sbin/nginx', '-c', '/etc/site.conf'], ports: { http: port }, dirs: { runtime: 'web' },
  files: { '/etc/site.conf': site(defx.me.port('http'), body) }, ready: { tcp: true } };
function(env='dev') {
  name: 'shop',
  libs: { site: {
    back: { service: web(8081, 'return 200 "%s";'), ec2: { class: 'exclusive' } },
    front: { requires: ['back'], service: web(8080, 'location / { proxy_pass http://%%s:%%s; }' %% [defx.dep('back').host, defx.dep('back').port('http')]) },
  } },
  defaults: { backend: 'ec2', ec2: { region: '%s', instanceType: 't3.small', image: 'ami-12345678', servicesPerInstance: 5, user: 'ops',
    authorizedKeys: ['%s'], subnet: defx.ref('a').output('id') } },
  resources: {
    vpc: { type: 'aws.vpc', cidr: '10.213.0.0/16' },
    a: { type: 'aws.subnet', vpc: defx.ref('vpc').output('id'), cidr: '%s', zone: 'eu-central-1a' },
  },
}
`, greeting, region, strings.TrimSpace(string(key)), lab.Network()), 0o644)
	}
	entry("hello")
	c.bootInstances(lab, region)
	c.must("apply", "--yes")
	front := ""
	before := c.instances()
	if len(before) != 2 {
		t.Fatalf("instances: %v", before)
	}
	for _, m := range lab.Machines {
		if out, err := m.Try("systemctl is-active 'defx-*front*.service'"); err == nil && strings.Contains(out, "active") {
			front = m.Address
		}
	}
	if got := c.get(front + ":8080"); got != "hello" {
		t.Fatalf("through both: %q", got)
	}
	// The only ingress rules: ssh from the VPC, and front to back.
	if n := c.count("DescribeSecurityGroups", "groupId"); n < 2 {
		t.Errorf("%d security groups", n)
	}
	c.starts()
	entry("good day")
	if out := c.must("apply", "--yes"); !strings.Contains(out, "1 updated") {
		t.Error("not only one service has changed")
	}
	if s := c.starts(); len(s) > 0 {
		t.Errorf("Terraform was started for a service: %v", s)
	}
	if got := c.get(front + ":8080"); got != "good day" {
		t.Fatalf("through both: %q", got)
	}
	after := c.instances()
	for i := range before {
		if before[i].ID != after[i].ID {
			t.Errorf("an instance was replaced: %v → %v", before, after)
		}
	}
	if out := c.must("graph", "--links"); !strings.Contains(out, "site/front → site/back  vpc") {
		t.Error("the graph does not show their link")
	}
	// defx on one of the instances refuses to destroy it, whether it recognizes itself by
	// the instance id or by the address.
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			io.WriteString(w, "token")
		} else if r.URL.Path == "/latest/meta-data/instance-id" {
			io.WriteString(w, before[0].ID)
		}
	}))
	defer metadata.Close()
	env := c.env
	c.env = append(slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return strings.HasPrefix(kv, "AWS_EC2_METADATA_DISABLED") }), "AWS_EC2_METADATA_SERVICE_ENDPOINT="+metadata.URL)
	if code, out := c.run("destroy", "--confirm", "dev"); code != 1 || !strings.Contains(out, "on which defx itself is running (both are instance "+before[0].ID+")") || len(c.instances()) != 2 {
		t.Errorf("exit code %d, %d instances", code, len(c.instances()))
	}
	entry("good day")
	c.edit("ami-12345678", "ami-87654321")
	if code, out := c.run("apply", "--yes"); code != 3 || !strings.Contains(out, "the machine on which defx itself is running") || len(c.instances()) != 2 {
		t.Errorf("exit code %d, %d instances", code, len(c.instances()))
	}
	c.env = env
	entry("good day")
	for _, m := range lab.Machines {
		if m.Address != front {
			continue
		}
		cmd := m.JoinNetwork(c.bin, "destroy", "--confirm", "dev")
		cmd.Dir, cmd.Env = c.dir, c.env
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "on which defx itself is running (both have the address "+front+")") || len(c.instances()) != 2 {
			t.Errorf("%v: %s", err, out)
		}
	}
	c.must("destroy", "--confirm", "dev")
	if n := len(c.instances()); n > 0 {
		t.Errorf("%d instances are left", n)
	}
	if list, _ := filepath.Glob(filepath.Join(c.dir, ".defx/shop/dev/terraform/*/entry.json")); len(list) > 0 {
		t.Errorf("left: %v", list)
	}
}

// TestServices_ContainersOnNewInstances: the same, run by a docker engine of the instances'
// image.
func TestServices_ContainersOnNewInstances(t *testing.T) {
	lab := machinetest.Boot(t, 0)
	if _, err := os.Stat(filepath.Join(os.Getenv("DEFX_TEST_SYSTEMD_ROOT"), "usr/sbin/dockerd")); err != nil {
		if os.Getenv("DEFX_REQUIRE_DOCKER") == "1" {
			t.Fatal(err)
		}
		t.Skip("the machines' tree has no docker engine: remove it and let .ci/run make it anew")
	}
	c := newCloud(t)
	key, err := os.ReadFile(lab.Key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	c.env, c.engines = append(c.env, "PATH="+lab.Bin+":"+os.Getenv("PATH")), true
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(c.dir, "multi-tool"), "../testdata/multi-tool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	entry := func(word string) {
		c.write("defx.jsonnet", fmt.Sprintf(`local defx = import 'defx/v1.libsonnet';
local multiTool(port, who) = { package: defx.artifact('multi-tool'), command: ['multi-tool', 'serve', ':%%d' %% port], env: { WHO: 'multi-tool=' + who }, ports: { http: port } };
function(env='dev') {
  name: 'shop',
  libs: { site: {
    back: { ec2: { run: 'docker', class: 'exclusive' }, service: multiTool(8081, '%s') },
    front: { ec2: { run: 'docker' }, requires: ['back'], service: multiTool(8080, 'front') + { env+: { BACK: 'http://%%s:%%s' %% [defx.dep('back').host, defx.dep('back').port('http')] } } },
  } },
  defaults: { backend: 'ec2', ec2: { region: '%s', instanceType: 't3.small', image: 'ami-12345678', user: 'ops', authorizedKeys: ['%s'], subnet: defx.ref('a').output('id') } },
  resources: {
    vpc: { type: 'aws.vpc', cidr: '10.213.0.0/16' },
    a: { type: 'aws.subnet', vpc: defx.ref('vpc').output('id'), cidr: '%s', zone: 'eu-central-1a' },
  },
}
`, word, region, strings.TrimSpace(string(key)), lab.Network()), 0o644)
	}
	entry("one")
	c.bootInstances(lab, region)
	c.must("apply", "--yes")
	said := func() string {
		var out []string
		for _, i := range c.instances() {
			for _, port := range []string{":8080", ":8081"} {
				if got, err := c.fetch(i.Address + port); err == nil {
					out = append(out, strings.TrimSpace(got))
				}
			}
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	if got := said(); got != "multi-tool=front multi-tool=one" {
		t.Fatalf("the containers answer %q", got)
	}
	c.starts()
	entry("two")
	c.must("apply", "--yes")
	if got := said(); got != "multi-tool=front multi-tool=two" || len(c.starts()) > 0 {
		t.Errorf("the containers answer %q", got)
	}
	c.must("destroy", "--confirm", "dev")
	if n := len(c.instances()); n > 0 {
		t.Errorf("%d instances are left", n)
	}
}

// TestZalora_OnEC2 deploys the zalora example to EC2: two regions, four instances, seven
// services. Their programs are not installed, so each service only sleeps; placement and
// connections are the example's.
func TestZalora_OnEC2(t *testing.T) {
	lab := machinetest.Boot(t, 0)
	c := newCloud(t)
	key, err := os.ReadFile(lab.Key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	c.env = append(c.env, "PATH="+lab.Bin+":"+os.Getenv("PATH"))
	if err := os.CopyFS(c.dir, os.DirFS("../../../examples/zalora")); err != nil {
		t.Fatal(err)
	}
	first := strings.TrimSuffix(lab.Network(), "0/24")
	c.write("asleep.jsonnet", fmt.Sprintf(`local zalora = import 'ec2.jsonnet';
local asleep(s) = { command: ['/usr/bin/sleep', 'infinity'] } + (if 'schedule' in s then { command: ['/usr/bin/true'], schedule: s.schedule } else {}) + (if 'ports' in s then { ports: s.ports } else {});
function(env='ec2') zalora(env, keys=['%s'], singapore='%s0', frankfurt='%s128', bits=[25, 25]) + {
  transforms: [{ each: function(name, f) if 'service' in f then f { service: asleep(f.service) } else f { group: { [k]: f.group[k] { service: asleep(f.group[k].service) } for k in std.objectFields(f.group) } } }],
}
`, strings.TrimSpace(string(key)), first, first), 0o644)
	c.args = []string{"-f", "asleep.jsonnet"}
	c.bootInstances(lab, "ap-southeast-1", "eu-central-1")
	c.must("apply", "--yes")
	c.starts()
	c.must("apply", "--yes")
	if s := c.starts(); len(s) > 0 {
		t.Fatalf("nothing changed, and Terraform was started: %v", s)
	}
	if n := len(c.modules()); n != 5 {
		t.Errorf("%d modules", n)
	}
	for _, m := range c.modules() {
		if out := c.terraform(m, "plan", "-no-color"); !strings.Contains(out, "No changes.") {
			t.Errorf("%s\n%s", m, out)
		}
	}
	if out := c.terraform(c.modules()[0], "validate", "-no-color"); !strings.Contains(out, "The configuration is valid.") {
		t.Error(out)
	}
	for r, want := range map[string]int{"ap-southeast-1": 3, "eu-central-1": 1} {
		c.in = r
		if n := len(c.instances()); n != want {
			t.Errorf("%d instances in %s", n, r)
		}
	}
	if len(lab.Machines) != 4 {
		t.Errorf("%d machines", len(lab.Machines))
	}
}
