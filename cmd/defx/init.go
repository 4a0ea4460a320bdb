package main

import (
	"embed"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/spf13/cobra"
)

//go:embed init
var templates embed.FS

// initFiles are the files of a new deployment.
var initFiles = []struct{ template, name string }{
	{"init/defx.jsonnet", "defx.jsonnet"},
	{"init/hello.libsonnet", "hello/functionalities.libsonnet"},
	{"init/gitignore", ".gitignore"},
}

type initOptions struct {
	*globalOptions
	into string // folder; "" = the current one
}

func initCommand(g *globalOptions) *cobra.Command {
	o := &initOptions{globalOptions: g}
	return &cobra.Command{
		Use:   "init [DIR]",
		Short: "Create a new deployment",
		Long: `Write a small working deployment: an entry file, one library, and a folder that acts as
a machine. Existing files are never overwritten.`,
		Example: "  defx init\n  defx init shop",
		Args:    arguments(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.into = args[0]
			}
			return runInit(o, g.view())
		},
	}
}

func runInit(o *initOptions, v view) error {
	dir := o.dir
	if o.into != "" {
		dir = o.path(o.into)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for _, f := range initFiles {
		if _, err := os.Lstat(filepath.Join(abs, f.name)); err == nil {
			return diag.Errorf("", "%s already exists", filepath.Join(dir, f.name)).WithHint("choose another folder: defx init DIR")
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	doc := initialized{newHeader("Initialized"), []string{}}
	for _, f := range initFiles {
		raw, err := templates.ReadFile(f.template)
		if err != nil {
			return err
		}
		file := filepath.Join(abs, f.name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(raw), "NAME", deploymentName(abs))), 0o644); err != nil {
			return err
		}
		doc.Files = append(doc.Files, filepath.Join(dir, f.name))
	}
	if err := v.show(doc); err != nil {
		return err
	}
	cd := ""
	if o.into != "" {
		cd = "cd " + shellWord(dir) + " && "
		o.globalOptions.dir = "." // the printed commands run there
	}
	v.advise("Next: %sdefx plan, then defx apply.", cd)
	return nil
}

// initialized is printed by init.
type initialized struct {
	header
	Files []string `json:"files"`
}

func (i initialized) print(p *printer) {
	for _, f := range i.Files {
		p.println(f)
	}
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./@%+=:,-][A-Za-z0-9_./@%+=:,#-]*$`)

// shellWord quotes a word for a shell command that a person may copy.
func shellWord(w string) string {
	if plainWord.MatchString(w) {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// deploymentName derives the name of a deployment from that of its folder.
func deploymentName(dir string) string {
	name := strings.Trim(notInName.ReplaceAllString(strings.ToLower(filepath.Base(dir)), "-"), "-")
	name = strings.Trim(name[:min(len(name), 42)], "-")
	if !graph.ValidName(name) {
		return "hello"
	}
	return name
}
