package ec2

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// fetchScript has the shell functions package and secret. It is part of the user data of launch
// templates, so every change of it, even of a comment, changes their digests.
//
//go:embed fetch.sh
var fetchScript string

// secretNameRE matches names that both secret stores of AWS accept.
var secretNameRE = regexp.MustCompile(`^[A-Za-z0-9_./-]+$`)

// statement is a statement of an IAM policy.
type statement struct {
	Effect, Action string
	Resource       []string
}

// bootFetch builds the resources and the script by which instances of a scaled service fetch files.
type bootFetch struct {
	g                         *graph.Graph
	in                        backends.Input
	service                   *graph.Service
	template                  *graph.Resource
	name                      string      // prefix of the names of its parts
	region, domain, partition string      // of AWS
	statements                []statement // what the instances may read
	script                    strings.Builder
}

// fetchAtBoot adds the resources from which instances of a scaled service fetch what the launch
// template has no room for or must not contain, allows them to read these and nothing else, and
// returns the script that fetches.
func fetchAtBoot(g *graph.Graph, in backends.Input, template *graph.Resource) (string, *diag.Error) {
	f := &bootFetch{g: g, in: in, service: in.Service, template: template, name: namePrefix(in.Service.Address), domain: "amazonaws.com", partition: "aws"}
	f.region, _ = literal(template.Fields["region"])
	if strings.HasPrefix(f.region, "cn-") {
		f.domain, f.partition = "amazonaws.com.cn", "aws-cn"
	} else if strings.HasPrefix(f.region, "us-gov-") {
		f.partition = "aws-us-gov"
	}
	fmt.Fprintf(&f.script, "region=%s domain=%s\n%s", spec.ShellQuote(f.region), f.domain, fetchScript)
	err := f.packages()
	if err == nil {
		err = f.secrets()
	}
	if err != nil || len(f.statements) == 0 {
		return "", err
	}
	if template.Fields["iamInstanceProfile"] == nil { // otherwise the user's own profile must allow it
		err = f.profile()
	}
	return f.script.String(), err
}

// fail returns an error about a field of the service.
func (f *bootFetch) fail(field, format string, args ...any) *diag.Error {
	return diag.Errorf(f.service.String(), format, args...).At(append(slices.Clone(f.service.SpecPath), field)...)
}

// add adds a resource to the module of the service.
func (f *bootFetch) add(suffix, kind string, fields map[string]any) (*graph.Resource, *diag.Error) {
	a := graph.Address{Name: truncate(f.name+suffix, maxName)}
	if f.g.Resource(a.String()) != nil || f.g.Machine(a.String()) != nil {
		return nil, diag.Errorf(f.service.String(), "one of its parts would have the name %q, which is already used", a).At(f.service.Path...).WithHint("rename the machine or the resource")
	}
	fields["module"], fields["region"] = token.Lit(f.name), token.Lit(f.region)
	r := &graph.Resource{Address: a, Type: kind, Fields: fields, Path: f.service.Path}
	f.g.Resources = append(f.g.Resources, r)
	return r, nil
}

// packages adds a bucket object for each artifact.
func (f *bootFetch) packages() *diag.Error {
	artifacts := map[string]token.Token{} // digest → artifact
	f.service.Spec.Texts(func(t token.Text) {
		for _, tok := range t.Tokens() {
			if a, ok := f.in.Artifact(tok); ok && tok.Kind == token.Artifact {
				artifacts[a.Digest.Hex()] = tok
			}
		}
	})
	if len(artifacts) == 0 {
		return nil
	}
	bucket, err := f.bucket()
	if err != nil {
		return err
	}
	folder := strings.Join([]string{"defx", f.g.Environment, f.g.Name, f.name}, "/")
	f.statements = append(f.statements, statement{"Allow", "s3:GetObject", []string{fmt.Sprintf("arn:%s:s3:::%s/%s/*", f.partition, bucket, folder)}})
	for _, hex := range sets.Keys(artifacts) {
		a, _ := f.in.Artifact(artifacts[hex])
		key := folder + "/" + hex + ".tar"
		r, err := f.add("-package-"+a.Digest.Brief(), "aws.s3Object", map[string]any{"bucket": f.g.EC2.Bucket, "key": token.Lit(key), "source": token.Lit("../" + PackageDir + "/" + hex + ".tar"), "createBeforeDestroy": true})
		if err != nil {
			return err
		}
		r.Uploads = []token.Token{artifacts[hex]}
		f.tagGroup("defx-package-"+a.Digest.Brief(), r, "key")
		fmt.Fprintf(&f.script, "package %s %s %s\n", spec.ShellQuote("/"+bucket+"/"+key), a.Kind, hex)
	}
	return nil
}

// tagGroup adds a tag to the autoscaling group that reads a resource. So Terraform changes the
// group after it creates the resource, and deletes an old resource after the group has changed.
func (f *bootFetch) tagGroup(tag string, r *graph.Resource, output string) {
	fields := f.g.Resource(f.name + "-group").Fields
	tags, _ := fields["tag"].([]any)
	fields["tag"] = append(tags, map[string]any{"key": token.Lit(tag), "value": outputOf(r.Address.String(), output), "propagateAtLaunch": false})
}

// secrets adds the permission and the commands that read secrets from AWS.
func (f *bootFetch) secrets() *diag.Error {
	names := map[string]string{} // secret → field that uses it
	for _, k := range sets.Keys(f.service.Spec.Secrets) {
		for _, t := range f.service.Spec.Secrets[k].Tokens() {
			names[t.Name] = k
		}
	}
	if len(names) == 0 {
		return nil
	}
	service, prefix, ok := strings.Cut(f.g.EC2.SecretStore, ":")
	if f.g.EC2.SecretStore == "" {
		return f.fail("secrets", "no secret store is set, from which instances of the group read the secrets").
			WithHint("set defaults: { ec2: { secretStore: 'ssm:/prod/' } }; then the secret hydra/db-password is the parameter /prod/hydra/db-password")
	}
	if !ok || service != "ssm" && service != "secretsmanager" || prefix != "" && !secretNameRE.MatchString(prefix) {
		return diag.Errorf("", "%q is not a valid secret store", f.g.EC2.SecretStore).At("defaults", "ec2", "secretStore").WithHint("'ssm:/PREFIX/' or 'secretsmanager:PREFIX/'")
	}
	read := statement{"Allow", "ssm:GetParameter", nil}
	if service == "secretsmanager" {
		read.Action = "secretsmanager:GetSecretValue"
	}
	for _, name := range sets.Keys(names) {
		if !secretNameRE.MatchString(name) {
			return f.fail("secrets", "%q is not a valid secret name in AWS", name).At(append(slices.Clone(f.service.SpecPath), "secrets", names[name])...).WithHint("letters, digits and _./-")
		}
		if full := prefix + name; service == "ssm" && strings.Contains(full, "/") && full[0] != '/' {
			return diag.Errorf("", "%q is not a valid parameter name: a name with a slash must begin with one", full).At("defaults", "ec2", "secretStore").WithHint("set secretStore: 'ssm:/%s'; then the secret %s is the parameter /%s", prefix, name, full)
		}
		arn := fmt.Sprintf("arn:%s:ssm:%s:*:parameter/%s", f.partition, f.region, strings.TrimPrefix(prefix+name, "/"))
		if service == "secretsmanager" { // its ARNs end in six random characters
			arn = fmt.Sprintf("arn:%s:secretsmanager:%s:*:secret:%s-??????", f.partition, f.region, prefix+name)
		}
		read.Resource = append(read.Resource, arn)
		fmt.Fprintf(&f.script, "secret %s %s %s\n", service, spec.ShellQuote(prefix+name), spec.ShellQuote(backends.SecretPath(f.g.Environment, f.g.Name, name)))
	}
	f.statements = append(f.statements, read)
	return nil
}

// profile adds an instance profile that allows the statements.
func (f *bootFetch) profile() *diag.Error {
	policy := func(statements any) string {
		raw, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
		if err != nil {
			panic(err) // plain data always encodes
		}
		return string(raw)
	}
	name := token.Lit(truncate(f.g.Environment+"-"+f.g.Name+"-"+f.name, 64))
	role, err := f.add("-role", "aws.iamRole", map[string]any{"name": name,
		"assume": token.Lit(policy([]any{map[string]any{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": map[string]any{"Service": "ec2." + f.domain}}}))})
	if err != nil {
		return err
	}
	as := outputOf(role.Address.String(), "name")
	// A changed policy is a new resource that the group refers to, so the old one exists until the group has its new template.
	allowed := policy(f.statements)
	d := digest.Bytes([]byte(allowed)).Brief()
	may, err := f.add("-may-"+d, "aws.iamRolePolicy", map[string]any{"name": token.Lit("fetch-" + d), "role": as, "policy": token.Lit(allowed), "createBeforeDestroy": true})
	if err != nil {
		return err
	}
	f.tagGroup("defx-may", may, "name")
	p, err := f.add("-profile", "aws.instanceProfile", map[string]any{"name": name, "role": as})
	if err == nil {
		f.template.Fields["iamInstanceProfile"] = map[string]any{"name": outputOf(p.Address.String(), "name")}
	}
	return err
}

// PackageDir is the directory of files that modules upload, next to the directories of the modules.
const PackageDir = ".packages"

// bucket returns the name of the bucket for packages. The launch template contains it, so it must
// be known before anything is created.
func (f *bootFetch) bucket() (string, *diag.Error) {
	wrong := func(format string, args ...any) *diag.Error {
		return diag.Errorf("", format, args...).At("defaults", "ec2", "bucket")
	}
	text := f.g.EC2.Bucket
	if len(text) == 0 {
		return "", f.fail("package", "no bucket is set, from which instances of the group fetch the package").
			WithHint("set defaults: { ec2: { bucket: 'NAME' } } to an existing bucket, or to defx.ref('store').output('id') of an aws.s3 with a name")
	}
	name, isLiteral := literal(text)
	if !isLiteral {
		var r *graph.Resource
		if len(text) == 1 {
			r = f.g.Resource(text[0].Token.Name)
		}
		if r == nil || r.Type != "aws.s3" {
			return "", wrong("bucket must be a name or read an aws.s3").WithHint("bucket: 'NAME', or defx.ref('store').output('id')")
		}
		for _, field := range []string{"name", "bucket"} {
			if n, ok := literal(r.Fields[field]); ok {
				name = n
			}
		}
		if in, ok := literal(r.Fields["region"]); ok && in != f.region {
			return "", diag.Errorf(f.service.String(), "bucket %s is in region %s, but the instances are in %s", r.Address, in, f.region).At(f.service.Path...).WithHint("use a bucket in the region of the group")
		}
		if name == "" {
			return "", wrong("the name of bucket %s must be known before it is created", r.Address).WithHint("set name: '…' for %s", r.Address)
		}
	}
	if !bucketRE.MatchString(name) {
		return "", wrong("%q is not a valid bucket name", name).WithHint("3 to 63 letters a-z, digits, . and -")
	}
	return name, nil
}
