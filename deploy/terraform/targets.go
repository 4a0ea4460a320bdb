package terraform

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/defx-dev/defx/deploy/cloud"
)

// Targets returns the load balancer targets in the Terraform state of a module.
func (r *Runner) Targets(address string) ([]cloud.Target, error) {
	var st struct {
		Resources []struct {
			Type      string
			Instances []struct {
				Attributes struct {
					Group string `json:"target_group_arn"`
					ID    string `json:"target_id"`
					Port  int    `json:"port"`
				}
			}
		}
	}
	var config struct {
		Provider struct{ AWS struct{ Region string } }
	}
	for name, into := range map[string]any{stateFile: &st, configFile: &config} {
		raw, err := os.ReadFile(filepath.Join(r.moduleDir(address), name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err == nil {
			err = json.Unmarshal(raw, into)
		}
		if err != nil {
			return nil, err
		}
	}
	var out []cloud.Target
	for _, res := range st.Resources {
		if res.Type != "aws_lb_target_group_attachment" {
			continue
		}
		for _, i := range res.Instances {
			out = append(out, cloud.Target{Region: config.Provider.AWS.Region, Group: i.Attributes.Group, ID: i.Attributes.ID, Port: i.Attributes.Port})
		}
	}
	return out, nil
}
