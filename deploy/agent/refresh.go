package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/engine"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/nofollow"
	"github.com/defx-dev/defx/internal/sets"
)

// This file compares the machine with what was deployed on it, without locking or changing it.
// Files are compared by their stat data as long as those are the ones that were remembered
// (statCache), units by one query for all, containers field by field.

// Refreshed is the machine's answer to a refresh of one scope.
type Refreshed struct {
	Known bool                    `json:"known,omitempty"` // the machine has records of the scope
	Runs  bool                    `json:"runs,omitempty"`  // units run here: it is not a dir: folder
	Units map[string]*UnitRefresh `json:"units,omitempty"` // the recorded units, by address
	Stray []StrayUnit             `json:"stray,omitempty"` // units of the scope without a record, sorted
	Data  map[string][]string     `json:"data,omitempty"`  // address → what of the data that the request names for it is there and not empty
	Scope *Scope                  `json:"scope,omitempty"` // what the machine knows of the state and of the applies that changed it
}

// UnitRefresh is what differs of one unit.
type UnitRefresh struct {
	Entry       *Entry            `json:"entry"`
	Differences []plan.Difference `json:"differences,omitempty"`
	Held        []string          `json:"held,omitempty"`  // what of the entry's data is not empty
	State       *SupervisorState  `json:"state,omitempty"` // with details
	Runs        *Runs             `json:"jobs,omitempty"`  // with details, of a scheduled job
}

// StrayUnit is a unit of systemd or an engine that defx made and that has no record.
type StrayUnit struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
	Active  bool   `json:"active,omitempty"`
}

// RefreshRequest is what a refresh asks for.
type RefreshRequest struct {
	Scope     string
	Addresses []string            // none = all
	Data      map[string][]string // address → what held its data, as the state remembers it
	Details   bool                // include states and runs
}

// bulkSupervisor is a supervisor that answers for many units at once.
type bulkSupervisor interface {
	States(ctx context.Context, units []string) (map[string]SupervisorState, error)
}

// containerSupervisor is a supervisor of containers.
type containerSupervisor interface {
	// Differences compares the containers of units with their files.
	Differences(ctx context.Context, units []string) (map[string]engine.Comparison, error)
	// VolumeDir returns the folder of a volume; "" if there is no such volume.
	VolumeDir(ctx context.Context, name string) (string, error)
	// ScopeContainers returns the containers of a scope.
	ScopeContainers(ctx context.Context, scope string) ([]engine.ScopeContainer, error)
}

// Refresh compares the units of a scope with what was deployed.
func (h *Host) Refresh(ctx context.Context, q RefreshRequest) (*Refreshed, error) {
	out := &Refreshed{Runs: h.supervisor != nil, Units: map[string]*UnitRefresh{}}
	root, m, done, err := h.openSnapshot()
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	defer done()
	c := &comparison{h: h, root: root, cache: openStatCache(root), memory: readDataMemory(root), scope: q.Scope}
	defer c.cache.save()
	units, known := m.Scopes[q.Scope]
	out.Known, out.Scope = known, m.known(q.Scope)
	out.Scope.Units = nil // they are in out.Units
	for _, address := range sets.Keys(units) {
		if len(q.Addresses) == 0 || slices.Contains(q.Addresses, address) {
			out.Units[address] = &UnitRefresh{Entry: units[address]}
		}
	}
	if err := c.compare(ctx, out.Units); err != nil {
		return nil, err
	}
	if q.Details {
		if err := c.details(ctx, out.Units); err != nil {
			return nil, err
		}
	}
	if out.Stray, err = c.strays(ctx, m); err != nil {
		return nil, err
	}
	for address, list := range q.Data {
		for _, d := range list {
			if state := c.dataState(ctx, d); state == dataHeld {
				if out.Data == nil {
					out.Data = map[string][]string{}
				}
				out.Data[address] = append(out.Data[address], d)
			}
		}
	}
	c.memory.save(root)
	return out, nil
}

// openSnapshot is openReadOnly for a machine on which an apply may be running: the manifest and
// the journal that it reads belong together.
func (h *Host) openSnapshot() (*nofollow.Root, *manifest, func(), error) {
	for try := 0; ; try++ {
		root, err := nofollow.OpenRoot(h.path)
		if err != nil {
			return nil, nil, nil, err
		}
		before := statOf(root, manifestPath)
		m, err := readManifest(root)
		if after := statOf(root, manifestPath); try < 10 && before != after { // flushed in between
			root.Close()
			continue
		}
		if err != nil {
			root.Close()
			return nil, nil, nil, err
		}
		return root, m, func() { root.Close() }, nil
	}
}

func statOf(root *nofollow.Root, p string) string {
	info, err := root.Lstat(p)
	if err != nil {
		return ""
	}
	text, _ := statText(info)
	return text
}

// comparison is one comparison of a machine with its records.
type comparison struct {
	h      *Host
	root   *nofollow.Root
	cache  *statCache
	memory *dataMemory
	scope  string
	drops  map[string][]string // folder of drop-ins → its files
}

// compare fills in the differences of units.
func (c *comparison) compare(ctx context.Context, units map[string]*UnitRefresh) error {
	layouts := map[string]backends.Layout{}
	for _, address := range sets.Keys(units) {
		u := units[address]
		if u.Entry.Digest == "" {
			u.add("state", plan.CauseUnknown, "")
			continue
		}
		layouts[address] = c.compareFiles(u)
		c.compareDropIns(u)
		c.compareData(ctx, address, u)
	}
	if c.h.supervisor == nil {
		return nil
	}
	return c.compareStates(ctx, units, layouts)
}

func (u *UnitRefresh) add(field string, cause plan.Cause, detail string) {
	u.Differences = append(u.Differences, plan.Difference{Field: field, Cause: cause, Detail: detail})
}

// compareFiles compares files and stored content, and returns the unit's layout.
func (c *comparison) compareFiles(u *UnitRefresh) backends.Layout {
	e := u.Entry
	raw, err := c.root.ReadFile(path.Join(storePath, e.Object.Hex()))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		u.add("/"+path.Join(storePath, e.Object.Hex()), plan.CauseStoreMissing, "")
	case err != nil || digest.Bytes(raw) != e.Object:
		u.add("/"+path.Join(storePath, e.Object.Hex()), plan.CauseStoreDamaged, "")
		err = errors.New("damaged")
	}
	c.compareObjects(u, raw, err == nil)
	var l backends.Layout
	if err == nil {
		l, err = c.h.layout(raw, e)
	}
	if err != nil { // what the files should contain is unknown: at least they must be there
		for _, f := range e.Files {
			if _, err := c.root.Lstat(rel(f)); errors.Is(err, fs.ErrNotExist) {
				u.add(f, missingCause(f, false), "")
			}
		}
		return backends.Layout{Unit: e.Unit, Start: e.Start}
	}
	for _, f := range l.Files {
		if cause, detail := c.compareFile(f); cause != "" {
			u.add(f.Path, cause, detail)
		}
	}
	return l
}

// fileKind distinguishes the files of units, of the whole machine, and those below defx's folder.
type fileKind int

const (
	unitFile fileKind = iota
	agentFile
	hostFile
)

func kindOf(p string) fileKind {
	switch {
	case strings.HasPrefix(p, unitDir+"/") || path.Dir(p) == docker.Dir:
		return unitFile
	case strings.HasPrefix(p, "/"+base+"/"):
		return agentFile
	}
	return hostFile
}

func missingCause(p string, link bool) plan.Cause {
	if link && kindOf(p) == unitFile && strings.HasSuffix(path.Dir(p), ".wants") {
		return plan.CauseNotEnabled
	}
	return [...]plan.Cause{plan.CauseUnitMissing, plan.CauseFileMissing, plan.CauseHostMissing}[kindOf(p)]
}

func editedCause(p string) plan.Cause {
	return [...]plan.Cause{plan.CauseUnitEdited, plan.CauseFileEdited, plan.CauseHostEdited}[kindOf(p)]
}

func modeCause(p string) plan.Cause {
	return [...]plan.Cause{plan.CauseUnitMode, plan.CauseFileMode, plan.CauseHostMode}[kindOf(p)]
}

// compareFile returns how one file differs; "" if it does not.
func (c *comparison) compareFile(f backends.File) (plan.Cause, string) {
	p := rel(f.Path)
	info, err := c.root.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return missingCause(f.Path, f.Link != ""), ""
	}
	if err != nil {
		return editedCause(f.Path), err.Error()
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		to, err := c.root.Readlink(p)
		switch {
		case err == nil && f.Link != "" && to == f.Link:
			return "", ""
		case to == "/dev/null" && kindOf(f.Path) == unitFile:
			return plan.CauseMasked, ""
		case f.Link != "" && kindOf(f.Path) == unitFile:
			return plan.CauseAlias, "it points to " + to
		}
		return editedCause(f.Path), "it points to " + to
	}
	switch {
	case f.Link != "" || !info.Mode().IsRegular():
		return editedCause(f.Path), "it is " + kindText(info.Mode())
	case info.Size() != int64(len(f.Content)):
		return editedCause(f.Path), ""
	}
	d, err := c.cache.file(f.Path, info)
	switch {
	case err != nil:
		return editedCause(f.Path), err.Error()
	case d != digest.Bytes(f.Content):
		return editedCause(f.Path), ""
	case info.Mode().Perm() != f.Mode.Perm():
		return modeCause(f.Path), fmt.Sprintf("%04o, not %04o", info.Mode().Perm(), f.Mode.Perm())
	}
	return "", ""
}

func kindText(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a folder"
	case m.IsRegular():
		return "a file"
	case m&fs.ModeSymlink != 0:
		return "a link"
	}
	return "a special file"
}

// compareObjects checks the stored content that a unit needs. raw is the unit itself, if it is
// intact.
func (c *comparison) compareObjects(u *UnitRefresh, raw []byte, intact bool) {
	artifacts := map[string]plan.Artifact{}
	var unit plan.Unit
	if intact && json.Unmarshal(raw, &unit) == nil {
		for _, a := range unit.Artifacts {
			artifacts[a.Digest.Hex()] = a
		}
	}
	for _, name := range u.Entry.Objects {
		p := "/" + path.Join(storePath, name)
		info, err := c.root.Lstat(rel(p))
		if errors.Is(err, fs.ErrNotExist) {
			u.add(p, plan.CauseStoreMissing, "")
			continue
		}
		if err != nil {
			u.add(p, plan.CauseStoreDamaged, err.Error())
			continue
		}
		if a, is := artifacts[name]; is {
			if d, known, err := c.cache.artifactDigest(a); err != nil || known && d != a.Digest {
				u.add(p, plan.CauseStoreDamaged, "")
			}
			continue
		}
		hex, mode, _ := strings.Cut(name, "-")
		if !info.Mode().IsRegular() {
			if info.Mode().IsDir() && !intact {
				continue // an artifact
			}
			u.add(p, plan.CauseStoreDamaged, "it is "+kindText(info.Mode()))
			continue
		}
		if d, err := c.cache.file(p, info); err != nil || d.Hex() != hex {
			u.add(p, plan.CauseStoreDamaged, "")
		} else if want, err := parseMode(mode); err == nil && info.Mode().Perm() != want {
			u.add(p, plan.CauseStoreDamaged, fmt.Sprintf("mode %04o", info.Mode().Perm()))
		}
	}
}

// parseMode parses the mode in the name of a stored file.
func parseMode(text string) (fs.FileMode, error) {
	var m fs.FileMode
	_, err := fmt.Sscanf(text, "%o", &m)
	return m, err
}

// dropInDirs are the folders in which systemd looks for drop-ins of units, the strongest first.
var dropInDirs = []string{"etc/systemd/system.control", "run/systemd/system.control", "run/systemd/transient", "etc/systemd/system",
	"run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system"}

// dropIns returns the files that change units named like those of this deployment, by folder.
func (c *comparison) dropIns() map[string][]string {
	if c.drops != nil {
		return c.drops
	}
	c.drops = map[string][]string{}
	for _, dir := range dropInDirs {
		for _, name := range listDir(c.root, dir) {
			if !strings.HasPrefix(name, "defx") || !strings.HasSuffix(name, ".d") {
				continue
			}
			for _, f := range listDir(c.root, path.Join(dir, name)) {
				if strings.HasSuffix(f, ".conf") {
					c.drops[name] = append(c.drops[name], "/"+path.Join(dir, name, f))
				}
			}
		}
	}
	return c.drops
}

func listDir(root *nofollow.Root, dir string) []string {
	f, err := root.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	slices.Sort(names)
	return names
}

// compareDropIns finds drop-ins that others added to the unit, and what hides its unit file.
func (c *comparison) compareDropIns(u *UnitRefresh) {
	all := c.dropIns()
	seen := map[string]bool{}
	for _, unit := range systemdUnits(u.Entry.Files) {
		for _, dir := range dropInNames(unit) {
			for _, f := range all[dir] {
				if !seen[f] && !(u.Entry.Stopped && isStopFile(f)) && !slices.Contains(u.Entry.Files, f) {
					seen[f] = true
					u.add(f, plan.CauseDropIn, "")
				}
			}
		}
		for _, dir := range dropInDirs[:3] { // stronger than /etc/systemd/system
			p := path.Join(dir, unit)
			if info, err := c.root.Lstat(p); err == nil {
				if to, _ := c.root.Readlink(p); info.Mode()&fs.ModeSymlink != 0 && to == "/dev/null" {
					u.add("/"+p, plan.CauseMasked, "")
				} else {
					u.add("/"+p, plan.CauseDropIn, "it hides "+unitDir+"/"+unit)
				}
			}
		}
	}
}

// dropInNames returns the names of the folders with drop-ins of a unit: of its own name, and of
// the beginnings of its name that end with a dash. Those of all units of a type are the machine's.
func dropInNames(unit string) []string {
	out := []string{unit + ".d"}
	ext := path.Ext(unit)
	name := strings.TrimSuffix(unit, ext)
	for i := len(name) - 1; i > 0; i-- {
		if name[i-1] == '-' {
			out = append(out, name[:i]+ext+".d")
		}
	}
	return out
}

// compareStates compares what should run with what does.
func (c *comparison) compareStates(ctx context.Context, units map[string]*UnitRefresh, layouts map[string]backends.Layout) error {
	var ofSystemd, ofEngine []string
	for _, address := range sets.Keys(units) {
		u := units[address]
		if u.Entry.Digest == "" {
			continue
		}
		for _, name := range watched(u.Entry, layouts[address]) {
			if isContainer(name) {
				ofEngine = append(ofEngine, name)
			} else {
				ofSystemd = append(ofSystemd, name)
			}
		}
	}
	states, err := c.h.states(ctx, ofSystemd)
	if err != nil {
		return err
	}
	containers := map[string]engine.Comparison{}
	if s, ok := c.h.supervisor.(containerSupervisor); ok && len(ofEngine) > 0 {
		if containers, err = s.Differences(ctx, ofEngine); err != nil {
			return err
		}
	}
	for _, address := range sets.Keys(units) {
		u := units[address]
		if u.Entry.Digest == "" {
			continue
		}
		for _, name := range watched(u.Entry, layouts[address]) {
			if isContainer(name) {
				u.addContainer(name, containers[name])
			} else {
				u.addState(name, states[name], slices.Contains(u.Entry.Start, name) && !onDemand(u.Entry, name, states))
			}
		}
	}
	return nil
}

// watched returns the units of an entry that are asked for their state: those that must run, and
// the groups of containers that they need.
func watched(e *Entry, l backends.Layout) []string {
	out := slices.Clone(e.Start)
	if !slices.Contains(out, e.Unit) && !isContainer(e.Unit) {
		out = append(out, e.Unit) // that of a timer or socket need not run, but its file must be known
	}
	for _, u := range unitNames(e.Files) {
		if k := docker.Kind(u); k == ".pod" || k == ".network" {
			out = append(out, u)
		}
	}
	return out
}

// onDemand reports whether a unit does not run because nobody has connected to its socket yet, as
// after a boot.
func onDemand(e *Entry, name string, states map[string]SupervisorState) bool {
	return name == e.Unit && states[name].Active == "inactive" && slices.ContainsFunc(e.Start, func(u string) bool {
		return path.Ext(u) == ".socket" && states[u].Active == "active"
	})
}

// states returns the states of units of systemd.
func (h *Host) states(ctx context.Context, units []string) (map[string]SupervisorState, error) {
	if len(units) == 0 {
		return nil, nil
	}
	if s, ok := h.supervisor.(bulkSupervisor); ok {
		return s.States(ctx, units)
	}
	out := map[string]SupervisorState{}
	for _, u := range units {
		st, err := h.supervisor.State(ctx, u)
		if err != nil {
			return nil, err
		}
		out[u] = st
	}
	return out, nil
}

// settledAfter is how long a unit that was restarted has to run until it counts as running.
const settledAfter = 5 * time.Second

// addState adds what the state of a unit of systemd says. must reports whether it has to run.
func (u *UnitRefresh) addState(name string, st SupervisorState, must bool) {
	since := ""
	if !st.Since.IsZero() {
		since = "since " + st.Since.Format("2006-01-02 15:04:05 MST")
	}
	switch {
	case st.Load == "masked":
		if !u.has(plan.CauseMasked) {
			u.add(name, plan.CauseMasked, "")
		}
		return
	case st.Load != "" && st.Load != "loaded":
		if !u.has(plan.CauseUnitMissing) {
			u.add(name, plan.CauseNotLoaded, st.Load)
		}
		return
	case st.Stale && !u.Entry.Stopped:
		if !u.has(plan.CauseUnitEdited) && !u.has(plan.CauseDropIn) {
			u.add(name, plan.CauseUnitUnread, "")
		}
	}
	if !must {
		return
	}
	running := st.Active == "active" || st.Active == "reloading" || st.Active == "activating" || st.Active == "refreshing"
	switch {
	case u.Entry.Stopped:
		if running {
			u.add(name, plan.CauseStarted, since)
		}
	case st.Active == "failed":
		u.add(name, plan.CauseFailed, strings.TrimSpace(exitReason(st, errors.New("failed"))+" "+since))
	case st.Sub == "auto-restart" || st.Sub == "auto-restart-queued" || running && st.Restarts > 0 && !st.Since.IsZero() && time.Since(st.Since) < settledAfter:
		u.add(name, plan.CauseRestarting, times(st.Restarts))
	case !running:
		u.add(name, plan.CauseStopped, since)
	case st.Frozen:
		u.add(name, plan.CauseFrozen, "")
	}
}

func (u *UnitRefresh) has(c plan.Cause) bool {
	return slices.ContainsFunc(u.Differences, func(d plan.Difference) bool { return d.Cause == c })
}

// addContainer adds the differences of a container.
func (u *UnitRefresh) addContainer(name string, found engine.Comparison) {
	for _, d := range found.Differences {
		cause := map[engine.Cause]plan.Cause{engine.Missing: plan.CauseNoContainer, engine.Stopped: plan.CauseStopped, engine.Failed: plan.CauseFailed,
			engine.Paused: plan.CausePaused, engine.Restarting: plan.CauseRestarting, engine.Unhealthy: plan.CauseUnhealthy, engine.Changed: plan.CauseContainer,
			engine.NoNetwork: plan.CauseNoNetwork}[d.Cause]
		if u.Entry.Stopped && (cause == plan.CauseNoContainer || cause == plan.CauseStopped || cause == plan.CauseFailed || cause == plan.CauseNoNetwork || d.Field == "container.restart") {
			continue
		}
		field := d.Field
		if field == "" {
			field = name
		}
		u.add(field, cause, d.Detail)
	}
	if u.Entry.Stopped && found.Running && docker.Kind(name) != ".pod" {
		u.add(name, plan.CauseStarted, "")
	}
}

// details adds states and runs.
func (c *comparison) details(ctx context.Context, units map[string]*UnitRefresh) error {
	if c.h.supervisor == nil {
		return nil
	}
	for _, address := range sets.Keys(units) {
		u := units[address]
		e := u.Entry
		if e.Digest == "" {
			continue
		}
		active := activeUnit(e)
		st, err := c.h.supervisor.State(ctx, active)
		if err != nil && len(u.Differences) > 0 { // such as a foreign container in its place
			continue
		}
		if err != nil {
			return err
		}
		u.State = &st
		if ext := path.Ext(active); active != e.Unit && (ext == ".timer" || ext == ".cron") {
			if u.Runs, err = c.h.supervisor.Runs(ctx, active, e.Unit); err != nil {
				return err
			}
		}
	}
	return nil
}

// strays finds units that defx made for the scope and that no record of the machine has.
func (c *comparison) strays(ctx context.Context, m *manifest) ([]StrayUnit, error) {
	known := map[string]bool{}
	for _, units := range m.Scopes {
		for _, e := range units {
			for ; e != nil; e = e.Previous {
				for _, f := range e.Files {
					known[path.Base(f)] = true
				}
			}
		}
	}
	environment, deployment, _ := strings.Cut(c.scope, "/")
	head := []byte("Description=defx " + environment + "/" + deployment + " ")
	var out []StrayUnit
	dir := strings.TrimPrefix(unitDir, "/")
	for _, name := range listDir(c.root, dir) {
		if !strings.HasPrefix(name, "defx-") || path.Ext(name) != ".service" || known[name] {
			continue
		}
		info, err := c.root.Lstat(path.Join(dir, name))
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		raw, err := c.root.ReadFile(path.Join(dir, name))
		if err != nil {
			continue
		}
		if address, ok := addressIn(raw, head); ok {
			out = append(out, StrayUnit{Name: name, Address: address})
		}
	}
	if c.h.supervisor == nil {
		return out, nil
	}
	var names []string
	for _, s := range out {
		names = append(names, s.Name)
	}
	states, err := c.h.states(ctx, names)
	if err != nil {
		return nil, err
	}
	for i := range out {
		active := states[out[i].Name].Active
		out[i].Active = active != "" && active != "inactive" && active != "failed"
	}
	if s, ok := c.h.supervisor.(containerSupervisor); ok && len(known) == 0 { // otherwise Orphans reports them
		list, err := s.ScopeContainers(ctx, c.scope)
		if err != nil {
			return nil, err
		}
		for _, x := range list {
			out = append(out, StrayUnit{Name: x.Unit, Address: x.Address, Active: x.Running})
		}
	}
	return out, nil
}

// addressIn returns the address in the text of a unit file whose description begins with head.
func addressIn(raw, head []byte) (string, bool) {
	text := string(raw)
	if !strings.Contains(text, string(head)) {
		return "", false
	}
	_, section, found := strings.Cut(text, "\n[X-Defx]\nAddress=")
	address, _, _ := strings.Cut(section, "\n")
	return address, found
}
