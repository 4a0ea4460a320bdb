package spec

import (
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// Reader turns the spec of a service into the parts of a payload: it resolves artifacts and the
// package and refuses what no process can be given. Error paths begin with "service".
type Reader struct {
	In      backends.Input
	Backend string
	Subject string
	Errs    diag.List
	Package ArtifactPath // where programs with a relative path are
}

// ArtifactPath is the location of an artifact as the process sees it.
type ArtifactPath struct {
	Path     string // of the file, or of the folder
	IsFolder bool
	Content  *plan.Content // nil if only its digest is known

	used bool // a program of it is run
}

// Dir returns the folder that the artifact is, or is in.
func (a ArtifactPath) Dir() string {
	if a.IsFolder {
		return a.Path
	}
	return path.Dir(a.Path)
}

// Fail adds an error at a path.
func (r *Reader) Fail(at []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(r.Subject, format, args...).At(at...)
	r.Errs = append(r.Errs, e)
	return e
}

// PackageOf resolves the package of a service.
func (r *Reader) PackageOf(s graph.Spec) {
	if len(s.Package) == 0 {
		return
	}
	tokens := s.Package.Tokens()
	if len(s.Package) != 1 || len(tokens) != 1 || tokens[0].Kind != token.Artifact {
		r.Fail(At("package"), "package must be exactly one artifact").WithHint("package: defx.artifact('./dist/app.tar.gz')")
		return
	}
	pl, ok := r.Artifact(At("package"), tokens[0])
	if !ok {
		return
	}
	if r.Package = pl; pl.Content != nil && pl.Content.Format == "empty" {
		r.Fail(At("package"), "the package %q is empty: it has 0 bytes", tokens[0].Name).WithHint("build it first")
	}
}

// Artifact returns the location of an artifact on the machine.
func (r *Reader) Artifact(at []string, t token.Token) (ArtifactPath, bool) {
	a, ok := r.In.Artifact(t)
	if !ok || a.Digest.Hex() == "" {
		r.Fail(at, "the content of %s is unknown", t)
		return ArtifactPath{}, false
	}
	dir := backends.StorePath + "/" + a.Digest.Hex()
	if a.Kind == "file" {
		name := a.Path
		if name == "" {
			name = t.Name
		}
		return ArtifactPath{Path: dir + "/" + path.Base(name), Content: a.Content}, true
	}
	return ArtifactPath{Path: dir, IsFolder: true, Content: a.Content}, true
}

// Text replaces artifacts by their paths and refuses tokens that the backend cannot represent in
// text. Refs stay.
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
					WithHint("secrets: { NAME: defx.secret('%s') } puts it into a file of its own; $NAME_FILE is the file's path", tok.Name)
			} else {
				r.Fail(at, "a secret cannot be part of text that others can read").
					WithHint("secrets: { NAME: defx.secret('%s') } puts it into a file; $NAME_FILE is the file's path", tok.Name)
			}
		default:
			r.Fail(at, "%s does not support a %s", r.Backend, tok.Kind)
		}
		return token.Text{}, nil
	})
	return out
}

// Texts applies Text to a list. It returns nil for an empty list.
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

// Command resolves the program of a command: an absolute path stays, a relative one is in the
// package.
func (r *Reader) Command(at []string, list []token.Text) []token.Text {
	before := len(r.Errs)
	out := r.Texts(at, list)
	if len(out) == 0 || len(r.Errs) > before {
		return out
	}
	prog, ok := out[0].Literal()
	switch name := strings.TrimPrefix(prog, "./"); {
	case !ok:
		r.Fail(at, "the program %q contains a value that is known only at apply", out[0].Shown()).
			WithHint("write the program literally and pass the value as an argument")
	case strings.HasPrefix(prog, "/"):
	case prog == "":
		r.Fail(at, "the program is empty")
	case r.Package.Path == "":
		if len(r.In.Service.Spec.Package) == 0 {
			r.Fail(at, "the program %q is not an absolute path, and there is no package to look it up in", prog).
				WithHint("write /usr/bin/%s, or set package", path.Base(prog))
		}
	case !r.Package.IsFolder && name != path.Base(r.Package.Path) && r.Package.Content != nil && r.Package.Content.Format != "":
		r.checkProgram(at, path.Base(r.Package.Path))
	case !r.Package.IsFolder && name != path.Base(r.Package.Path):
		r.Fail(at, "the program %q is not in the package, which is the single file %q", prog, path.Base(r.Package.Path)).
			WithHint("%s", diag.Suggest(name, []string{path.Base(r.Package.Path)}))
	case !r.Package.IsFolder:
		r.UseProgram(at, name)
		out[0] = token.Lit(r.Package.Path)
	case name == "" || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../"):
		r.Fail(at, "the program %q must be a path inside the package, without . or ..", prog)
	default:
		r.UseProgram(at, name)
		out[0] = token.Lit(r.Package.Path + "/" + name)
	}
	return out
}

// UseProgram notes that a program of the package is run, and refuses one that it does not have.
func (r *Reader) UseProgram(at []string, name string) {
	r.Package.used = true
	r.checkProgram(at, name)
}

// Env reads the environment variables.
func (r *Reader) Env(env map[string]token.Text) map[string]token.Text {
	out := map[string]token.Text{}
	for _, k := range sets.Keys(env) {
		if !envRE.MatchString(k) {
			r.Fail(At("env", k), "%q is not a valid variable name", k).WithHint("letters, digits and _; the first is not a digit")
		}
		out[k] = r.Text(At("env", k), env[k])
	}
	return out
}

// Secrets reads the secrets, by the name of their variable.
func (r *Reader) Secrets(s graph.Spec) map[string]Secret {
	out := map[string]Secret{}
	for _, k := range sets.Keys(s.Secrets) {
		tokens := s.Secrets[k].Tokens()
		switch _, taken := s.Env[k+"_FILE"]; {
		case !envRE.MatchString(k):
			r.Fail(At("secrets", k), "%q is not a valid variable name", k).WithHint("letters, digits and _; the first is not a digit")
		case len(s.Secrets[k]) != 1 || len(tokens) != 1 || tokens[0].Kind != token.Secret || tokens[0].Name == "":
			r.Fail(At("secrets", k), "secrets.%s must be exactly one secret", k).WithHint("%s: defx.secret('name')", k)
		case !utf8.ValidString(tokens[0].Name + tokens[0].Version):
			r.Fail(At("secrets", k), "the name of secrets.%s is not valid UTF-8", k)
		case taken:
			r.Fail(At("env", k+"_FILE"), "env sets %s_FILE, which is reserved for the path of the secret %s", k, k)
		default:
			out[k] = Secret{Name: tokens[0].Name, Version: tokens[0].Version}
		}
	}
	return out
}

// Files reads the files of a field of the spec, files or hostFiles.
func (r *Reader) Files(field string, files map[string]graph.File) map[string]File {
	out := map[string]File{}
	for _, p := range sets.Keys(files) {
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
		if to.Owner != "" && !graph.ValidUser(to.Owner) {
			r.Fail(append(where, "owner"), "%q is not a valid user name", to.Owner).WithHint("%s", graph.UserHint)
		}
		resolve := func(path []string, t token.Text, _ bool) []any { return []any{r.Text(path, t)} }
		switch to.Kind {
		case "text":
			to.Kind, to.Text = "", r.Text(where, f.Text)
		case "env":
			v := map[string]any{}
			for k, t := range f.Env {
				v[k] = t
			}
			doc := token.Doc{V: v}.Map(append(where, "env"), resolve)
			to.Doc = &doc
		case "from":
			to.Kind = ""
			if tokens := f.From.Tokens(); len(tokens) == 1 {
				pl, ok := r.Artifact(append(where, "from"), tokens[0])
				if ok && pl.IsFolder {
					r.Fail(append(where, "from"), "%s is a folder, but must be a file", tokens[0])
				}
				to.Store = pl.Path
			}
			if f.Owner != "" || f.Mode != "" && f.Mode != "0444" && f.Mode != "0555" {
				r.Fail(where, "a file from an artifact keeps the artifact's owner and permissions").WithHint("remove mode and owner")
			}
			to.Mode = "0444"
		default:
			doc := f.Doc().Map(append(where, to.Kind), resolve)
			to.Doc = &doc
		}
		out[p] = to
	}
	return out
}

// Absolute converts a path below the spec ("service") or below the backend's options into a path in
// the entry's value.
func (r *Reader) Absolute(path []string) []string {
	if len(path) > 0 && path[0] == r.Backend {
		return slices.Concat(r.In.Service.Path, path)
	}
	if len(path) > 0 && path[0] == "service" {
		path = path[1:]
	}
	return slices.Concat(r.In.Service.SpecPath, path)
}
