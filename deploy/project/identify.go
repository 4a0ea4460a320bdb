package project

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/lang"
)

// Identify returns the names of the deployment and the environment without reading
// the state. If the entry file has an error, the folders of the state decide,
// provided that there is only one deployment; environment chooses among several.
func (p *Project) Identify(ctx context.Context, environment string) (deployment, env string, err error) {
	res, err := lang.Evaluate(ctx, p.Config)
	if err == nil {
		var head struct {
			Name string `json:"name"`
		}
		if err = json.Unmarshal(res.Deployment, &head); err == nil && head.Name != "" {
			return head.Name, res.Environment, nil
		}
	}
	known := map[string][]string{}
	for _, file := range []string{"head.json", "leases.json", "objects"} { // some of them may be missing
		found, _ := filepath.Glob(filepath.Join(p.StateDir, "*", "*", file))
		for _, f := range found {
			dir := filepath.Dir(f)
			name := filepath.Base(filepath.Dir(dir))
			known[name] = sets.Union(known[name], []string{filepath.Base(dir)})
		}
	}
	names := sets.Keys(known)
	if ctx.Err() != nil || len(names) != 1 {
		if err == nil {
			err = diag.Errorf("", "the entry file has no name")
		}
		return "", "", err
	}
	if environment == "" && len(known[names[0]]) == 1 {
		environment = known[names[0]][0]
	}
	if !slices.Contains(known[names[0]], environment) {
		return "", "", err
	}
	return names[0], environment, nil
}
