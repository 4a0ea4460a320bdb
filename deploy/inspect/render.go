package inspect

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// RenderedFile is one file that a unit becomes: on its machine, or for Terraform.
type RenderedFile struct {
	Path    string `json:"path"`
	Mode    string `json:"mode,omitempty"`
	Link    string `json:"link,omitempty"`    // target of a symbolic link
	Content string `json:"content,omitempty"` // of a text
	Bytes   int    `json:"bytes,omitempty"`   // size of content that is no text

	key string // path without the version of the unit
}

// RenderFiles returns what a unit becomes with the values of its refs: unit files, settings of
// containers and host files, or the Terraform configuration of a module.
func RenderFiles(set backends.Set, u *plan.Unit, values plan.Values) ([]RenderedFile, error) {
	value := func(t token.Token) (string, bool) { v, ok := values[plan.Key(t)]; return v, ok }
	b := set[u.Backend]
	if b == nil {
		return nil, diag.Errorf(u.Address, "this program has no backend %q", u.Backend)
	}
	if _, modules := b.(backends.Infrastructure); modules {
		if m, err := ec2.Realize(u.Payload, value); err == nil {
			return []RenderedFile{{Path: "main.tf.json", Content: endLine(m.JSON), key: "main.tf.json"}}, nil
		}
		return []RenderedFile{{Path: "module.json", Content: indented(u.Payload.Run), key: "module.json"}}, nil // values are known at apply only, or another tool reads it
	}
	instance, err := u.Instance(values)
	if err != nil {
		return nil, err
	}
	l, err := b.Realize(u.Payload, instance, value)
	if err != nil {
		return nil, err
	}
	var out []RenderedFile
	for _, o := range l.Objects {
		f := RenderedFile{Path: path.Join(backends.StorePath, o.Name), Mode: fmt.Sprintf("%04o", o.Mode), key: fmt.Sprintf("stored %d", len(out))}
		f.setContent(o.Content)
		out = append(out, f)
	}
	for _, x := range l.Files {
		f := RenderedFile{Path: x.Path, Link: x.Link, key: strings.ReplaceAll(x.Path, instance, "*")}
		switch {
		case x.Link != "":
		case path.Dir(x.Path) == docker.Dir:
			f.Mode, f.Content = fmt.Sprintf("%04o", x.Mode), indented(x.Content)
		default:
			f.Mode = fmt.Sprintf("%04o", x.Mode)
			f.setContent(x.Content)
		}
		out = append(out, f)
	}
	return out, nil
}

func (f *RenderedFile) setContent(raw []byte) {
	if utf8.Valid(raw) && !bytes.ContainsRune(raw, 0) {
		f.Content = string(raw)
	} else {
		f.Bytes = len(raw)
	}
}

func endLine(raw []byte) string { return strings.TrimSuffix(string(raw), "\n") + "\n" }

// indented writes JSON in several lines; other text stays as it is.
func indented(raw []byte) string {
	var out bytes.Buffer
	if json.Indent(&out, raw, "", "  ") != nil {
		return string(raw)
	}
	return endLine(out.Bytes())
}

// Rendered is what one unit becomes.
type Rendered struct {
	Address string         `json:"address"`
	Machine string         `json:"machine"`
	Backend string         `json:"backend"`
	Files   []RenderedFile `json:"files"`
}

// Render returns what the unit at an address becomes, as the entry file has it.
func Render(ctx context.Context, p *project.Project, d *project.Desired, r *apply.Request, name string) (*Rendered, error) {
	addresses, candidates := d.Rendered.Plan.Names().FindAll(name)
	if len(addresses) > 1 {
		candidates = addresses
	}
	if len(candidates) > 0 {
		return nil, plan.AmbiguousName(name, candidates)
	}
	address := name
	if len(addresses) == 1 {
		address = addresses[0]
	}
	placed := d.Rendered.Plan.Find(address)
	if placed == nil {
		if _, err := findService(d, name); err != nil {
			return nil, err
		}
		return nil, diag.Errorf(address, "it is held: its configuration has an error").WithHint("fix the error above")
	}
	u, err := r.Unit(ctx, placed.Object)
	if err != nil {
		return nil, err
	}
	out := &Rendered{Address: address, Machine: placed.Machine, Backend: placed.Backend}
	if out.Files, err = RenderFiles(p.Backends, u, placed.Values); err != nil && len(placed.Unknown) > 0 {
		return nil, diag.Errorf(address, "values that it reads are known at apply only: %s", strings.Join(placed.Unknown, ", "))
	}
	return out, err
}

// FileChange is one file of a unit before and after a change.
type FileChange struct {
	Before, After *RenderedFile // nil: there is none
}

// FileChanges returns the files that an action changes: it compares what the deployed version of
// the unit became with what the new one becomes. Values that are known at apply only hide a file.
func FileChanges(ctx context.Context, p *project.Project, d *project.Desired, r *apply.Request, a plan.Action) ([]FileChange, error) {
	var before, after []RenderedFile
	if d.Generation != nil {
		i := slices.IndexFunc(d.Generation.Records, func(rec plan.Record) bool {
			return rec.Digest != "" && (rec.Address == a.Address || a.PreviousAddress != "" && rec.Address == a.PreviousAddress)
		})
		if i >= 0 {
			rec := d.Generation.Records[i]
			u, err := r.Unit(ctx, rec.Object)
			if err != nil {
				return nil, err
			}
			if before, err = RenderFiles(p.Backends, u, rec.Values); err != nil {
				return nil, err
			}
		}
	}
	if placed := d.Rendered.Plan.Find(a.Address); placed != nil && a.Op != plan.Delete {
		u, err := r.Unit(ctx, placed.Object)
		if err != nil {
			return nil, err
		}
		if after, err = RenderFiles(p.Backends, u, placed.Values); err != nil && len(placed.Unknown) > 0 {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
	}
	var out []FileChange
	for i := range after {
		j := slices.IndexFunc(before, func(f RenderedFile) bool { return f.key == after[i].key })
		if j < 0 {
			out = append(out, FileChange{nil, &after[i]})
		} else if before[j] != after[i] {
			out = append(out, FileChange{&before[j], &after[i]})
		}
	}
	for j := range before {
		if !slices.ContainsFunc(after, func(f RenderedFile) bool { return f.key == before[j].key }) {
			out = append(out, FileChange{&before[j], nil})
		}
	}
	return out, nil
}
