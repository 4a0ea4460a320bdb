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
	"github.com/defx-dev/defx/internal/atomicfile"
)

// Files in the directory of a module.
const (
	entryFile   = "entry.json"
	unitFile    = "unit.json" // canonical bytes of the unit that is deployed, or that is being deployed
	configFile  = "main.tf.json"
	stateFile   = "terraform.tfstate"
	lockFile    = "lock"
	planFile    = "plan.tfplan"
	plannedFile = "plan.json" // the changes of planFile
	readyFile   = ".init"     // the providers for which the directory was initialized
	depsFile    = ".terraform.lock.hcl"
)

// moduleRecord is the content of entry.json. The entry has the apply and the
// fencing token that changed the module last.
type moduleRecord struct {
	agent.Entry
	Scope          string            `json:"scope"`
	Address        string            `json:"address"`
	Protected      []string          `json:"keeps"`           // kind.name of resources whose deletion needs confirmation
	OrphanOnDelete []string          `json:"retains"`         // kind.name of resources that are kept when they leave the module
	Moves          map[string]string `json:"moves,omitempty"` // kind.name → kind.name: renames of a change in progress
	Last           plan.Values       `json:"last,omitempty"`  // values of the last call of Terraform
}

// readEntry reads the record of a module; it returns nil if there is none.
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

// write stores the record durably.
func (e *moduleRecord) write(dir string) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, entryFile), raw)
}

// removeModule removes the directory of a module that no longer exists. The record
// goes last: state without a record counts as damage.
func removeModule(dir string) error {
	for _, name := range []string{stateFile, answerFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// writeFile replaces a file atomically and durably; other users cannot read it.
func writeFile(path string, raw []byte) error { return atomicfile.Write(path, raw, 0o600) }
