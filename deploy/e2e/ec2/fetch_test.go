package ec2

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/machinetest"
)

// The credentials of the metadata service, which requests must be signed with.
const (
	keyID, keySecret, keySession = "ASIATESTTESTTESTTEST", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "session/token+with=signs"
	metadataAddress              = "169.254.169.254"
)

// services simulates, for each instance, the metadata service and the endpoints of AWS
// services at their real names: requests must be signed as AWS requires, and the role of the
// instance's profile must allow them. It records the requests.
type services struct {
	c    *cloud
	cert tls.Certificate
	ca   []byte

	mu    sync.Mutex
	asked []string
}

func newServices(c *cloud) *services {
	c.t.Helper()
	s := &services{c: c}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, DNSNames: s.hosts()}
	der, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		c.t.Fatal(err)
	}
	s.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	s.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return s
}

func (s *services) hosts() []string {
	return []string{"s3." + region + ".amazonaws.com", "ssm." + region + ".amazonaws.com", "secretsmanager." + region + ".amazonaws.com"}
}

// serve starts the services for one machine.
func (s *services) serve(m *machinetest.Machine) error {
	for file, text := range map[string]string{"etc/hosts": metadataAddress + " " + strings.Join(s.hosts(), " ") + "\n", "etc/ssl/certs/ca-certificates.crt": string(s.ca)} {
		f, err := os.OpenFile(filepath.Join(m.Root, file), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err == nil {
			_, err = f.WriteString(text)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return err
		}
	}
	plain, err := m.Listen(metadataAddress, 80)
	if err != nil {
		return err
	}
	secure, err := m.Listen(metadataAddress, 443)
	if err != nil {
		return errors.Join(err, plain.Close())
	}
	metadata := &http.Server{Handler: http.HandlerFunc(s.metadata)}
	ends := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.pass(w, r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
		}
	}), TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.cert}}}
	go metadata.Serve(plain)
	go ends.ServeTLS(secure, "", "")
	s.c.t.Cleanup(func() { metadata.Close(); ends.Close() })
	return nil
}

// metadata answers as version 2 of the metadata service does.
func (s *services) metadata(w http.ResponseWriter, r *http.Request) {
	const at, session = "/latest/meta-data/iam/security-credentials/", "a-session"
	role, err := s.role()
	switch {
	case r.Method == "PUT" && r.URL.Path == "/latest/api/token" && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") != "":
		io.WriteString(w, session)
	case r.Header.Get("X-aws-ec2-metadata-token") != session:
		http.Error(w, "no session", http.StatusUnauthorized)
	case err != nil:
		http.Error(w, err.Error(), http.StatusNotFound)
	case r.URL.Path == at:
		io.WriteString(w, role)
	case r.URL.Path == at+role:
		fmt.Fprintf(w, "{\n  \"Code\" : \"Success\",\n  \"AccessKeyId\" : %q,\n  \"SecretAccessKey\" : %q,\n  \"Token\" : %q\n}", keyID, keySecret, keySession)
	default:
		http.NotFound(w, r)
	}
}

// role returns the role of the profile that the group's template names, because moto does
// not assign it to the instances that it creates.
func (s *services) role() (string, error) {
	var templates struct {
		IDs []string `xml:"launchTemplates>item>launchTemplateId"`
	}
	if err := s.c.try("ec2", url.Values{"Action": {"DescribeLaunchTemplates"}, "Version": {"2016-11-15"}}, &templates); err != nil || len(templates.IDs) != 1 {
		return "", fmt.Errorf("templates: %v, %w", templates.IDs, err)
	}
	var of struct {
		Profile string `xml:"launchTemplateVersionSet>item>launchTemplateData>iamInstanceProfile>name"`
	}
	if err := s.c.try("ec2", url.Values{"Action": {"DescribeLaunchTemplateVersions"}, "Version": {"2016-11-15"}, "LaunchTemplateId": templates.IDs}, &of); err != nil {
		return "", err
	}
	var out struct {
		Role string `xml:"GetInstanceProfileResult>InstanceProfile>Roles>member>RoleName"`
	}
	err := s.c.try("iam", url.Values{"Action": {"GetInstanceProfile"}, "Version": {"2010-05-08"}, "InstanceProfileName": {of.Profile}}, &out)
	return out.Role, err
}

// may fails unless the role's policies allow an action.
func (s *services) may(role, action, resource string) error {
	var list struct {
		Names []string `xml:"ListRolePoliciesResult>PolicyNames>member"`
	}
	if err := s.c.try("iam", url.Values{"Action": {"ListRolePolicies"}, "Version": {"2010-05-08"}, "RoleName": {role}}, &list); err != nil {
		return err
	}
	err := fmt.Errorf("role %s has no policy", role)
	for _, name := range list.Names {
		var doc struct {
			Policy string `xml:"GetRolePolicyResult>PolicyDocument"`
		}
		if err := s.c.try("iam", url.Values{"Action": {"GetRolePolicy"}, "Version": {"2010-05-08"}, "RoleName": {role}, "PolicyName": {name}}, &doc); err != nil {
			return err
		}
		if err = allows(doc.Policy, action, resource); err == nil {
			return nil
		}
	}
	return fmt.Errorf("role %s: %w", role, err)
}

func allows(text, action, resource string) error {
	if t, err := url.QueryUnescape(text); err == nil && strings.HasPrefix(t, "{") {
		text = t
	}
	var policy struct {
		Statement []struct {
			Effect, Action string
			Resource       []string
		}
	}
	if err := json.Unmarshal([]byte(text), &policy); err != nil {
		return fmt.Errorf("%w: %s", err, text)
	}
	for _, st := range policy.Statement {
		for _, r := range st.Resource {
			// In a policy a star matches slashes, but not in path.Match.
			if ok, err := path.Match(strings.ReplaceAll(r, "/", "|"), strings.ReplaceAll(resource, "/", "|")); err == nil && ok && st.Effect == "Allow" && st.Action == action {
				return nil
			}
		}
	}
	return fmt.Errorf("it may not %s %s: %s", action, resource, text)
}

// pass checks a request and forwards it to the cloud.
func (s *services) pass(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	service, _, _ := strings.Cut(r.Host, ".")
	if err := signed(r, service, body); err != nil {
		return err
	}
	var ask struct{ Name, SecretId string }
	json.Unmarshal(body, &ask) // S3 requests have none
	what, of := "s3:GetObject", "arn:aws:s3:::"+strings.TrimPrefix(r.URL.Path, "/")
	switch r.Header.Get("X-Amz-Target") {
	case "AmazonSSM.GetParameter":
		what, of = "ssm:GetParameter", "arn:aws:ssm:"+region+":123456789012:parameter"+ask.Name
	case "secretsmanager.GetSecretValue":
		what, of = "secretsmanager:GetSecretValue", "arn:aws:secretsmanager:"+region+":123456789012:secret:"+ask.SecretId+"-a1B2c3"
	}
	role, err := s.role()
	if err == nil {
		err = s.may(role, what, of)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.asked = append(s.asked, what)
	s.mu.Unlock()
	on, err := http.NewRequest(r.Method, s.c.url+r.URL.Path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for _, h := range []string{"Content-Type", "X-Amz-Target"} {
		on.Header.Set(h, r.Header.Get(h))
	}
	on.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/"+region+"/"+service+"/aws4_request, SignedHeaders=host, Signature=0")
	res, err := http.DefaultClient.Do(on)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	w.WriteHeader(res.StatusCode)
	_, err = io.Copy(w, res.Body)
	return err
}

// signed verifies the signature of a request with AWS's rules.
func signed(r *http.Request, service string, body []byte) error {
	auth := r.Header.Get("Authorization")
	var list string
	if _, rest, ok := strings.Cut(auth, "SignedHeaders="); ok {
		list, _, _ = strings.Cut(rest, ",")
	}
	names := strings.Split(list, ";")
	if !slices.IsSorted(names) || !slices.Contains(names, "host") || r.Header.Get("X-Amz-Security-Token") != keySession {
		return fmt.Errorf("headers signed: %s; session %q", list, r.Header.Get("X-Amz-Security-Token"))
	}
	for h := range r.Header {
		if h = strings.ToLower(h); (strings.HasPrefix(h, "x-amz-") || h == "content-type") && !slices.Contains(names, h) {
			return fmt.Errorf("header %s is not signed", h)
		}
	}
	date := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", date)
	if err != nil || time.Since(at).Abs() > 5*time.Minute {
		return fmt.Errorf("signed at %q", date)
	}
	sum := func(b []byte) string { h := sha256.Sum256(b); return hex.EncodeToString(h[:]) }
	if r.Header.Get("X-Amz-Content-Sha256") != sum(body) {
		return errors.New("the body is another one")
	}
	canonical := r.Method + "\n" + r.URL.EscapedPath() + "\n" + r.URL.RawQuery + "\n"
	for _, n := range names {
		v := r.Header.Get(n)
		if n == "host" {
			v = r.Host
		}
		canonical += n + ":" + strings.TrimSpace(v) + "\n"
	}
	canonical += "\n" + list + "\n" + sum(body)
	scope := date[:8] + "/" + region + "/" + service + "/aws4_request"
	key := []byte("AWS4" + keySecret)
	mac := func(text string) {
		h := hmac.New(sha256.New, key)
		io.WriteString(h, text)
		key = h.Sum(nil)
	}
	for _, part := range strings.Split(scope, "/") {
		mac(part)
	}
	mac("AWS4-HMAC-SHA256\n" + date + "\n" + scope + "\n" + sum([]byte(canonical)))
	if want := "AWS4-HMAC-SHA256 Credential=" + keyID + "/" + scope + ", SignedHeaders=" + list + ", Signature=" + hex.EncodeToString(key); auth != want {
		return fmt.Errorf("the signature is %q, not %q", auth, want)
	}
	return nil
}

// TestScaled_FetchesPackagesAndSecrets: instances that the cloud creates fetch packages and
// secrets with the permissions of their profile; another package means another template, and
// a rollback restores the previous one.
func TestScaled_FetchesPackagesAndSecrets(t *testing.T) {
	lab := machinetest.Boot(t, 0)
	c := newCloud(t)
	var mu sync.Mutex
	var actions []string // actions whose order matters
	c.refreshes(func(action string) {
		mu.Lock()
		defer mu.Unlock()
		if action == "PutRolePolicy" || action == "UpdateAutoScalingGroup" || action == "DeleteRolePolicy" {
			actions = append(actions, action)
		}
	})
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(c.dir, "pack/bin/multi-tool"), "../testdata/multi-tool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const secret = "it's \"so\" \\ sécret\nin two lines"
	pack := func(word string) {
		c.write("pack/bin/run", "#!/bin/sh\nWHO=\""+word+" $(cat \"$DB_FILE\") $(cat /etc/motto)\" exec bin/multi-tool serve :8000\n", 0o755)
	}
	pack("one")
	c.write("motto", "and a file", 0o644)
	if err := os.Mkdir(filepath.Join(c.dir, "secrets"), 0o755); err != nil {
		t.Fatal(err)
	}
	c.write("secrets/index.json", `{"app/db": "1"}`, 0o644)
	entry := func(store string) {
		c.write("defx.jsonnet", fmt.Sprintf(`local defx = import 'defx/v1.libsonnet';
function(env='dev') {
  name: 'shop',
  libs: { app: { web: { ec2: { class: 'autoscale', min: 1, max: 2 }, service: {
    package: defx.artifact('pack'), command: ['bin/run'], ports: { http: 8000 }, secrets: { DB: defx.secret('app/db') },
    files: { '/etc/motto': { from: defx.artifact('motto') } },
  } } } },
  defaults: { backend: 'ec2', ec2: { region: '%s', instanceType: 't3.small', image: 'ami-12345678', subnet: defx.ref('a').output('id'),
    bucket: defx.ref('packages').output('id'), secretStore: '%s' } },
  resources: {
    packages: { type: 'aws.s3', name: 'shop-packages' },
    vpc: { type: 'aws.vpc', cidr: '10.213.0.0/16' },
    a: { type: 'aws.subnet', vpc: defx.ref('vpc').output('id'), cidr: '%s', zone: 'eu-central-1a' },
  },
}
`, region, store, lab.Network()), 0o644)
	}
	entry("ssm:/prod/")
	c.callJSON("ssm", "AmazonSSM.PutParameter", map[string]any{"Name": "/prod/app/db", "Type": "SecureString", "Value": secret})
	c.callJSON("secretsmanager", "secretsmanager.CreateSecret", map[string]any{"Name": "prod/app/db", "SecretString": secret + "!"})
	s := newServices(c)
	lab.Starting = s.serve

	// comes waits until an instance of the group gives the answer want.
	comes := func(want string) {
		t.Helper()
		for until := time.Now().Add(6 * time.Minute); ; time.Sleep(300 * time.Millisecond) {
			var got []string
			for _, i := range c.instances() {
				if text, err := c.fetch(i.Address + ":8000"); err == nil {
					got = append(got, text)
				}
			}
			if slices.Contains(got, want+"\n") {
				return
			}
			if time.Now().After(until) {
				t.Fatalf("no instance answers %q: %q of %v\n%v", want, got, c.instances(), s.asked)
			}
		}
	}
	// refreshed terminates the running instances, as an instance refresh would.
	refreshed := func() {
		t.Helper()
		for _, i := range c.instances() {
			c.ask("autoscaling", url.Values{"Action": {"TerminateInstanceInAutoScalingGroup"}, "Version": {"2011-01-01"}, "InstanceId": {i.ID}, "ShouldDecrementDesiredCapacity": {"false"}}, nil)
		}
	}
	c.bootInstances(lab, region)
	c.must("apply", "--yes")
	comes("one " + secret + " and a file")
	m := lab.Machines[0]
	if out := m.Exec("stat -c '%a %U' /var/lib/defx/secrets /var/lib/defx/secrets/dev /var/lib/defx/secrets/dev/shop/*"); out != "700 root\n700 root\n400 root\n" {
		t.Errorf("permissions to read secrets:\n%s", out)
	}
	for _, dir := range c.modules() {
		if out := c.terraform(dir, "plan", "-no-color"); !strings.Contains(out, "No changes.") {
			t.Errorf("%s\n%s", dir, out)
		}
	}
	filepath.WalkDir(c.dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if raw, err := os.ReadFile(p); err == nil && bytes.Contains(raw, []byte("sécret")) {
				t.Errorf("the secret is in %s", p)
			}
		}
		return nil
	})
	c.starts()
	if code, out := c.run("plan", "--exit-code"); code != 0 || len(c.starts()) > 0 {
		t.Errorf("something is left to do\n%s", out)
	}

	// Another package, and the other secret store: another template. Permissions of
	// instances of the previous one are removed last.
	pack("two")
	entry("secretsmanager:prod/")
	mu.Lock()
	actions = nil
	mu.Unlock()
	if out := c.must("apply", "--yes"); !strings.Contains(out, "1 updated") {
		t.Error("not only the group's module has changed")
	}
	mu.Lock()
	if got := slices.Compact(actions); !slices.Equal(got, []string{"PutRolePolicy", "UpdateAutoScalingGroup", "DeleteRolePolicy"}) {
		t.Errorf("%v", got)
	}
	mu.Unlock()
	refreshed()
	comes("two " + secret + "! and a file")

	// Rollback: the previous package was kept, though it is no longer here.
	c.must("rollback", "--to", "1", "--yes")
	refreshed()
	comes("one " + secret + " and a file")
	if out := c.must("gc", "--keep", "1"); !strings.Contains(out, "modules: 1 object deleted") {
		t.Error("an unneeded object is kept")
	}
	c.must("destroy", "--confirm", "dev", "--allow-delete", "module/packages")
	if n := len(c.instances()); n > 0 {
		t.Errorf("%d instances are left", n)
	}
}

// callJSON calls an action of a JSON API of the cloud.
func (c *cloud) callJSON(service, target string, what map[string]any) {
	c.t.Helper()
	raw, err := json.Marshal(what)
	if err != nil {
		c.t.Fatal(err)
	}
	req, err := http.NewRequest("POST", c.url, bytes.NewReader(raw))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", target)
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/"+region+"/"+service+"/aws4_request, SignedHeaders=host, Signature=0")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	if raw, _ := io.ReadAll(res.Body); res.StatusCode != 200 {
		c.t.Fatalf("%s: %s\n%s", target, res.Status, raw)
	}
}
