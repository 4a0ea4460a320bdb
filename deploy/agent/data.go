package agent

import (
	"context"
	"encoding/json"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/nofollow"
)

// dataMemory remembers which directories and volumes of units held data, so that a unit whose data
// is gone does not start empty unnoticed. It only grows while a unit exists.
type dataMemory struct {
	held    map[string][]string // scope and address → what held data, sorted
	changed bool
}

const dataPath = base + "/data.json"

func readDataMemory(root *nofollow.Root) *dataMemory {
	m := &dataMemory{held: map[string][]string{}}
	if raw, err := root.ReadFile(dataPath); err == nil {
		json.Unmarshal(raw, &m.held)
	}
	if m.held == nil {
		m.held = map[string][]string{}
	}
	return m
}

func (m *dataMemory) key(scope, address string) string { return scope + " " + address }

func (m *dataMemory) remember(scope, address, data string) {
	key := m.key(scope, address)
	if i, known := slices.BinarySearch(m.held[key], data); !known {
		m.held[key], m.changed = slices.Insert(slices.Clone(m.held[key]), i, data), true
	}
}

// forget removes what is remembered of a unit: it may start without its data.
func (m *dataMemory) forget(scope, address string) {
	if key := m.key(scope, address); m.held[key] != nil {
		delete(m.held, key)
		m.changed = true
	}
}

// save writes the memory if it changed. An error does not matter: the next refresh tries again.
func (m *dataMemory) save(root *nofollow.Root) {
	if !m.changed {
		return
	}
	if raw, err := digest.Canonical(m.held); err == nil {
		(&Host{root: root}).replace(dataPath, append(raw, '\n'), ownFile)
	}
}

// States of what holds data, in the order of what is known of it at several places.
type dataState int

const (
	dataAbsent dataState = iota
	dataEmpty
	dataUnknown
	dataHeld
)

// dataState looks at a directory or volume.
func (c *comparison) dataState(ctx context.Context, data string) dataState {
	if c.h.supervisor == nil { // nothing runs that could have made it
		return dataUnknown
	}
	dir := data
	if volume, is := strings.CutPrefix(data, backends.VolumePrefix); is {
		s, ok := c.h.supervisor.(containerSupervisor)
		if !ok {
			return dataUnknown
		}
		var err error
		if dir, err = s.VolumeDir(ctx, volume); err != nil {
			return dataUnknown
		}
		if dir == "" {
			return dataAbsent
		}
		if _, err := os.Stat(dir); err != nil { // the engine keeps its volumes elsewhere
			return dataUnknown
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return dataUnknown
		}
		if len(entries) == 0 {
			return dataEmpty
		}
		return dataHeld
	}
	found := dataAbsent
	for _, p := range places(dir) { // a symbolic link that is missing is made again by systemd
		found = max(found, c.dirState(p))
	}
	return found
}

// dirState looks at a directory.
func (c *comparison) dirState(p string) dataState {
	f, err := c.root.Open(p)
	if os.IsNotExist(err) {
		return dataAbsent
	}
	if err != nil {
		return dataUnknown
	}
	defer f.Close()
	if names, _ := f.Readdirnames(1); len(names) == 0 {
		return dataEmpty
	}
	return dataHeld
}

// compareData compares the unit's data with what is remembered of it. A directory that systemd
// made at a start and that is not there any more was removed by somebody, whatever was in it.
func (c *comparison) compareData(ctx context.Context, address string, u *UnitRefresh) {
	remembered := c.memory.held[c.memory.key(c.scope, address)]
	for _, d := range u.Entry.Data {
		_, held := slices.BinarySearch(remembered, d)
		switch c.dataState(ctx, d) {
		case dataHeld:
			u.Held = append(u.Held, d)
			c.memory.remember(c.scope, address, d)
		case dataAbsent:
			if slices.Contains(u.Entry.Start, u.Entry.Unit) && !u.Entry.Stopped || held {
				u.add(path.Clean(d), plan.CauseDataMissing, "")
			}
		case dataEmpty:
			if held {
				u.add(path.Clean(d), plan.CauseDataMissing, "it is empty")
			}
		}
	}
}
