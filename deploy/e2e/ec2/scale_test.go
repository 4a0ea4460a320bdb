package ec2

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// TestScaled_UpdateByTemplate: an update creates another template, to which the group moves;
// the cloud controls the count.
func TestScaled_UpdateByTemplate(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	refreshes := c.refreshes()
	entry := func(log string, most int) {
		c.write("defx.jsonnet", fmt.Sprintf(`local defx = import 'defx/v1.libsonnet';
function(env='dev') {
  name: 'shop',
  libs: { app: { web: { ec2: { class: 'autoscale', min: 1, max: %d }, service: { command: ['/usr/bin/web', '--port', defx.me.port('http')], ports: { http: 8000 }, env: { LOG: '%s' } } } } },
  defaults: { backend: 'ec2', ec2: { region: '%s', instanceType: 't3.small', image: 'ami-12345678', subnet: defx.ref('a').output('id') } },
  resources: {
    vpc: { type: 'aws.vpc', cidr: '10.0.0.0/16' },
    a: { type: 'aws.subnet', vpc: defx.ref('vpc').output('id'), cidr: '10.0.1.0/24', zone: 'eu-central-1a' },
  },
}
`, most, log, region), 0o644)
	}
	entry("info", 3)
	c.must("apply", "--yes")
	names := func() []string {
		var doc struct {
			Names []string `xml:"launchTemplates>item>launchTemplateName"`
		}
		c.ask("ec2", url.Values{"Action": {"DescribeLaunchTemplates"}, "Version": {"2016-11-15"}}, &doc)
		return doc.Names
	}
	first := names()
	if len(first) != 1 || !strings.HasPrefix(first[0], "dev-shop-app-web-boot-") {
		t.Fatalf("templates: %v", first)
	}
	if got := bootOf(t, c, first[0]); !strings.Contains(got, "systemctl start --no-block 'defx-dev-shop-app-web") || !strings.Contains(got, base64.StdEncoding.EncodeToString([]byte("[Unit]"))[:6]) {
		t.Errorf("the template does not contain the service:\n%s", got)
	}
	// A count changed by the cloud is no difference.
	var doc struct {
		Name string `xml:"DescribeAutoScalingGroupsResult>AutoScalingGroups>member>AutoScalingGroupName"`
	}
	c.ask("autoscaling", url.Values{"Action": {"DescribeAutoScalingGroups"}, "Version": {"2011-01-01"}}, &doc)
	c.ask("autoscaling", url.Values{"Action": {"SetDesiredCapacity"}, "Version": {"2011-01-01"}, "AutoScalingGroupName": {doc.Name}, "DesiredCapacity": {"2"}}, nil)
	c.lockProviders()
	if code, out := c.run("plan", "--refresh", "--exit-code"); code != 0 {
		t.Errorf("the count is reported as a difference\n%s", out)
	}
	c.starts()
	entry("debug", 3)
	c.must("apply", "--yes")
	second := names()
	if len(second) != 1 || second[0] == first[0] {
		t.Errorf("templates: %v → %v", first, second)
	}
	if n := refreshes.Load(); n != 1 {
		t.Errorf("%d refreshes of instances were started", n)
	}
	for _, s := range c.starts() {
		if !strings.Contains(s, "/terraform/app-web ") {
			t.Errorf("another module was changed: %s", s)
		}
	}
	c.must("destroy", "--confirm", "dev")
}

// refreshes simulates an action that moto lacks: it counts instance refreshes, and forwards
// all other requests. listen is called with every action.
func (c *cloud) refreshes(listen ...func(action string)) *atomic.Int32 {
	c.t.Helper()
	var n atomic.Int32
	const answer = `<%[1]sResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><%[1]sResult>%[2]s</%[1]sResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></%[1]sResponse>`
	c.between(func(action string, _ url.Values) string {
		for _, f := range listen {
			f(action)
		}
		switch action {
		case "StartInstanceRefresh":
			return fmt.Sprintf(answer, action, fmt.Sprintf("<InstanceRefreshId>%d</InstanceRefreshId>", n.Add(1)))
		case "DescribeInstanceRefreshes":
			return fmt.Sprintf(answer, action, "<InstanceRefreshes></InstanceRefreshes>")
		}
		return ""
	})
	return &n
}

// between intercepts Terraform's requests to the cloud. A request that hear answers is not
// forwarded.
func (c *cloud) between(hear func(action string, form url.Values) string) {
	c.t.Helper()
	moto, err := url.Parse(c.url)
	if err != nil {
		c.t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(moto)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(raw))
		form, _ := url.ParseQuery(string(raw))
		if answer := hear(form.Get("Action"), form); answer != "" {
			io.WriteString(w, answer)
			return
		}
		pass.ServeHTTP(w, r)
	}))
	c.t.Cleanup(server.Close)
	c.env = append(c.env, "AWS_ENDPOINT_URL="+server.URL)
}

// bootOf returns the boot script of a template.
func bootOf(t *testing.T, c *cloud, name string) string {
	t.Helper()
	var doc struct {
		Data string `xml:"launchTemplateVersionSet>item>launchTemplateData>userData"`
	}
	c.ask("ec2", url.Values{"Action": {"DescribeLaunchTemplateVersions"}, "Version": {"2016-11-15"}, "LaunchTemplateName": {name}}, &doc)
	raw, err := base64.StdEncoding.DecodeString(doc.Data)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
