package ec2

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// cloud is a moto for one test, and a folder with a deployment.
type cloud struct {
	t       *testing.T
	dir     string // of the deployment
	home    string // of other files of the test
	bin     string // path of defx
	url     string
	env     []string
	runs    string   // file with one line for each start of Terraform
	in      string   // region to query; "": the usual one
	args    []string // arguments of every command
	engines bool     // the image of instances has a docker engine
}

const region = "eu-central-1"

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "defx-e2e-ec2-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "defx"), "../../../cmd/defx")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("%w\n%s", err, out)
	}
	builtIn = dir
	return dir, nil
})

var builtIn string

func TestMain(m *testing.M) {
	code := m.Run()
	if builtIn != "" {
		os.RemoveAll(builtIn)
	}
	os.Exit(code)
}

// newCloud starts a moto.
func newCloud(t *testing.T) *cloud {
	t.Helper()
	tf, mirror, moto := os.Getenv("DEFX_TEST_TERRAFORM"), os.Getenv("DEFX_TEST_TF_MIRROR"), os.Getenv("DEFX_TEST_MOTO")
	for name, value := range map[string]string{"DEFX_TEST_TERRAFORM": tf, "DEFX_TEST_TF_MIRROR": mirror, "DEFX_TEST_MOTO": moto} {
		if _, err := os.Stat(value); err != nil {
			if os.Getenv("DEFX_REQUIRE_EC2") == "1" {
				t.Fatalf("%s names nothing: %v", name, err)
			}
			t.Skipf("%s names no part of the cloud for tests (terraform, a mirror with hashicorp/aws, moto_server): see .ci/run", name)
		}
	}
	bins, err := built()
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud{t: t, home: t.TempDir(), bin: filepath.Join(bins, "defx")}
	c.dir = filepath.Join(c.home, "deployment")
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	c.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	cmd := exec.Command(moto, "-H", "127.0.0.1", "-p", fmt.Sprint(port))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.sweep()
		}
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	for until := time.Now().Add(time.Minute); ; {
		if res, err := http.Get(c.url + "/moto-api/"); err == nil {
			res.Body.Close()
			break
		}
		if time.Now().After(until) {
			t.Fatalf("moto does not answer\n%s", said.String())
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.runs = filepath.Join(c.home, "runs")
	c.write(filepath.Join(c.home, "terraform.rc"), fmt.Sprintf("provider_installation {\n  filesystem_mirror {\n    path    = %q\n    include = [\"hashicorp/aws\"]\n  }\n}\ndisable_checkpoint = true\n", mirror), 0o644)
	// Every start is recorded, except for queries of the version.
	c.write(filepath.Join(c.home, "terraform"), fmt.Sprintf("#!/bin/sh\n[ \"$1\" = version ] || echo \"$PWD $1\" >>%s\nexec %s \"$@\"\n", c.runs, tf), 0o755)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "AWS_") && !strings.HasPrefix(kv, "TF_") && !strings.HasPrefix(kv, "DEFX_") {
			c.env = append(c.env, kv)
		}
	}
	c.env = append(c.env, "DEFX_TERRAFORM="+filepath.Join(c.home, "terraform"), "TF_CLI_CONFIG_FILE="+filepath.Join(c.home, "terraform.rc"),
		"AWS_ENDPOINT_URL="+c.url, "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_MAX_ATTEMPTS=3", "AWS_EC2_METADATA_DISABLED=true", "DEFX_LEASE_TIME=1s")
	return c
}

// sweep kills processes that a failed test left running: they outlive defx on purpose.
func (c *cloud) sweep() {
	list, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, l := range list {
		if dir, err := os.Readlink(l); err == nil && strings.HasPrefix(dir, c.home+"/") {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(l))); err == nil {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

func (c *cloud) write(path, text string, mode os.FileMode) {
	c.t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(c.dir, path)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		c.t.Fatal(err)
	}
}

// edit replaces a text in the entry file.
func (c *cloud) edit(old, new string) {
	c.t.Helper()
	raw, err := os.ReadFile(filepath.Join(c.dir, "defx.jsonnet"))
	if err != nil || !strings.Contains(string(raw), old) {
		c.t.Fatalf("%q is not in the entry: %v", old, err)
	}
	c.write("defx.jsonnet", strings.Replace(string(raw), old, new, 1), 0o644)
}

// entry writes the entry file: resources and other fields.
func (c *cloud) entry(resources, rest string) {
	c.t.Helper()
	c.write("defx.jsonnet", fmt.Sprintf("local defx = import 'defx/v1.libsonnet';\nfunction(env='dev') {\n  name: 'shop',\n  libs: {},\n  defaults: { ec2: { region: '%s' } },\n  resources: {\n%s\n  },\n%s}\n", region, resources, rest), 0o644)
}

// command prepares a run of defx.
func (c *cloud) command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.bin, append(args, c.args...)...)
	cmd.Dir, cmd.Env = c.dir, c.env
	return cmd
}

// run runs defx and returns its exit code and output.
func (c *cloud) run(args ...string) (int, string) {
	c.t.Helper()
	out, err := c.command(args...).CombinedOutput()
	c.t.Logf("defx %s: %v\n%s", strings.Join(args, " "), err, out)
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode(), string(out)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return 0, string(out)
}

// must is like run, but ends the test if defx fails.
func (c *cloud) must(args ...string) string {
	c.t.Helper()
	code, out := c.run(args...)
	if code != 0 {
		c.t.Fatalf("defx %s: exit code %d", strings.Join(args, " "), code)
	}
	return out
}

// starts returns the starts of Terraform since the last call.
func (c *cloud) starts() []string {
	raw, err := os.ReadFile(c.runs)
	if err != nil {
		return nil
	}
	os.Remove(c.runs)
	return strings.Split(strings.TrimSpace(string(raw)), "\n")
}

// lockProviders locks the providers of the deployment. That starts Terraform once, not counted.
func (c *cloud) lockProviders() {
	c.t.Helper()
	before, _ := os.ReadFile(c.runs)
	c.must("providers", "lock")
	os.WriteFile(c.runs, before, 0o644)
}

// modules returns the folders of modules.
func (c *cloud) modules() []string {
	list, _ := filepath.Glob(filepath.Join(c.dir, ".defx/*/*/terraform/*/main.tf.json"))
	for i, f := range list {
		list[i] = filepath.Dir(f)
	}
	return list
}

// terraform runs Terraform in a module's folder.
func (c *cloud) terraform(dir string, args ...string) string {
	c.t.Helper()
	cmd := exec.Command(filepath.Join(c.home, "terraform"), args...)
	cmd.Dir, cmd.Env = dir, c.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("terraform %s in %s: %v\n%s", strings.Join(args, " "), dir, err, out)
	}
	return string(out)
}

// ask queries the cloud directly, without Terraform.
func (c *cloud) ask(service string, values url.Values, into any) {
	c.t.Helper()
	if err := c.try(service, values, into); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cloud) try(service string, values url.Values, into any) error {
	at := c.url
	if strings.HasPrefix(service, "moto-api") {
		at += "/" + service
	}
	req, err := http.NewRequest("POST", at, strings.NewReader(values.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/"+cmp.Or(c.in, region)+"/"+service+"/aws4_request, SignedHeaders=host, Signature=0")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != 200 {
		err = fmt.Errorf("%s\n%s", res.Status, raw)
	}
	if err != nil || into == nil {
		return err
	}
	return xml.Unmarshal(raw, into)
}

// instance is an instance as the cloud describes it.
type instance struct {
	ID      string `xml:"instanceId"`
	Address string `xml:"privateIpAddress"`
	Type    string `xml:"instanceType"`
	State   string `xml:"instanceState>name"`
}

// instances returns those that are not terminated.
func (c *cloud) instances() []instance {
	c.t.Helper()
	var doc struct {
		Items []instance `xml:"reservationSet>item>instancesSet>item"`
	}
	c.ask("ec2", url.Values{"Action": {"DescribeInstances"}, "Version": {"2016-11-15"}}, &doc)
	var out []instance
	for _, i := range doc.Items {
		if i.State != "terminated" && i.State != "shutting-down" {
			out = append(out, i)
		}
	}
	return out
}

// count returns the number of objects with defx's tag.
func (c *cloud) count(action, items string) int {
	c.t.Helper()
	return strings.Count(c.made(action), "<"+items+">")
}

// ids returns the ids of objects with defx's tag.
func (c *cloud) ids(action, items string) string {
	c.t.Helper()
	return fmt.Sprint(regexp.MustCompile("<"+items+">[^<]*").FindAllString(c.made(action), -1))
}

func (c *cloud) made(action string) string {
	c.t.Helper()
	req := url.Values{"Action": {action}, "Version": {"2016-11-15"}, "Filter.1.Name": {"tag-key"}, "Filter.1.Value.1": {"defx"}}
	var raw struct {
		Inner string `xml:",innerxml"`
	}
	c.ask("ec2", req, &raw)
	return raw.Inner
}
