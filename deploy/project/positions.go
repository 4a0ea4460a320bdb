package project

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	graphlint "github.com/defx-dev/defx/compile/lint"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/openfile"
	"github.com/defx-dev/defx/lang"
	"github.com/defx-dev/defx/lang/lint"
)

// sourcePath returns the path in the entry's value of a field of the normalized service.
func sourcePath(svc *graph.Service, field []string) []string {
	if len(field) == 0 {
		return svc.Path
	}
	switch field[0] {
	case svc.Backend:
		return append(slices.Clone(svc.Path), field...)
	case "requires", "after":
		return append(slices.Clone(svc.Path), field[0])
	}
	return append(slices.Clone(svc.SpecPath), field...)
}

// locate sets the positions of errors that have only a path.
func (p *Project) locate(ctx context.Context, list diag.List) {
	var paths [][]string
	var errs []*diag.Error
	var places []*diag.Place
	var placePaths [][]string
	for _, e := range list {
		if !e.Pos.Known() && e.Path != nil {
			paths, errs = append(paths, e.Path), append(errs, e)
		}
		for i := range e.Places {
			if at := &e.Places[i]; !at.Pos.Known() && at.Path != nil {
				places, placePaths = append(places, at), append(placePaths, at.Path)
			}
		}
	}
	for i, pos := range p.Positions(ctx, slices.Concat(paths, placePaths)) {
		if i >= len(errs) {
			places[i-len(errs)].Pos = pos
			continue
		}
		errs[i].Pos = p.refinePosition(ctx, pos, errs[i].Word)
	}
}

// maxSearchLines is how many lines of a value refinePosition searches.
const maxSearchLines = 60

// refinePosition moves a position from the first line of a value to the line
// that contains word in quotes, if there is one.
func (p *Project) refinePosition(ctx context.Context, pos diag.Position, word string) diag.Position {
	if word == "" || !pos.Known() {
		return pos
	}
	raw, err := openfile.Read(ctx, p.sourceFile(pos), openfile.Small)
	if err != nil {
		return pos
	}
	lines := strings.Split(string(raw), "\n")
	for i := pos.Line - 1; i >= 0 && i < min(len(lines), pos.Line+maxSearchLines); i++ {
		for _, quoted := range []string{"'" + word + "'", `"` + word + `"`} {
			col := strings.Index(lines[i], quoted)
			if col < 0 {
				continue
			}
			if i > pos.Line-1 {
				pos.Line, pos.Col = i+1, col+1
			}
			return pos
		}
	}
	return pos
}

// sourceFile returns the path of the file of a position.
func (p *Project) sourceFile(pos diag.Position) string {
	name := filepath.FromSlash(pos.File)
	if !filepath.IsAbs(name) {
		name = filepath.Join(p.Config.Root, name)
	}
	return name
}

// Lint reports mistakes in the source and in its value that are valid but
// probably unintended. It leaves out those that a comment on the line above
// silences.
func (p *Project) Lint(ctx context.Context, d *Desired) (diag.List, error) {
	found, err := lang.Lint(ctx, p.Config)
	if err != nil {
		return nil, err
	}
	found = append(found, graphlint.Graph(graphlint.Input{Graph: d.Graph, Deployment: d.Entry})...)
	found = append(found, p.Backends.Lint(d.Graph)...)
	found = append(found, backends.LintNeeds(d.Graph, d.Rendered.Plan)...)
	paths := make([][]string, len(found))
	for i, f := range found {
		if !f.Pos.Known() {
			paths[i] = f.Path
		}
	}
	for i, pos := range p.Positions(ctx, paths) {
		if paths[i] != nil {
			found[i].Pos = pos
		}
	}
	sources := map[string]string{}
	return slices.DeleteFunc(lint.Sort(found), func(f *diag.Error) bool {
		src, read := sources[f.Pos.File]
		if !read {
			raw, _ := openfile.Read(ctx, p.sourceFile(f.Pos), openfile.Small) // without its text nothing is silenced
			src = string(raw)
			sources[f.Pos.File] = src
		}
		// An override that depends on the environment may be unused in one of them.
		return lint.IsSilenced(src, f) || f.Code == lint.UnusedOverride && !lint.IsConstant(src, f.Pos)
	}), nil
}

// Positions returns where the fields at paths in the entry's value are written.
// A nil path, and a field that cannot be found, has no position; that is never
// an error.
func (p *Project) Positions(ctx context.Context, paths [][]string) []diag.Position {
	out := make([]diag.Position, len(paths))
	var distinct [][]string
	index := map[string]int{}
	for _, path := range paths {
		key := strings.Join(path, "\x00")
		if _, known := index[key]; !known && path != nil {
			index[key] = len(distinct)
			distinct = append(distinct, path)
		}
	}
	if len(distinct) == 0 {
		return out
	}
	found, err := lang.Locate(ctx, p.Config, distinct)
	if err != nil || len(found) != len(distinct) {
		return out
	}
	for i, path := range paths {
		if path != nil {
			out[i] = found[index[strings.Join(path, "\x00")]]
		}
	}
	return out
}
