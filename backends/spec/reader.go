package spec

import (
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// Reader turns what a service says into what a payload keeps of it: it resolves
// artifacts and the package, and refuses what no process can be given. Errors
// carry paths that begin with "service".
type Reader struct {
	In      backends.Input
	Backend string
	Subject string
	Errs    diag.List
	Package ArtifactPath // of programs that are named without a path
}

// ArtifactPath is where an artifact lies, as the process sees it.
type ArtifactPath struct {
	Path     string // of the file, or of the folder
	IsFolder bool
}

// Fail notes an error at a path.
func (r *Reader) Fail(at []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(r.Subject, format, args...).At(at...)
	r.Errs = append(r.Errs, e)
	return e
}

// PackageOf finds the package of a service.
func (r *Reader) PackageOf(s graph.Spec) {
	if len(s.Package) == 0 {
		return
	}
	tokens := s.Package.Tokens()
	if len(s.Package) != 1 || len(tokens) != 1 || tokens[0].Kind != token.Artifact {
		r.Fail(At("package"), "the package is not one artifact").WithHint("package: defx.artifact('./dist/app.tar.gz')")
		return
	}
	pl, ok := r.Artifact(At("package"), tokens[0])
	if !ok {
		return
	}
	r.Package = pl
}

// Artifact tells where an artifact lies on the machine.
func (r *Reader) Artifact(at []string, t token.Token) (ArtifactPath, bool) {
	a, ok := r.In.Artifact(t)
	if !ok || a.Digest.Hex() == "" {
		r.Fail(at, "the content of %s is not known", t)
		return ArtifactPath{}, false
	}
	dir := backends.StorePath + "/" + a.Digest.Hex()
	if a.Kind == "file" {
		name := a.Path
		if name == "" {
			name = t.Name
		}
		return ArtifactPath{Path: dir + "/" + path.Base(name)}, true
	}
	return ArtifactPath{Path: dir, IsFolder: true}, true
}

// Text puts the paths of artifacts in place and refuses what cannot stand in
// text of this backend. Refs stay.
func (r *Reader) Text(at []string, t token.Text) token.Text {
	out, _ := t.Map(func(tok token.Token) (token.Text, error) {
		switch tok.Kind {
		case token.Ref:
			return token.Text{{Token: &tok}}, nil
		case token.Artifact:
			pl, _ := r.Artifact(at, tok)
			return token.Lit(pl.Path), nil
		case token.Secret:
			if len(at) > 1 && (at[1] == "files" || at[1] == "hostFiles") {
				r.Fail(at, "%s does not support a secret inside a file", r.Backend).
					WithHint("secrets: { NAME: defx.secret('%s') } gives a file of its own whose path is in $NAME_FILE", tok.Name)
			} else {
				r.Fail(at, "a secret cannot stand in text that others can read").
					WithHint("secrets: { NAME: defx.secret('%s') } gives a file whose path is in $NAME_FILE", tok.Name)
			}
		default:
			r.Fail(at, "%s does not support a %s", r.Backend, tok.Kind)
		}
		return token.Text{}, nil
	})
	return out
}

// Texts is Text for a list; nil for none.
func (r *Reader) Texts(at []string, list []token.Text) []token.Text {
	out := make([]token.Text, 0, len(list))
	for _, t := range list {
		out = append(out, r.Text(at, t))
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// Command resolves the program: absolute as it is, relative in the package.
func (r *Reader) Command(at []string, list []token.Text) []token.Text {
	before := len(r.Errs)
	out := r.Texts(at, list)
	if len(out) == 0 || len(r.Errs) > before {
		return out
	}
	prog, ok := out[0].Literal()
	switch name := strings.TrimPrefix(prog, "./"); {
	case !ok:
		r.Fail(at, "the program %q depends on a value that is known only later", out[0].Shown()).
			WithHint("name the program; values belong into arguments")
	case strings.HasPrefix(prog, "/"):
	case prog == "":
		r.Fail(at, "the program is empty")
	case r.Package.Path == "":
		if len(r.In.Service.Spec.Package) == 0 {
			r.Fail(at, "the program %q is not an absolute path, and there is no package to look it up in", prog).
				WithHint("write /usr/bin/%s, or set package", path.Base(prog))
		}
	case !r.Package.IsFolder && name != path.Base(r.Package.Path):
		r.Fail(at, "the program %q is not in the package, which holds %q alone", prog, path.Base(r.Package.Path)).
			WithHint("%s", diag.Suggest(name, []string{path.Base(r.Package.Path)}))
	case !r.Package.IsFolder:
		out[0] = token.Lit(r.Package.Path)
	case name == "" || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../"):
		r.Fail(at, "the program %q is not a clean path below the package", prog)
	default:
		out[0] = token.Lit(r.Package.Path + "/" + name)
	}
	return out
}

// Env reads variables.
func (r *Reader) Env(env map[string]token.Text) map[string]token.Text {
	out := map[string]token.Text{}
	for _, k := range Keys(env) {
		if !envRE.MatchString(k) {
			r.Fail(At("env", k), "%q is not the name of a variable", k).WithHint("letters, digits and _, no digit first")
		}
		out[k] = r.Text(At("env", k), env[k])
	}
	return out
}

// Secrets reads the secrets, by the name of their variable.
func (r *Reader) Secrets(s graph.Spec) map[string]Secret {
	out := map[string]Secret{}
	for _, k := range Keys(s.Secrets) {
		tokens := s.Secrets[k].Tokens()
		switch _, taken := s.Env[k+"_FILE"]; {
		case !envRE.MatchString(k):
			r.Fail(At("secrets", k), "%q is not the name of a variable", k).WithHint("letters, digits and _, no digit first")
		case len(s.Secrets[k]) != 1 || len(tokens) != 1 || tokens[0].Kind != token.Secret || tokens[0].Name == "":
			r.Fail(At("secrets", k), "secrets.%s is not one secret", k).WithHint("%s: defx.secret('name')", k)
		case !utf8.ValidString(tokens[0].Name + tokens[0].Version):
			r.Fail(At("secrets", k), "the name of secrets.%s is not valid UTF-8", k)
		case taken:
			r.Fail(At("env", k+"_FILE"), "env sets %s_FILE, which the secret %s sets to the path of its file", k, k)
		default:
			out[k] = Secret{Name: tokens[0].Name, Version: tokens[0].Version}
		}
	}
	return out
}

// Files reads the files of a field of the spec, files or hostFiles.
func (r *Reader) Files(field string, files map[string]graph.File) map[string]File {
	out := map[string]File{}
	for _, p := range Keys(files) {
		f, where := files[p], At(field, p)
		mode := f.Mode
		if mode == "" {
			mode = "0444"
		}
		if len(mode) == 3 {
			mode = "0" + mode
		}
		to := File{Mode: mode, Kind: f.Kind()}
		if f.Owner != "root" {
			to.Owner = f.Owner
		}
		if to.Owner != "" && !UserRE.MatchString(to.Owner) {
			r.Fail(append(where, "owner"), "%q is not the name of a user", to.Owner).WithHint("a-z, 0-9, _ and -, at most 31, no digit first")
		}
		inside := func(path []string, t token.Text, _ bool) []any { return []any{r.Text(path, t)} }
		switch to.Kind {
		case "text":
			to.Kind, to.Text = "", r.Text(where, f.Text)
		case "env":
			v := map[string]any{}
			for k, t := range f.Env {
				v[k] = t
			}
			doc := token.Doc{V: v}.Map(append(where, "env"), inside)
			to.Doc = &doc
		case "from":
			to.Kind = ""
			if tokens := f.From.Tokens(); len(tokens) == 1 {
				pl, ok := r.Artifact(append(where, "from"), tokens[0])
				if ok && pl.IsFolder {
					r.Fail(append(where, "from"), "%s is a folder, and a file is needed", tokens[0])
				}
				to.Store = pl.Path
			}
			if f.Owner != "" || f.Mode != "" && f.Mode != "0444" && f.Mode != "0555" {
				r.Fail(where, "a file from an artifact keeps the artifact's owner and permissions").WithHint("leave mode and owner out")
			}
			to.Mode = "0444"
		default:
			doc := f.Doc().Map(append(where, to.Kind), inside)
			to.Doc = &doc
		}
		out[p] = to
	}
	return out
}

// Absolute turns a path below the spec ("service") or the backend's namespace
// into one in the entry's value.
func (r *Reader) Absolute(path []string) []string {
	if len(path) > 0 && path[0] == r.Backend {
		return slices.Concat(r.In.Service.Path, path)
	}
	if len(path) > 0 && path[0] == "service" {
		path = path[1:]
	}
	return slices.Concat(r.In.Service.SpecPath, path)
}
