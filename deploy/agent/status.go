package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/engine"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/nofollow"
)

// This file answers questions about the machine. Except Restart and Collect, nothing here
// changes it.

// UnitStatus is the state of one unit on the machine.
type UnitStatus struct {
	Entry *Entry           `json:"entry"`
	State *SupervisorState `json:"state,omitempty"` // nil in a dir: folder, where nothing runs, and after an interrupted action
	Drift []string         `json:"drift,omitempty"` // differences from the recorded state, one sentence each
	Runs  *Runs            `json:"runs,omitempty"`  // of a scheduled job; nil for other units
}

// Runs describes the last run of a scheduled job, and when the next one is due.
type Runs struct {
	Last    time.Time `json:"last,omitzero"`    // start of the last run; zero: it never ran (under systemd: this version never did)
	Ended   time.Time `json:"ended,omitzero"`   // zero: still running, or never ran
	Result  string    `json:"result,omitempty"` // a systemd service result: success, exit-code, signal, timeout, …; for a container job also an error message
	Code    int       `json:"code,omitempty"`   // exit code, or number of the signal
	Next    time.Time `json:"next,omitzero"`
	Running bool      `json:"running,omitempty"`
}

// String summarizes the last run in a few words.
func (r *Runs) String() string {
	switch {
	case r.Running:
		return "running"
	case r.Last.IsZero():
		return "has not run yet"
	case r.Result == "success":
		return "succeeded"
	}
	return "failed: " + exitReason(SupervisorState{Result: r.Result, Code: r.Code}, errors.New(r.Result))
}

// Line is one line of a unit's log.
type Line struct {
	Time time.Time `json:"time"`
	PID  int       `json:"pid,omitempty"`
	Text string    `json:"text"`
}

// Info holds facts about a machine.
type Info struct {
	Host    string           `json:"host"`
	System  string           `json:"system"` // PRETTY_NAME of /etc/os-release
	Kernel  string           `json:"kernel"`
	Arch    string           `json:"arch"`
	Program string           `json:"program"` // path of the agent's own executable
	Systemd string           `json:"systemd,omitempty"`
	Docker  string           `json:"docker,omitempty"` // version of the docker engine
	Booted  time.Time        `json:"booted,omitzero"`
	Free    uint64           `json:"free"`                  // bytes available on the file system of the machine's root
	Store   uint64           `json:"store"`                 // bytes in the store
	Units   map[string]int   `json:"units"`                 // scope → number of its entries
	Tokens  map[string]int64 `json:"tokens,omitempty"`      // scope → highest fencing token seen
	Numbers map[string]int   `json:"generations,omitempty"` // scope → generation
}

// openReadOnly opens the root and reads the manifest, without creating anything or taking
// the lock. The caller calls the returned function when it is done.
func (h *Host) openReadOnly() (*nofollow.Root, *manifest, func(), error) {
	root, err := nofollow.OpenRoot(h.path)
	if err != nil {
		return nil, nil, nil, err
	}
	m, err := readManifest(root)
	if err != nil {
		root.Close()
		return nil, nil, nil, err
	}
	return root, m, func() { root.Close() }, nil
}

// Status returns the status of the units of a scope. No addresses means all.
func (h *Host) Status(ctx context.Context, scope string, addresses []string) (map[string]*UnitStatus, error) {
	r, err := h.Refresh(ctx, RefreshRequest{Scope: scope, Addresses: addresses, Details: true})
	if err != nil {
		return nil, err
	}
	out := map[string]*UnitStatus{}
	for address, u := range r.Units {
		out[address] = u.Status()
	}
	return out, nil
}

// Status returns what a refresh with details found of a unit, in words.
func (u *UnitRefresh) Status() *UnitStatus {
	out := &UnitStatus{Entry: u.Entry, State: u.State, Runs: u.Runs}
	for _, d := range u.Differences {
		out.Drift = append(out.Drift, sentence(d))
	}
	return out
}

// sentence describes a difference as a statement about the machine.
func sentence(d plan.Difference) string {
	text := ""
	switch d.Cause {
	case plan.CauseUnitMissing, plan.CauseFileMissing, plan.CauseHostMissing, plan.CauseStoreMissing, plan.CauseNotEnabled, plan.CauseDataMissing:
		text = d.Field + " is missing"
	case plan.CauseUnitEdited, plan.CauseFileEdited, plan.CauseHostEdited, plan.CauseStoreDamaged, plan.CauseAlias:
		text = d.Field + " was edited"
	case plan.CauseDropIn:
		text = "foreign drop-in " + d.Field
	case plan.CauseStopped:
		text = d.Field + " is inactive: stopped, not by defx"
	case plan.CauseFailed, plan.CauseFrozen, plan.CauseMasked, plan.CauseUnhealthy:
		text = d.Field + " is " + string(d.Cause)
	case plan.CauseRestarting:
		text = d.Field + " " + string(d.Cause)
	default:
		return d.String()
	}
	if d.Detail != "" {
		text += " (" + d.Detail + ")"
	}
	return text
}

// activeUnit returns the supervisor unit that must be active for e to be healthy. For a
// scheduled or socket-activated service that is its timer or socket, because the service
// itself is usually inactive.
func activeUnit(e *Entry) string {
	if len(e.Start) > 0 && !slices.Contains(e.Start, e.Unit) {
		return e.Start[len(e.Start)-1]
	}
	return e.Unit
}

// storedLayout returns the layout of an entry's unit, from the copy in the store.
func (h *Host) storedLayout(root *nofollow.Root, e *Entry) (backends.Layout, error) {
	raw, err := root.ReadFile(path.Join(storePath, e.Object.Hex()))
	if err != nil {
		return backends.Layout{}, err
	}
	return h.layout(raw, e)
}

// Object returns an object of the store by its digest. It fails if the content was changed.
func (h *Host) Object(d digest.Digest) ([]byte, error) {
	root, err := nofollow.OpenRoot(h.path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	raw, err := root.ReadFile(path.Join(storePath, d.Hex()))
	if err == nil && digest.Bytes(raw) != d {
		err = fmt.Errorf("/%s/%s is damaged", storePath, d.Hex())
	}
	return raw, err
}

// Info collects facts about the machine. What cannot be determined is left empty, except
// that damaged files of defx are an error.
func (h *Host) Info(ctx context.Context) (*Info, error) {
	i := &Info{Arch: runtime.GOARCH, Units: map[string]int{}, Tokens: map[string]int64{}, Numbers: map[string]int{}}
	i.Host, _ = os.Hostname()
	i.Program, _ = os.Executable()
	root, m, done, err := h.openReadOnly()
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil
	}
	if err != nil {
		return nil, err
	}
	defer done()
	for scope, units := range m.Scopes {
		i.Units[scope] = len(units)
	}
	for scope, s := range m.fence.Scopes {
		i.Tokens[scope], i.Numbers[scope] = s.All.Token, s.Generation
		for _, m := range s.Units {
			i.Tokens[scope] = max(i.Tokens[scope], m.Token)
		}
	}
	if raw, err := root.ReadFile("etc/os-release"); err == nil {
		for line := range strings.Lines(string(raw)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				i.System = strings.Trim(v, `"`)
			}
		}
	}
	filepath.WalkDir(filepath.Join(h.path, storePath), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				i.Store += uint64(info.Size())
			}
		}
		return nil
	})
	i.Free = diskFree(h.path)
	if h.supervisor != nil {
		if raw, err := root.ReadFile("proc/sys/kernel/osrelease"); err == nil {
			i.Kernel = strings.TrimSpace(string(raw))
		}
		if raw, err := root.ReadFile("proc/uptime"); err == nil {
			if seconds, err := strconv.ParseFloat(strings.Fields(string(raw) + " 0")[0], 64); err == nil {
				i.Booted = time.Now().Add(-time.Duration(seconds * float64(time.Second))).UTC().Truncate(time.Second)
			}
		}
		if err := h.supervisor.Check(ctx); err != nil {
			return i, nil
		}
		v := h.supervisor.Versions(ctx)
		i.Systemd, i.Docker = v["systemd"], v["docker"]
	}
	return i, nil
}

// Logs passes the last n lines of a unit, of all its versions and scripts, to each; if
// follow is set, then new lines until ctx ends.
func (h *Host) Logs(ctx context.Context, scope, address string, n int, follow bool, each func([]Line) error) error {
	return h.logs(ctx, scope, address, nil, n, follow, each)
}

// logs is Logs for a unit that may not be deployed: then otherwise names it.
func (h *Host) logs(ctx context.Context, scope, address string, otherwise *Entry, n int, follow bool, each func([]Line) error) error {
	e, err := h.deployed(scope, address)
	if err != nil && otherwise != nil {
		e, err = otherwise, nil
	}
	if err != nil {
		return err
	}
	if h.supervisor == nil {
		return errors.New("a dir: folder runs nothing, so it has no logs")
	}
	return h.supervisor.Logs(ctx, e, n, follow, each)
}

// deployed returns the entry of a deployed unit. It fails if there is none.
func (h *Host) deployed(scope, address string) (*Entry, error) {
	_, m, done, err := h.openReadOnly()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not deployed on this machine", address)
	}
	if err != nil {
		return nil, err
	}
	done()
	e := m.Scopes[scope][address]
	if e == nil {
		return nil, fmt.Errorf("%s is not deployed on this machine", address)
	}
	return e, nil
}

// Restart restarts a unit without changing it, and waits until it is ready. For a scheduled
// job it runs the job now, to its end.
func (h *Host) Restart(ctx context.Context, scope, address string) error {
	if h.supervisor == nil {
		return errors.New("a dir: folder runs nothing, so nothing can be restarted")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(ctx); err != nil { // locks out other applies
		return err
	}
	e := h.m.Scopes[scope][address]
	switch {
	case e == nil:
		return fmt.Errorf("%s is not deployed on this machine", address)
	case e.Digest == "":
		return fmt.Errorf("an action on %s was interrupted: apply finishes it", address)
	}
	l, err := h.storedLayout(h.root, e)
	if err != nil {
		return err
	}
	r := &rollout{h: h, scope: scope, address: address, next: e, layout: l, startedAt: time.Now(), began: true}
	d := &transaction{h: h}
	stop, ready := patienceOf(l)
	d.extra = stop + ready
	err = d.unlocked(ctx, func(ctx context.Context) error {
		describe := func(ctx context.Context) (string, time.Duration) {
			return describeStop(ctx, h.supervisor, e.Unit)
		}
		if err := whileWaiting(ctx, describe, func(ctx context.Context) error { return h.supervisor.Restart(ctx, e.Unit) }); err != nil {
			return r.withLogs(ctx, e.Unit, err)
		}
		if !slices.Contains(l.Start, l.Unit) {
			return nil
		}
		if r.first, err = h.supervisor.State(ctx, l.Unit); err != nil {
			return err
		}
		return r.waitReady(ctx)
	})
	if err == nil {
		h.noteStarted(r)
	}
	return err
}

// Collect deletes objects that no entry needs and that keep does not list from the store,
// programs of defx that no process runs, and containers, networks and images that no entry
// needs. dry only reports them.
func (h *Host) Collect(ctx context.Context, keep []digest.Digest, dry bool) (freed uint64, gone []string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(ctx); err != nil {
		return 0, nil, err
	}
	live := map[string]bool{}
	for _, k := range keep {
		live[k.Hex()] = true
	}
	known := map[string]bool{}
	for _, units := range h.m.Scopes {
		for _, e := range units {
			for ; e != nil; e = e.Previous {
				if e.Digest == "" && e.Previous == nil { // what it needs is unknown
					return 0, nil, errors.New("an action on this machine was interrupted, so it is not known what is needed: run apply first")
				}
				live[e.Object.Hex()] = true
				if e.Timer != "" {
					live[path.Base(docker.Runner)] = true
				}
				for _, u := range unitNames(e.Files) {
					known[u] = true
				}
				for _, o := range e.Objects {
					live[o] = true
				}
			}
		}
	}
	if c, ok := h.supervisor.(collector); ok {
		if freed, gone, err = c.Collect(ctx, engine.InUse{Unit: func(u string) bool { return known[u] },
			Artifact: func(hex string) bool { return live[hex] }, Image: h.usedImages(live)}, dry); err != nil {
			return freed, gone, err
		}
	}
	for _, dir := range []string{storePath, programsPath} {
		f, err := h.root.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return freed, gone, err
		}
		names, err := f.Readdirnames(-1)
		f.Close()
		if err != nil {
			return freed, gone, err
		}
		slices.Sort(names)
		for _, n := range names {
			if live[n] || dir == programsPath && h.isRunning(path.Join("/", dir, n)) {
				continue
			}
			p := path.Join(dir, n)
			freed += dirSize(filepath.Join(h.path, p))
			gone = append(gone, "/"+p)
			if !dry {
				if err := h.root.RemoveAll(p); err != nil {
					return freed, gone, err
				}
			}
		}
	}
	return freed, gone, nil
}

// collector is a supervisor that keeps containers, networks and images.
type collector interface {
	Collect(ctx context.Context, keep engine.InUse, dry bool) (freed uint64, gone []string, err error)
	Orphans(ctx context.Context, scope string, known func(unit string) bool) ([]string, error)
}

var imageRE = regexp.MustCompile(`@(sha256:[0-9a-f]{64})"`)

// usedImages reports which registry images the units in live refer to.
func (h *Host) usedImages(live map[string]bool) func(string) bool {
	images := map[string]bool{}
	for hex := range live {
		if raw, err := h.root.ReadFile(path.Join(storePath, hex)); err == nil {
			for _, m := range imageRE.FindAllSubmatch(raw, -1) {
				images[string(m[1])] = true
			}
		}
	}
	return func(reference string) bool { return images[reference] }
}

// Orphans returns what runs here for a scope and belongs to no deployed unit.
func (h *Host) Orphans(ctx context.Context, scope string) ([]string, error) {
	c, ok := h.supervisor.(collector)
	if !ok {
		return nil, nil
	}
	known := map[string]bool{}
	addUnits := func(m *manifest) {
		for _, units := range m.Scopes {
			for _, e := range units {
				for ; e != nil; e = e.Previous {
					for _, u := range unitNames(e.Files) {
						known[u] = true
					}
				}
			}
		}
	}
	h.mu.Lock()
	open := h.m != nil // then a transaction may be changing files
	if open {
		addUnits(h.m)
	}
	h.mu.Unlock()
	if !open {
		_, m, done, err := h.openReadOnly()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		done()
		addUnits(m)
	}
	return c.Orphans(ctx, scope, func(u string) bool { return known[u] })
}

// isRunning reports whether some process runs this program.
func (h *Host) isRunning(program string) bool {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == program {
			return true
		}
	}
	return false
}

// dirSize returns the total size of the regular files at or below p, in bytes.
func dirSize(p string) uint64 {
	var n uint64
	filepath.WalkDir(p, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += uint64(info.Size())
			}
		}
		return nil
	})
	return n
}
