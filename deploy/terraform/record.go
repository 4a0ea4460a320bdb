package terraform

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
)

// What lies in the folder of a module.
const (
	entryFile   = "entry.json"
	unitFile    = "unit.json" // canonical bytes of the unit that stands, or that is being made
	configFile  = "main.tf.json"
	stateFile   = "terraform.tfstate"
	lockFile    = "lock"
	planFile    = "plan.tfplan"
	plannedFile = "plan.json" // what planFile would do
	readyFile   = ".init"     // what the folder was initialized for
	depsFile    = ".terraform.lock.hcl"
)

// moduleRecord is entry.json.
type moduleRecord struct {
	agent.Entry
	Scope          string            `json:"scope"`
	Address        string            `json:"address"`
	Token          int64             `json:"token"`           // highest fencing token seen
	Protected      []string          `json:"keeps"`           // kind.name that must not be deleted unless asked for
	OrphanOnDelete []string          `json:"retains"`         // kind.name that are forgotten and not deleted
	Moves          map[string]string `json:"moves,omitempty"` // kind.name → kind.name: what a change under way calls otherwise
	Last           plan.Values       `json:"last,omitempty"`  // values with which Terraform was last called
}

func readEntry(dir string) (*moduleRecord, error) {
	raw, err := os.ReadFile(filepath.Join(dir, entryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	e := &moduleRecord{}
	if err := json.Unmarshal(raw, e); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", filepath.Join(dir, entryFile), err)
	}
	return e, nil
}

// write makes the entry durable.
func (e *moduleRecord) write(dir string) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, entryFile), raw)
}

// writeFile puts a whole file in the place of another.
func writeFile(path string, raw []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it is gone if all went well
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
