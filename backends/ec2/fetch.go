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
	"github.com/defx-dev/defx/lang/diag"
	"github.com/defx-dev/defx/lang/token"
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

// fetching makes the resources from which a scaled service fetches what its
// template has no room for or must not hold, lets its instances read them and
// nothing else, and gives the part of the script that does it.
func fetching(g *graph.Graph, in backends.Input, template *graph.Resource) (string, *diag.Error) {
	s, name := in.Service, stem(in.Service.Address)
	region, _ := literal(template.Fields["region"])
	domain, partition := "amazonaws.com", "aws"
	if strings.HasPrefix(region, "cn-") {
		domain, partition = "amazonaws.com.cn", "aws-cn"
	} else if strings.HasPrefix(region, "us-gov-") {
		partition = "aws-us-gov"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "region=%s domain=%s\n%s", region, domain, fetchScript)
	var may []statement
	add := func(suffix, kind string, f map[string]any) (*graph.Resource, *diag.Error) {
		a := graph.Address{Name: short(name+suffix, longest)}
		if g.Resource(a.String()) != nil || g.Machine(a.String()) != nil {
			return nil, diag.Errorf(s.Address.String(), "a part of it would be called %q, which is taken", a).At(s.Path...).WithHint("another name of the machine or the resource")
		}
		f["module"], f["region"] = token.Lit(name), token.Lit(region)
		r := &graph.Resource{Address: a, Type: kind, Fields: f, Path: s.Path}
		g.Resources = append(g.Resources, r)
		return r, nil
	}
	packages := map[string]token.Token{} // digest → which
	s.Spec.Texts(func(t token.Text) {
		for _, tok := range t.Tokens() {
			if a, ok := in.Artifact(tok); ok && tok.Kind == token.Artifact {
				packages[a.Digest.Hex()] = tok
			}
		}
	})
	if len(packages) > 0 {
		bucket, err := bucketOf(g, s, region)
		if err != nil {
			return "", err
		}
		folder := strings.Join([]string{"defx", g.Environment, g.Name, name}, "/")
		may = append(may, statement{"Allow", "s3:GetObject", []string{fmt.Sprintf("arn:%s:s3:::%s/%s/*", partition, bucket, folder)}})
		tags := []any{}
		for _, hex := range slices.Sorted(maps.Keys(packages)) {
			a, _ := in.Artifact(packages[hex])
			key := folder + "/" + hex + ".tar"
			r, err := add("-package-"+a.Digest.Brief(), "aws.s3Object", map[string]any{"bucket": g.EC2.Bucket, "key": token.Lit(key), "source": token.Lit(PackagePath(hex)), "createBeforeDestroy": true})
			if err != nil {
				return "", err
			}
			r.Carries = []token.Token{packages[hex]}
			tags = append(tags, map[string]any{"key": token.Lit("defx-package-" + a.Digest.Brief()), "value": outputOf(r.Address.String(), "key"), "propagateAtLaunch": false})
			fmt.Fprintf(&b, "package '/%s/%s' %s %s\n", bucket, key, a.Kind, hex)
		}
		if group := g.Resource(name + "-group"); group != nil {
			group.Fields["tag"] = tags // so that it waits for what its instances fetch
		}
	}
	if len(s.Spec.Secrets) > 0 {
		service, prefix, ok := strings.Cut(g.EC2.SecretStore, ":")
		if g.EC2.SecretStore == "" {
			return "", diag.Errorf(s.Address.String(), "where do instances that the cloud makes find its secrets?").At(append(slices.Clone(s.SpecPath), "secrets")...).
				WithHint("defaults: { ec2: { secretStore: 'ssm:/prod/' } }: secret hydra/db-password is the parameter /prod/hydra/db-password then")
		}
		if !ok || service != "ssm" && service != "secretsmanager" || prefix != "" && !secretNameRE.MatchString(prefix) {
			return "", diag.Errorf("", "%q is no store of secrets", g.EC2.SecretStore).At("defaults", "ec2", "secretStore").WithHint("'ssm:/PREFIX/' or 'secretsmanager:PREFIX/'")
		}
		readable := statement{"Allow", "ssm:GetParameter", nil}
		if service == "secretsmanager" {
			readable.Action = "secretsmanager:GetSecretValue"
		}
		seen := map[string]bool{}
		for _, k := range slices.Sorted(maps.Keys(s.Spec.Secrets)) {
			for _, t := range s.Spec.Secrets[k].Tokens() {
				if seen[t.Name] {
					continue
				}
				seen[t.Name] = true
				if !secretNameRE.MatchString(t.Name) {
					return "", diag.Errorf(s.Address.String(), "the cloud has no secret of the name %q", t.Name).At(append(slices.Clone(s.SpecPath), "secrets", k)...).WithHint("letters, digits and _./-")
				}
				arn := fmt.Sprintf("arn:%s:ssm:%s:*:parameter/%s", partition, region, strings.TrimPrefix(prefix+t.Name, "/"))
				if service == "secretsmanager" {
					arn = fmt.Sprintf("arn:%s:secretsmanager:%s:*:secret:%s-??????", partition, region, prefix+t.Name)
				}
				readable.Resource = append(readable.Resource, arn)
				fmt.Fprintf(&b, "secret %s '%s' '%s'\n", service, prefix+t.Name, backends.SecretPath(g.Environment, g.Name, t.Name))
			}
		}
		may = append(may, readable)
	}
	if len(may) == 0 {
		return "", nil
	}
	if template.Fields["iamInstanceProfile"] != nil { // the user's own lets them
		return b.String(), nil
	}
	if err := profile(g, name, domain, may, template, add); err != nil {
		return "", err
	}
	return b.String(), nil
}

// profile lets the instances of a template do something.
func profile(g *graph.Graph, name, domain string, may []statement, template *graph.Resource, add func(suffix, kind string, f map[string]any) (*graph.Resource, *diag.Error)) *diag.Error {
	policy := func(statements ...any) token.Text {
		raw, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
		if err != nil {
			panic(err) // plain data always encodes
		}
		return token.Lit(string(raw))
	}
	var all []any
	for _, m := range may {
		all = append(all, m)
	}
	title := token.Lit(short(g.Environment+"-"+g.Name+"-"+name, 64))
	role, err := add("-role", "aws.iamRole", map[string]any{"name": title,
		"assume": policy(map[string]any{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": map[string]any{"Service": "ec2." + domain}})})
	if err != nil {
		return err
	}
	if _, err := add("-may", "aws.iamRolePolicy", map[string]any{"name": token.Lit("fetch"), "role": outputOf(role.Address.String(), "name"), "policy": policy(all...)}); err != nil {
		return err
	}
	p, err := add("-profile", "aws.instanceProfile", map[string]any{"name": title, "role": outputOf(role.Address.String(), "name")})
	if err == nil {
		template.Fields["iamInstanceProfile"] = map[string]any{"name": outputOf(p.Address.String(), "name")}
	}
	return err
}

// PackagePath is where the content of an artifact lies, as seen from the folder of a module that uploads it.
func PackagePath(hex string) string { return "../" + PackageDir + "/" + hex + ".tar" }

// PackageDir is the folder of what modules upload, beside those of modules.
const PackageDir = ".packages"

// bucketOf is the name of the bucket that packages go through. A template holds
// it, so it is known before anything is made.
func bucketOf(g *graph.Graph, s *graph.Service, region string) (string, *diag.Error) {
	at := []string{"defaults", "ec2", "bucket"}
	if len(g.EC2.Bucket) == 0 {
		return "", diag.Errorf(s.Address.String(), "instances that the cloud makes by itself fetch its package from a bucket, and none is named").At(append(slices.Clone(s.SpecPath), "package")...).
			WithHint("defaults: { ec2: { bucket: 'NAME' } }, of one that is there; or declare an aws.s3 that says its name, and defx.ref to it")
	}
	name, plain := literal(g.EC2.Bucket)
	if !plain {
		var r *graph.Resource
		if len(g.EC2.Bucket) == 1 {
			r = g.Resource(g.EC2.Bucket[0].Token.Name)
		}
		if r == nil || r.Type != "aws.s3" {
			return "", diag.Errorf("", "it is no bucket").At(at...).WithHint("a name, or defx.ref('store').output('id') of an aws.s3")
		}
		for _, field := range []string{"name", "bucket"} {
			if n, ok := literal(r.Fields[field]); ok {
				name = n
			}
		}
		if in, ok := literal(r.Fields["region"]); ok && in != region {
			return "", diag.Errorf(s.Address.String(), "bucket %s is in %s, and its instances are in %s", r.Address, in, region).At(s.Path...).WithHint("a bucket in the region of the group")
		}
		if name == "" {
			return "", diag.Errorf("", "the name of bucket %s must be known before it is made", r.Address).At(at...).WithHint("name: '…' there")
		}
	}
	if !bucketRE.MatchString(name) {
		return "", diag.Errorf("", "%q is not a name of a bucket", name).At(at...).WithHint("3 to 63 letters a-z, digits, . and -")
	}
	return name, nil
}
