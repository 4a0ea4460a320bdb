package state

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Files of modules, which package terraform writes below the folder of the state.
const (
	modulesName     = "terraform"
	moduleEntryName = "entry.json"
	moduleUnitName  = "unit.json"
)

// moduleStateNames are written after the first entry.json and removed before it.
var moduleStateNames = []string{"terraform.tfstate", "answer.json"}

// verifyModules checks the record of each module.
func (s *Dir) verifyModules() error {
	_, err := s.damagedModules()
	return err
}

// damagedModules returns the records of modules that are damaged or missing:
// paths below the folder of the state. The error is about the first one.
func (s *Dir) damagedModules() (files []string, first error) {
	dirs, err := os.ReadDir(filepath.Join(s.path, modulesName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		name := filepath.Join(modulesName, d.Name(), moduleEntryName)
		raw, err := readRegular(filepath.Join(s.path, name))
		var problem error
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if !slices.ContainsFunc(moduleStateNames, func(file string) bool {
				_, err := os.Lstat(filepath.Join(s.path, modulesName, d.Name(), file))
				return err == nil
			}) {
				continue
			}
			problem = errors.New("the file is missing")
		case err != nil:
			return nil, err
		default:
			var v map[string]json.RawMessage
			if problem = json.Unmarshal(raw, &v); problem == nil && (len(v["scope"]) == 0 || len(v["address"]) == 0) {
				problem = errors.New("fields are missing")
			}
		}
		if problem != nil {
			files = append(files, name)
			if first == nil {
				first = s.damaged(name, problem)
			}
		}
	}
	return files, first
}

// repairModules replaces damaged records of modules by ones that say that the
// module exists in an unknown version: Terraform's own state is beside them.
func (r *repair) repairModules() error {
	files, err := r.damagedModules()
	if len(files) == 0 {
		return err
	}
	r.lost = true
	for _, name := range files {
		if err := r.setAside(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		dir := filepath.Dir(name)
		var u struct {
			Address string `json:"address"`
			Backend string `json:"backend"`
		}
		raw, err := readRegular(filepath.Join(r.path, dir, moduleUnitName))
		if err == nil {
			err = json.Unmarshal(raw, &u)
		}
		if err != nil || u.Address == "" { // the folder has the name of the module
			u.Address = "module/" + filepath.Base(dir)
		}
		scope := filepath.Base(r.path) + "/" + filepath.Base(filepath.Dir(r.path))
		if err := r.writeFile(name, map[string]any{"backend": u.Backend, "digest": "", "object": "", "instance": "", "files": []string{},
			"scope": scope, "address": u.Address, "token": 0, "keeps": []string{}, "retains": []string{}}); err != nil {
			return err
		}
	}
	return nil
}
