package project

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/lang"
)

// transform replaces the functionalities of in by what the entry's transforms
// make of them. Transforms get the evaluated functionalities, and for one that
// does not evaluate its last good version. The last good versions are also
// transformed on their own, because they replace what turns out to be wrong in a
// later stage.
func (p *Project) transform(ctx context.Context, in *compile.Input) error {
	values, good := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	in.Raw, in.RawLastGood = compile.LastGood{}, in.Baseline.LastGood
	for lib, funcs := range in.RawLastGood {
		for name, v := range funcs {
			good[lib+"/"+name] = v
		}
	}
	broken := map[string]bool{}
	for _, l := range in.Result.Libraries {
		in.Raw[l.Name] = map[string]json.RawMessage{}
		if l.Err != nil {
			for name := range in.RawLastGood[l.Name] {
				broken[l.Name+"/"+name] = true
			}
		}
		for _, f := range l.Functionalities {
			full := l.Name + "/" + f.Name
			if f.Err != nil {
				broken[full] = true
			} else if string(f.Value) != "null" {
				values[full], in.Raw[l.Name][f.Name] = f.Value, f.Value
			}
		}
	}
	for full := range broken {
		if v, ok := good[full]; ok {
			values[full] = v
		}
	}
	transformed, err := lang.Transform(ctx, p.Config, values)
	if err != nil {
		return err
	}
	lastGood := map[string]json.RawMessage{}
	if len(good) > 0 {
		if lastGood, err = lang.Transform(ctx, p.Config, good); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			lastGood = map[string]json.RawMessage{} // the transforms do not fit the last good versions: none can be used
		}
	}
	for full := range broken {
		if v, ok := transformed[full]; ok {
			lastGood[full] = v
		}
	}
	in.Baseline.LastGood = compile.LastGood{}
	for full, v := range lastGood {
		lib, name, _ := strings.Cut(full, "/")
		if in.Baseline.LastGood[lib] == nil {
			in.Baseline.LastGood[lib] = map[string]json.RawMessage{}
		}
		in.Baseline.LastGood[lib][name] = v
	}
	in.Result = withTransformed(in.Result, transformed, broken)
	return nil
}

// withTransformed returns a copy of res with the values of transformed:
// functionalities that a transform dropped are absent, those that it added are
// at the end of their library, and those in broken keep their error.
func withTransformed(res *lang.Result, transformed map[string]json.RawMessage, broken map[string]bool) *lang.Result {
	out := *res
	out.Libraries = nil
	seen := map[string]bool{}
	for _, l := range res.Libraries {
		funcs := l.Functionalities
		l.Functionalities = nil
		for _, f := range funcs {
			full := l.Name + "/" + f.Name
			seen[full] = true
			v, ok := transformed[full]
			if ok && f.Err == nil {
				f.Value = v
			}
			if ok || f.Err != nil {
				l.Functionalities = append(l.Functionalities, f)
			}
		}
		out.Libraries = append(out.Libraries, l)
	}
	for _, full := range sets.Keys(transformed) {
		if seen[full] || broken[full] {
			continue
		}
		lib, name, _ := strings.Cut(full, "/")
		i := slices.IndexFunc(out.Libraries, func(l lang.Library) bool { return l.Name == lib })
		if i < 0 {
			i = len(out.Libraries)
			out.Libraries = append(out.Libraries, lang.Library{Name: lib})
		}
		out.Libraries[i].Functionalities = append(out.Libraries[i].Functionalities, lang.Functionality{Name: name, Value: transformed[full]})
	}
	return &out
}
