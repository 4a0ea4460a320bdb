package ec2

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/machinetest"
)

// userData is what an instance was given for its first boot.
func (c *cloud) userData(id string) (string, error) {
	var doc struct {
		Value string `xml:"userData>value"`
	}
	if err := c.try("ec2", url.Values{"Action": {"DescribeInstanceAttribute"}, "Version": {"2016-11-15"}, "InstanceId": {id}, "Attribute": {"userData"}}, &doc); err != nil {
		return "", err
	}
	raw, err := base64.StdEncoding.DecodeString(doc.Value)
	return string(raw), err
}

// hatch gives every instance that the cloud makes a machine at its address,
// booted with its user data, as long as the test lasts.
func (c *cloud) hatch(lab *machinetest.Lab) {
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
			var doc struct {
				Items []instance `xml:"reservationSet>item>instancesSet>item"`
			}
			if c.try("ec2", url.Values{"Action": {"DescribeInstances"}, "Version": {"2016-11-15"}}, &doc) != nil {
				continue
			}
			for _, i := range doc.Items {
				if seen[i.ID] || i.State != "running" || i.Address == "" {
					continue
				}
				seen[i.ID] = true
				boot, err := c.userData(i.ID)
				if err == nil {
					_, err = lab.Add(fmt.Sprintf("i%d", len(seen)), i.Address, boot)
				}
				if err != nil {
					c.t.Errorf("instance %s at %s: %v", i.ID, i.Address, err)
				}
			}
		}
	})
	c.t.Cleanup(func() { close(stop); done.Wait() })
}

// get asks a service.
func (c *cloud) get(address string) string {
	c.t.Helper()
	res, err := (&http.Client{Timeout: 10 * time.Second}).Get("http://" + address)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(raw)
}

// TestServicesOnInstances deploys to machines that did not exist before.
func TestServicesOnInstances(t *testing.T) {
	lab := machinetest.Boot(t, 0)
	c := newCloud(t)
	key, err := os.ReadFile(lab.Key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	c.env = append(c.env, "PATH="+lab.Bin+":"+os.Getenv("PATH"))
	entry := func(greeting string) {
		c.write("defx.jsonnet", fmt.Sprintf(`local defx = import 'defx/v1.libsonnet';
local site(listen, body) = 'daemon off;\npid /run/web/pid;\nerror_log stderr;\nevents {}\nhttp {\n access_log off;\n client_body_temp_path /run/web/b; proxy_temp_path /run/web/p; fastcgi_temp_path /run/web/f; uwsgi_temp_path /run/web/u; scgi_temp_path /run/web/s;\n server { listen %%s; %%s }\n}\n' %% [listen, body];
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
	c.hatch(lab)
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
	// What was let in, and nothing else: ssh from the VPC, and front to back.
	if n := c.count("DescribeSecurityGroups", "groupId"); n < 2 {
		t.Errorf("%d security groups", n)
	}
	c.starts()
	entry("good day")
	if out := c.must("apply", "--yes"); !strings.Contains(out, "1 updated") {
		t.Error("one service changes")
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
		t.Error("the graph does not tell how they reach each other")
	}
	c.must("destroy", "--confirm", "dev")
	if n := len(c.instances()); n > 0 {
		t.Errorf("%d instances are left", n)
	}
	if list, _ := filepath.Glob(filepath.Join(c.dir, ".defx/shop/dev/terraform/*/entry.json")); len(list) > 0 {
		t.Errorf("left: %v", list)
	}
}
