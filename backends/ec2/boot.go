package ec2

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"path"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// Boot writes the layout of a scaled service into the launch template of its group. Every instance
// unpacks it at its first boot, without an agent. What the template has no room for is fetched:
// packages from a bucket, by digest, and secrets, by name.
func (*Backend) Boot(g *graph.Graph, in backends.Input, l backends.Layout) *diag.Error {
	s := in.Service
	r := g.Resource(namePrefix(s.Address) + "-boot")
	if r == nil {
		return diag.Errorf(s.String(), "the autoscaling group has no launch template")
	}
	if err := checkAccess(g.EC2); err != nil {
		return err
	}
	user := g.EC2.User
	if user == "" {
		user = "admin"
	}
	var b strings.Builder
	b.WriteString(UserData(user, g.EC2.AuthorizedKeys))
	b.WriteString("put() { mkdir -p \"$(dirname \"$1\")\"; base64 -d >\"$1\"; chmod \"$2\" \"$1\"; }\n")
	put := func(at string, mode uint32, content []byte) {
		fmt.Fprintf(&b, "put %s %04o <<'EOF'\n%s\nEOF\n", spec.ShellQuote(at), mode, base64.StdEncoding.EncodeToString(content))
	}
	for _, o := range l.Objects {
		put(path.Join(backends.StorePath, o.Name), uint32(o.Mode), o.Content)
	}
	for _, f := range l.Files {
		if f.Link != "" {
			fmt.Fprintf(&b, "mkdir -p %s\nln -sfn %s %s\n", spec.ShellQuote(path.Dir(f.Path)), spec.ShellQuote(f.Link), spec.ShellQuote(f.Path))
			continue
		}
		put(f.Path, uint32(f.Mode), f.Content)
	}
	fetches, err := fetchAtBoot(g, in, r)
	if err != nil {
		return err
	}
	b.WriteString(fetches)
	b.WriteString("systemctl daemon-reload\n")
	for _, u := range append([]string{l.Group}, l.Start...) {
		if u != "" {
			fmt.Fprintf(&b, "systemctl start --no-block %s\n", spec.ShellQuote(u))
		}
	}
	var z bytes.Buffer
	w, bad := gzip.NewWriterLevel(&z, gzip.BestCompression) // no time stamp: equal services give equal templates
	if bad == nil {
		_, bad = w.Write([]byte(b.String()))
	}
	if bad == nil {
		bad = w.Close()
	}
	if bad != nil {
		return diag.Errorf(s.String(), "%v", bad)
	}
	if z.Len() > 16<<10 {
		return diag.Errorf(s.String(), "the service takes %d bytes in the launch template, but at most 16384 are possible", z.Len()).At(append(s.SpecPath, "files")...).
			WithHint("move large files into the package")
	}
	for _, n := range l.Needs {
		n.Field = s.SpecPath
		r.Needs = append(r.Needs, n)
	}
	r.Fields["userData"] = token.Lit(base64.StdEncoding.EncodeToString(z.Bytes()))
	return nil
}
