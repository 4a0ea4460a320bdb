package compose

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
)

// This file keeps an import from reading what a compose file merely names: files outside of the
// folder of the project, before the loader opens them, and variables of the user's environment.

// confinement checks the files that a compose file names.
type confinement struct {
	ctx  context.Context
	root string          // folder of the project, without links
	seen map[string]bool // compose files that were checked
	errs diag.List

	inherited []string // variables that are named without a value
}

// checkFiles returns an error for each file outside of its project that a compose file, or one that
// it includes or extends, would make an import read. It also returns the names of the variables
// whose values the environment of a service or a config gives.
func checkFiles(ctx context.Context, file string) (inherited []string, err error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(abs)
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	c := &confinement{ctx: ctx, root: root, seen: map[string]bool{}}
	if c.inside(filepath.Base(abs), dir, "the file itself") {
		if err := c.compose(abs, dir); err != nil {
			return nil, err
		}
	}
	return c.inherited, c.errs.Err()
}

// inside reports whether a path is in the project, with all links resolved, and adds an error if it
// is not. field says where it stands.
func (c *confinement) inside(p, dir, field string) bool {
	fail := func(format string, args ...any) bool {
		c.errs = append(c.errs, diag.Errorf("", "%s: %s", field, fmt.Sprintf(format, args...)).
			WithHint("copy the file into the folder of the compose file, or remove the reference"))
		return false
	}
	if strings.HasPrefix(p, "~") || strings.ContainsRune(p, '$') {
		return fail("%q depends on the user's environment", p)
	}
	if !filepath.IsAbs(p) {
		p = filepath.Join(dir, p)
	}
	resolved, err := filepath.EvalSymlinks(p)
	if os.IsNotExist(err) {
		resolved, err = filepath.EvalSymlinks(filepath.Dir(p))
		if resolved = filepath.Join(resolved, filepath.Base(p)); err != nil {
			resolved = filepath.Clean(p)
		}
		err = nil
	}
	if err != nil {
		return fail("%v", err)
	}
	if !below(c.root, resolved) {
		return fail("%q is outside of the project's folder %s", p, c.root)
	}
	return true
}

// below reports whether a path is a folder or in it.
func below(root, p string) bool {
	rel, err := filepath.Rel(root, p)
	return err == nil && filepath.IsLocal(rel)
}

// compose checks the references of one compose file. dir is the folder to which they are relative.
func (c *confinement) compose(file, dir string) error {
	if c.seen[file] {
		return nil
	}
	c.seen[file] = true
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	// Nothing but this file is opened: neither what it includes nor what it extends.
	doc, err := loader.LoadModelWithContext(c.ctx, types.ConfigDetails{WorkingDir: dir, ConfigFiles: []types.ConfigFile{{Filename: file, Content: raw}}}, func(o *loader.Options) {
		o.SkipInclude, o.SkipExtends, o.SkipInterpolation, o.SkipResolveEnvironment, o.SkipValidation, o.SkipNormalization, o.SkipConsistencyCheck = true, true, true, true, true, true, true
		o.ResolvePaths = false
		o.SetProjectName("x", true)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	more := func(p, base, dir string) error { // another compose file
		if !filepath.IsAbs(p) {
			p = filepath.Join(base, p)
		}
		if info, err := os.Stat(p); err != nil || info.IsDir() {
			return nil // the loader reports it
		}
		return c.compose(p, dir)
	}
	includes, _ := doc["include"].([]any)
	for i, one := range includes {
		field := fmt.Sprintf("include[%d]", i)
		entry, _ := one.(map[string]any)
		if s, ok := one.(string); ok {
			entry = map[string]any{"path": s}
		}
		next := dir
		for n, p := range paths(entry["path"]) {
			if !c.inside(p, dir, field) {
				continue
			}
			if n == 0 {
				next = filepath.Dir(filepath.Join(dir, p))
			}
			if pd, ok := entry["project_directory"].(string); ok {
				if !c.inside(pd, dir, field+".project_directory") {
					continue
				}
				next = filepath.Join(dir, pd)
			}
			if err := more(p, dir, next); err != nil {
				return err
			}
		}
		c.insideAll(entry["env_file"], dir, field+".env_file")
		if len(paths(entry["env_file"])) == 0 {
			c.inside(".env", next, field)
		}
	}
	for _, kind := range []string{"services", "jobs"} {
		services, _ := doc[kind].(map[string]any)
		for _, name := range sets.Keys(services) {
			s, _ := services[name].(map[string]any)
			field := kind + "." + name
			c.insideAll(s["env_file"], dir, field+".env_file")
			c.insideAll(s["label_file"], dir, field+".label_file")
			c.named(s["environment"])
			extends, _ := s["extends"].(map[string]any)
			if p, ok := extends["file"].(string); ok && c.inside(p, dir, field+".extends.file") {
				if err := more(p, dir, filepath.Dir(filepath.Join(dir, p))); err != nil {
					return err
				}
			}
			hooks, _ := s["pre_start"].([]any)
			for _, h := range hooks {
				hook, _ := h.(map[string]any)
				c.insideAll(hook["env_file"], dir, field+".pre_start.env_file")
				c.insideAll(hook["label_file"], dir, field+".pre_start.label_file")
			}
		}
	}
	for _, kind := range []string{"configs", "secrets"} {
		list, _ := doc[kind].(map[string]any)
		for _, name := range sets.Keys(list) {
			one, _ := list[name].(map[string]any)
			c.insideAll(one["file"], dir, kind+"."+name+".file")
			if v, ok := one["environment"].(string); ok && kind == "configs" {
				c.inherited = append(c.inherited, v)
			}
		}
	}
	return nil
}

// named notes the variables in an environment that have no value there.
func (c *confinement) named(environment any) {
	switch e := environment.(type) {
	case []any:
		for _, x := range e {
			if s, ok := x.(string); ok && !strings.Contains(s, "=") {
				c.inherited = append(c.inherited, s)
			}
		}
	case map[string]any:
		for k, v := range e {
			if v == nil {
				c.inherited = append(c.inherited, k)
			}
		}
	}
}

func (c *confinement) insideAll(v any, dir, field string) {
	for _, p := range paths(v) {
		c.inside(p, dir, field)
	}
}

// paths returns the paths in a field: a path, or a list of paths or objects with one.
func paths(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case map[string]any:
		return paths(v["path"])
	case []any:
		var out []string
		for _, x := range v {
			out = append(out, paths(x)...)
		}
		return out
	}
	return nil
}

// variables records the variables that a compose file reads.
type variables struct {
	given   map[string]bool // with --var
	missing map[string]bool
	copied  map[string]bool // from the user's environment
}

// substitute replaces the variables in a string, as compose does, and records them.
func (v *variables) substitute(s string, lookup template.Mapping) (string, error) {
	for name := range template.ExtractVariables(map[string]any{"": s}, nil) {
		_, known := lookup(name)
		optional := slices.ContainsFunc([]string{":-", "-", ":+", "+"}, func(op string) bool { return strings.Contains(s, "${"+name+op) })
		switch {
		case known && !v.given[name]:
			v.copied[name] = true
		case !known && !optional:
			v.missing[name] = true
		}
	}
	if len(v.missing) > 0 { // an error, whatever the rest is
		return s, nil
	}
	return template.Substitute(s, lookup)
}

// err returns an error if variables have no value.
func (v *variables) err() error {
	if len(v.missing) == 0 {
		return nil
	}
	names := sets.Keys(v.missing)
	return diag.Errorf("", "the file reads %s, and an import takes nothing from the environment by itself", strings.Join(names, ", ")).
		WithHint("--var %s=VALUE gives a value; --env-from-here copies those of this environment and of .env into the library, which is made to be committed", names[0])
}
