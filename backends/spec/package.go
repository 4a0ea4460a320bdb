package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
)

// This file checks the use of a service's package against its content: a program that is not in
// it could never be started, and a package that nothing uses is a mistake, because its changes
// would restart nothing. Without knowledge of the content (plan.Content) nothing is refused.

// checkProgram refuses a program that the package does not have or that cannot be executed. name
// is its path in the package.
func (r *Reader) checkProgram(at []string, name string) {
	c := r.Package.Content
	if c == nil {
		return
	}
	if c.Format != "" {
		if c.Format != "empty" { // which PackageOf reports
			r.failFormat(at, name)
		}
		return
	}
	found, ok := c.Find(name)
	switch exec, isFile := c.Files[found]; {
	case !ok:
		r.Fail(at, "the program %q is not in the package", name).WithHint("%s", suggestProgram(name, c))
	case found == "": // a link out of the package
	case !isFile:
		r.Fail(at, "the program %q is a folder of the package", name).WithHint("%s", suggestProgram(name, c))
	case !exec:
		r.Fail(at, "the program %q in the package is not executable", name).
			WithHint("chmod +x it before it is packed, or run it with its interpreter: command: ['/bin/sh', '%s']", name)
	}
}

func (r *Reader) failFormat(at []string, name string) {
	r.Fail(at, "the package %q is %s, which defx does not unpack", name, r.Package.Content.Format).
		WithHint("pack the files as .tar, .tar.gz, .tar.xz or .tar.zst, or name their folder")
}

// suggestProgram returns a hint that names the program that was probably meant, or some of those
// that there are.
func suggestProgram(name string, c *plan.Content) string {
	programs := c.Programs()
	var same []string
	for _, p := range programs {
		if path.Base(p) == path.Base(name) {
			same = append(same, p)
		}
	}
	if len(same) > 0 {
		return fmt.Sprintf("did you mean %q?", same[0])
	}
	if hint := diag.Suggest(name, programs); hint != "" {
		return hint
	}
	switch {
	case len(programs) == 0:
		return "it has no executable file"
	case len(programs) > 5:
		return fmt.Sprintf("some of its %d programs are %s", len(programs), strings.Join(programs[:5], ", "))
	}
	return "its programs are " + strings.Join(programs, ", ")
}

// CheckPackageUse refuses a package that nothing uses. A package is used by
//
//   - a command of the service with a relative program, which is looked up in it;
//   - its artifact anywhere else in the service: as an argument, variable or file;
//   - an argument, a variable or the text of a file that names something in it, because the
//     package is the working directory: server.py, ./conf, lib/app.jar, -m server, "."; and
//     likewise below prefix, the path at which the service sees it, if the plan can know it;
//   - a tool that looks for a file of its own in its working directory, as npm does for
//     package.json, if the package has that file.
func (r *Reader) CheckPackageUse(s graph.Spec, prefix string) {
	if len(s.Package) == 0 || r.Package.Path == "" || r.Package.used {
		return
	}
	own := s.Package.Tokens()[0]
	u := packageUse{content: r.Package.Content, prefix: prefix}
	s.Package = nil
	s.Texts(func(t token.Text) {
		for _, seg := range t {
			switch {
			case seg.Token == nil:
				u.text(seg.Lit)
			case seg.Token.Kind == token.Artifact && seg.Token.Name == own.Name && seg.Token.Arg == own.Arg:
				u.found = true
			}
		}
	})
	if u.content != nil {
		u.text(string(r.In.Service.Options))
	}
	if u.found {
		return
	}
	c := r.Package.Content
	if c != nil && c.Format != "" && c.Format != "empty" {
		r.failFormat(At("package"), own.Name)
		return
	}
	example := "./NAME"
	if c != nil && len(c.Programs()) > 0 {
		example = c.Programs()[0]
	}
	r.Fail(At("package"), "nothing uses the package %q: no program is relative, and no argument, variable or file names anything in it", own.Name).
		WithHint("command: ['%s'] runs a program of it, an argument like '.' or './NAME' names it, env: { DIR: defx.artifact('%s') } passes its path on; or remove package", example, own.Name)
}

// packageUse looks for words that name something in a package.
type packageUse struct {
	content *plan.Content // nil: unknown, so that any relative word may be a name in it
	prefix  string
	stems   map[string]bool // paths without their extension
	found   bool
}

// toolFiles lists the files by which tools find what they work on in their working directory.
var toolFiles = map[string][]string{
	"bun": {"package.json"}, "node": {"package.json"}, "npm": {"package.json"}, "npx": {"package.json"}, "pnpm": {"package.json"}, "yarn": {"package.json"},
	"deno": {"deno.json", "deno.jsonc"}, "make": {"Makefile", "makefile", "GNUmakefile"}, "just": {"justfile", "Justfile"}, "task": {"Taskfile.yml", "Taskfile.yaml"},
	"bundle": {"Gemfile"}, "rake": {"Rakefile"}, "rackup": {"config.ru"}, "puma": {"config.ru"}, "thin": {"config.ru"}, "unicorn": {"config.ru"}, "rails": {"config.ru"},
	"caddy": {"Caddyfile"}, "flask": {"app.py", "wsgi.py"}, "foreman": {"Procfile"}, "honcho": {"Procfile"}, "mix": {"mix.exs"}, "php": {"index.php"},
	"go": {"go.mod"}, "cargo": {"Cargo.toml"}, "gradle": {"build.gradle", "build.gradle.kts"}, "mvn": {"pom.xml"}, "sbt": {"build.sbt"},
	"uv": {"pyproject.toml"}, "poetry": {"pyproject.toml"}, "pipenv": {"Pipfile"}, "hugo": {"hugo.toml", "config.toml"},
}

// folderServers are arguments with which a program serves its working directory.
var folderServers = []string{"http.server", "file-server"}

// text looks for names in a text.
func (u *packageUse) text(s string) {
	if u.found {
		return
	}
	for word := range strings.FieldsFuncSeq(s, func(r rune) bool {
		return unicode.IsSpace(r) || strings.ContainsRune("=:,;'\"`()[]{}<>|&$", r)
	}) {
		if u.word(word) {
			u.found = true
			return
		}
	}
}

func (u *packageUse) word(w string) bool {
	if u.prefix != "" && (w == u.prefix || strings.HasPrefix(w, u.prefix+"/")) {
		return true
	}
	if w == "." || w == "./" || strings.HasPrefix(w, "./") || strings.HasPrefix(w, "../") || slices.Contains(folderServers, w) {
		return true
	}
	if u.content == nil {
		return !strings.HasPrefix(w, "/") && !strings.HasPrefix(w, "-")
	}
	for _, file := range toolFiles[path.Base(w)] {
		if _, ok := u.content.Files[file]; ok {
			return true
		}
	}
	if path.IsAbs(w) {
		return false
	}
	if dir, pattern := path.Split(w); strings.ContainsAny(pattern, "*?") {
		return dir != "" && u.exists(path.Clean(dir)) || u.matches(w)
	}
	name := path.Clean(w)
	return u.exists(name) || u.exists(strings.ReplaceAll(name, ".", "/")) // a module of a language, as in python -m pkg.main
}

// exists reports whether the package has something with this path, or a file with it before the
// extension.
func (u *packageUse) exists(name string) bool {
	if name == "" || name == "." {
		return false
	}
	if _, ok := u.content.Find(name); ok {
		return true
	}
	if u.stems == nil {
		u.stems = map[string]bool{}
		for p := range u.content.Files {
			u.stems[strings.TrimSuffix(p, path.Ext(p))] = true
		}
	}
	return u.stems[name]
}

func (u *packageUse) matches(pattern string) bool {
	for p := range u.content.Files {
		if ok, _ := path.Match(pattern, p); ok {
			return true
		}
	}
	return false
}
