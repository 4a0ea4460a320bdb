package ec2

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// fetchScript are the functions by which an instance fetches: package and secret.
//
//go:embed fetch.sh
var fetchScript string

// secretNameRE are names that both of the cloud's stores of secrets take.
var secretNameRE = regexp.MustCompile(`^[A-Za-z0-9_./-]+$`)

// statement is one of a policy.
type statement struct {
	Effect, Action string
	Resource       []string
}

// bootFetch is what instances of a scaled service fetch, on its way to
// resources and a script.
type bootFetch struct {
	g                         *graph.Graph
	in                        backends.Input
	service                   *graph.Service
	template                  *graph.Resource
	name                      string // begins the names of its parts
	region, domain, partition string // of the cloud
	statements                []statement
	script                    strings.Builder
}

// fetchAtBoot makes the resources from which a scaled service fetches what its
// template has no room for or must not hold, lets its instances read them and
// nothing else, and gives the part of the script that does it.
func fetchAtBoot(g *graph.Graph, in backends.Input, template *graph.Resource) (string, *diag.Error) {
	f := &bootFetch{g: g, in: in, service: in.Service, template: template, name: namePrefix(in.Service.Address), domain: "amazonaws.com", partition: "aws"}
	f.region, _ = literal(template.Fields["region"])
	if strings.HasPrefix(f.region, "cn-") {
		f.domain, f.partition = "amazonaws.com.cn", "aws-cn"
	} else if strings.HasPrefix(f.region, "us-gov-") {
		f.partition = "aws-us-gov"
	}
	fmt.Fprintf(&f.script, "region='%s' domain=%s\n%s", f.region, f.domain, fetchScript)
	err := f.packages()
	if err == nil {
		err = f.secrets()
	}
	if err != nil || len(f.statements) == 0 {
		return "", err
	}
	if template.Fields["iamInstanceProfile"] == nil { // else the user's own lets them
		err = f.profile()
	}
	return f.script.String(), err
}

func (f *bootFetch) fail(field, format string, args ...any) *diag.Error {
	return diag.Errorf(f.service.Address.String(), format, args...).At(append(slices.Clone(f.service.SpecPath), field)...)
}

func (f *bootFetch) add(suffix, kind string, fields map[string]any) (*graph.Resource, *diag.Error) {
	a := graph.Address{Name: truncate(f.name+suffix, maxName)}
	if f.g.Resource(a.String()) != nil || f.g.Machine(a.String()) != nil {
		return nil, diag.Errorf(f.service.Address.String(), "a part of it would be called %q, which is taken", a).At(f.service.Path...).WithHint("another name of the machine or the resource")
	}
	fields["module"], fields["region"] = token.Lit(f.name), token.Lit(f.region)
	r := &graph.Resource{Address: a, Type: kind, Fields: fields, Path: f.service.Path}
	f.g.Resources = append(f.g.Resources, r)
	return r, nil
}

// packages makes an object of each artifact.
func (f *bootFetch) packages() *diag.Error {
	carried := map[string]token.Token{} // digest → artifact
	f.service.Spec.Texts(func(t token.Text) {
		for _, tok := range t.Tokens() {
			if a, ok := f.in.Artifact(tok); ok && tok.Kind == token.Artifact {
				carried[a.Digest.Hex()] = tok
			}
		}
	})
	if len(carried) == 0 {
		return nil
	}
	bucket, err := f.bucket()
	if err != nil {
		return err
	}
	folder := strings.Join([]string{"defx", f.g.Environment, f.g.Name, f.name}, "/")
	f.statements = append(f.statements, statement{"Allow", "s3:GetObject", []string{fmt.Sprintf("arn:%s:s3:::%s/%s/*", f.partition, bucket, folder)}})
	for _, hex := range slices.Sorted(maps.Keys(carried)) {
		a, _ := f.in.Artifact(carried[hex])
		key := folder + "/" + hex + ".tar"
		r, err := f.add("-package-"+a.Digest.Brief(), "aws.s3Object", map[string]any{"bucket": f.g.EC2.Bucket, "key": token.Lit(key), "source": token.Lit("../" + PackageDir + "/" + hex + ".tar"), "createBeforeDestroy": true})
		if err != nil {
			return err
		}
		r.Uploads = []token.Token{carried[hex]}
		f.tagGroup("defx-package-"+a.Digest.Brief(), r, "key")
		fmt.Fprintf(&f.script, "package '/%s/%s' %s %s\n", bucket, key, a.Kind, hex)
	}
	return nil
}

// tagGroup gives the group a tag that reads a resource: it changes after that was made, and what it does not read any more goes after it changed.
func (f *bootFetch) tagGroup(tag string, r *graph.Resource, output string) {
	fields := f.g.Resource(f.name + "-group").Fields
	tags, _ := fields["tag"].([]any)
	fields["tag"] = append(tags, map[string]any{"key": token.Lit(tag), "value": outputOf(r.Address.String(), output), "propagateAtLaunch": false})
}

// secrets reads the cloud's store.
func (f *bootFetch) secrets() *diag.Error {
	names := map[string]string{} // of secrets → the field that asks for it
	for _, k := range slices.Sorted(maps.Keys(f.service.Spec.Secrets)) {
		for _, t := range f.service.Spec.Secrets[k].Tokens() {
			names[t.Name] = k
		}
	}
	if len(names) == 0 {
		return nil
	}
	service, prefix, ok := strings.Cut(f.g.EC2.SecretStore, ":")
	if f.g.EC2.SecretStore == "" {
		return f.fail("secrets", "where do instances that the cloud makes find its secrets?").
			WithHint("defaults: { ec2: { secretStore: 'ssm:/prod/' } }: secret hydra/db-password is the parameter /prod/hydra/db-password then")
	}
	if !ok || service != "ssm" && service != "secretsmanager" || prefix != "" && !secretNameRE.MatchString(prefix) {
		return diag.Errorf("", "%q is no store of secrets", f.g.EC2.SecretStore).At("defaults", "ec2", "secretStore").WithHint("'ssm:/PREFIX/' or 'secretsmanager:PREFIX/'")
	}
	read := statement{"Allow", "ssm:GetParameter", nil}
	if service == "secretsmanager" {
		read.Action = "secretsmanager:GetSecretValue"
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !secretNameRE.MatchString(name) {
			return f.fail("secrets", "the cloud has no secret of the name %q", name).At(append(slices.Clone(f.service.SpecPath), "secrets", names[name])...).WithHint("letters, digits and _./-")
		}
		if full := prefix + name; service == "ssm" && strings.Contains(full, "/") && full[0] != '/' {
			return diag.Errorf("", "a parameter %q cannot be: one with a slash begins with one", full).At("defaults", "ec2", "secretStore").WithHint("secretStore: 'ssm:/%s': the secret %s is the parameter /%s then", prefix, name, full)
		}
		arn := fmt.Sprintf("arn:%s:ssm:%s:*:parameter/%s", f.partition, f.region, strings.TrimPrefix(prefix+name, "/"))
		if service == "secretsmanager" { // which adds six letters of its own
			arn = fmt.Sprintf("arn:%s:secretsmanager:%s:*:secret:%s-??????", f.partition, f.region, prefix+name)
		}
		read.Resource = append(read.Resource, arn)
		fmt.Fprintf(&f.script, "secret %s '%s' '%s'\n", service, prefix+name, backends.SecretPath(f.g.Environment, f.g.Name, name))
	}
	f.statements = append(f.statements, read)
	return nil
}

// profile lets the instances do what they may.
func (f *bootFetch) profile() *diag.Error {
	policy := func(statements any) string {
		raw, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
		if err != nil {
			panic(err) // plain data always encodes
		}
		return string(raw)
	}
	title := token.Lit(truncate(f.g.Environment+"-"+f.g.Name+"-"+f.name, 64))
	role, err := f.add("-role", "aws.iamRole", map[string]any{"name": title,
		"assume": token.Lit(policy([]any{map[string]any{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": map[string]any{"Service": "ec2." + f.domain}}}))})
	if err != nil {
		return err
	}
	as := outputOf(role.Address.String(), "name")
	// Another policy is another resource, which the group refers to: the old one is there until the group has its new template.
	allowed := policy(f.statements)
	d := digest.Bytes([]byte(allowed)).Brief()
	may, err := f.add("-may-"+d, "aws.iamRolePolicy", map[string]any{"name": token.Lit("fetch-" + d), "role": as, "policy": token.Lit(allowed), "createBeforeDestroy": true})
	if err != nil {
		return err
	}
	f.tagGroup("defx-may", may, "name")
	p, err := f.add("-profile", "aws.instanceProfile", map[string]any{"name": title, "role": as})
	if err == nil {
		f.template.Fields["iamInstanceProfile"] = map[string]any{"name": outputOf(p.Address.String(), "name")}
	}
	return err
}

// PackageDir is the folder of what modules upload, beside those of modules.
const PackageDir = ".packages"

// bucket is the name of the one that packages go through. A template holds
// it, so it is known before anything is made.
func (f *bootFetch) bucket() (string, *diag.Error) {
	wrong := func(format string, args ...any) *diag.Error {
		return diag.Errorf("", format, args...).At("defaults", "ec2", "bucket")
	}
	text := f.g.EC2.Bucket
	if len(text) == 0 {
		return "", f.fail("package", "instances that the cloud makes by itself fetch its package from a bucket, and none is named").
			WithHint("defaults: { ec2: { bucket: 'NAME' } }, of one that is there; or declare an aws.s3 that says its name, and defx.ref to it")
	}
	name, plain := literal(text)
	if !plain {
		var r *graph.Resource
		if len(text) == 1 {
			r = f.g.Resource(text[0].Token.Name)
		}
		if r == nil || r.Type != "aws.s3" {
			return "", wrong("it is no bucket").WithHint("a name, or defx.ref('store').output('id') of an aws.s3")
		}
		for _, field := range []string{"name", "bucket"} {
			if n, ok := literal(r.Fields[field]); ok {
				name = n
			}
		}
		if in, ok := literal(r.Fields["region"]); ok && in != f.region {
			return "", diag.Errorf(f.service.Address.String(), "bucket %s is in %s, and its instances are in %s", r.Address, in, f.region).At(f.service.Path...).WithHint("a bucket in the region of the group")
		}
		if name == "" {
			return "", wrong("the name of bucket %s must be known before it is made", r.Address).WithHint("name: '…' there")
		}
	}
	if !bucketRE.MatchString(name) {
		return "", wrong("%q is not a name of a bucket", name).WithHint("3 to 63 letters a-z, digits, . and -")
	}
	return name, nil
}
