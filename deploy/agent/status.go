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
	"github.com/defx-dev/defx/deploy/engine"
	"github.com/defx-dev/defx/internal/digest"
)

// This file answers questions. Nothing here changes what stands.

// UnitStatus is how one unit is on the machine.
type UnitStatus struct {
	Entry *Entry           `json:"entry"`
	State *SupervisorState `json:"state,omitempty"` // nil: nothing runs in a folder
	Drift []string         `json:"drift,omitempty"` // what is not as it was left, one sentence each
	Runs  *Runs            `json:"runs,omitempty"`  // of what has its times
}

// Runs tells how the last run of a job went, and when the next one is due.
type Runs struct {
	Last    time.Time `json:"last,omitzero"`    // it began; zero: this version never ran
	Ended   time.Time `json:"ended,omitzero"`   // zero: it goes on
	Result  string    `json:"result,omitempty"` // in systemd's words: success, exit-code, signal, timeout, …
	Code    int       `json:"code,omitempty"`   // that it ended with: an exit code, or a signal's number
	Next    time.Time `json:"next,omitzero"`
	Running bool      `json:"running,omitempty"`
}

// String says it in a few words.
func (r *Runs) String() string {
	switch {
	case r.Running:
		return "runs"
	case r.Last.IsZero():
		return "has not run yet"
	case r.Result == "success":
		return "ran well"
	}
	return "failed: " + outcome(SupervisorState{Result: r.Result, Code: r.Code}, errors.New(r.Result))
}

// Line is one line of a unit's journal.
type Line struct {
	Time time.Time `json:"time"`
	PID  int       `json:"pid,omitempty"`
	Text string    `json:"text"`
}

// Info is what a machine tells of itself.
type Info struct {
	Host    string           `json:"host"`
	System  string           `json:"system"` // of /etc/os-release
	Kernel  string           `json:"kernel"`
	Arch    string           `json:"arch"`
	Program string           `json:"program"` // this one, as it lies there
	Systemd string           `json:"systemd,omitempty"`
	Docker  string           `json:"docker,omitempty"` // version of its engine
	Booted  time.Time        `json:"booted,omitzero"`
	Free    uint64           `json:"free"`             // bytes where defx keeps things
	Store   uint64           `json:"store"`            // bytes in the store
	Units   map[string]int   `json:"units"`            // scope → how many units stand
	Tokens  map[string]int64 `json:"tokens,omitempty"` // scope → highest fencing token
	Numbers map[string]int   `json:"generations,omitempty"`
}

// reading opens the root for questions, without making anything.
func (h *Host) reading() (*os.Root, *manifest, func(), error) {
	root, err := os.OpenRoot(h.path)
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

// Status tells how the units of a scope are. No addresses = all.
func (h *Host) Status(ctx context.Context, scope string, addresses []string) (map[string]*UnitStatus, error) {
	root, m, done, err := h.reading()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer done()
	out := map[string]*UnitStatus{}
	for address, e := range m.Scopes[scope] {
		if len(addresses) > 0 && !slices.Contains(addresses, address) {
			continue
		}
		l := &UnitStatus{Entry: e}
		out[address] = l
		if e.Digest == "" {
			l.Drift = append(l.Drift, "an action on it was interrupted")
			continue
		}
		if h.system != nil {
			st, err := h.system.State(ctx, alive(e))
			if err != nil {
				return nil, err
			}
			l.State = &st
			l.Drift = append(l.Drift, st.Drift...)
			if st.Active != "active" && st.Active != "reloading" {
				l.Drift = append(l.Drift, fmt.Sprintf("%s is %s", alive(e), st.Active))
			}
			if alive(e) != e.Unit && (strings.HasSuffix(alive(e), ".timer") || strings.HasSuffix(alive(e), ".cron")) {
				if l.Runs, err = h.system.Runs(ctx, alive(e), e.Unit); err != nil {
					return nil, err
				}
			}
			for _, d := range st.DropIns {
				l.Drift = append(l.Drift, "foreign drop-in "+d)
			}
		}
		l.Drift = append(l.Drift, h.drift(root, e)...)
	}
	return out, nil
}

// alive is the unit whose being active means that all is well: what waits for
// its time, or for a caller, is at rest most of the time.
func alive(e *Entry) string {
	if len(e.Start) > 0 && !slices.Contains(e.Start, e.Unit) {
		return e.Start[len(e.Start)-1]
	}
	return e.Unit
}

// layoutOf is what an entry stands for, from what the store keeps.
func (h *Host) layoutOf(root *os.Root, e *Entry) (backends.Layout, error) {
	raw, err := readRoot(root, path.Join(storePath, e.Object.Hex()))
	if err != nil {
		return backends.Layout{}, err
	}
	return h.layout(raw, e)
}

// drift compares files with what was written.
func (h *Host) drift(root *os.Root, e *Entry) []string {
	l, err := h.layoutOf(root, e)
	if err != nil {
		return []string{"what it was made of cannot be read: " + err.Error()}
	}
	var out []string
	for _, f := range l.Files {
		info, err := root.Lstat(rel(f.Path))
		if errors.Is(err, fs.ErrNotExist) {
			out = append(out, f.Path+" is missing")
			continue
		}
		if err != nil {
			out = append(out, err.Error())
			continue
		}
		if same, err := sameAt(root, f, info); err != nil || !same {
			out = append(out, f.Path+" was edited")
		}
	}
	for _, o := range e.Objects {
		if _, err := root.Lstat(path.Join(storePath, o)); err != nil {
			out = append(out, "/"+path.Join(storePath, o)+" is missing")
		}
	}
	return out
}

// Object reads the bytes of a unit that stands.
func (h *Host) Object(d digest.Digest) ([]byte, error) {
	root, err := os.OpenRoot(h.path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	raw, err := readRoot(root, path.Join(storePath, d.Hex()))
	if err == nil && digest.Bytes(raw) != d {
		err = fmt.Errorf("/%s/%s is damaged", storePath, d.Hex())
	}
	return raw, err
}

// Info tells of the machine.
func (h *Host) Info(ctx context.Context) (*Info, error) {
	i := &Info{Arch: runtime.GOARCH, Units: map[string]int{}, Tokens: map[string]int64{}, Numbers: map[string]int{}}
	i.Host, _ = os.Hostname()
	i.Program, _ = os.Executable()
	root, m, done, err := h.reading()
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
	f := fence{}
	if err := readRootJSON(root, fencePath, &f); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for scope, s := range f.Scopes {
		i.Tokens[scope], i.Numbers[scope] = s.All, s.Generation
		for _, t := range s.Units {
			i.Tokens[scope] = max(i.Tokens[scope], t)
		}
	}
	if raw, err := readRoot(root, "etc/os-release"); err == nil {
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
	i.Free = free(h.path)
	if h.system != nil {
		if raw, err := readRoot(root, "proc/sys/kernel/osrelease"); err == nil {
			i.Kernel = strings.TrimSpace(string(raw))
		}
		if raw, err := readRoot(root, "proc/uptime"); err == nil {
			if seconds, err := strconv.ParseFloat(strings.Fields(string(raw) + " 0")[0], 64); err == nil {
				i.Booted = time.Now().Add(-time.Duration(seconds * float64(time.Second))).UTC().Truncate(time.Second)
			}
		}
		if err := h.system.Check(ctx); err != nil {
			return i, nil
		}
		v := h.system.Versions(ctx)
		i.Systemd, i.Docker = v["systemd"], v["docker"]
	}
	return i, nil
}

// Logs gives the last n lines of a unit, of all its versions and scripts, and
// then, if follow, those to come until ctx ends.
func (h *Host) Logs(ctx context.Context, scope, address string, n int, follow bool, each func([]Line) error) error {
	e, err := h.standing(scope, address)
	if err != nil {
		return err
	}
	if h.system == nil {
		return errors.New("nothing runs in a folder, so there is no journal")
	}
	return h.system.Logs(ctx, e, n, follow, each)
}

// standing is the entry of a unit that stands.
func (h *Host) standing(scope, address string) (*Entry, error) {
	_, m, done, err := h.reading()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s does not stand here", address)
	}
	if err != nil {
		return nil, err
	}
	done()
	e := m.Scopes[scope][address]
	if e == nil {
		return nil, fmt.Errorf("%s does not stand here", address)
	}
	return e, nil
}

// Restart starts anew what stands, as it stands, and waits until it is ready.
// A job that has its times runs now.
func (h *Host) Restart(ctx context.Context, scope, address string) error {
	if h.system == nil {
		return errors.New("nothing runs in a folder, so nothing can be restarted")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(); err != nil { // nobody else is at work here meanwhile
		return err
	}
	e := h.m.Scopes[scope][address]
	switch {
	case e == nil:
		return fmt.Errorf("%s does not stand here", address)
	case e.Digest == "":
		return fmt.Errorf("an action on %s was interrupted: apply finishes it", address)
	}
	l, err := h.layoutOf(h.root, e)
	if err != nil {
		return err
	}
	r := &running{h: h, next: e, layout: l, begun: time.Now()}
	d := &deed{h: h}
	return d.unlocked(ctx, func(ctx context.Context) error {
		if err := h.system.Restart(ctx, e.Unit); err != nil {
			return r.why(ctx, e.Unit, err)
		}
		if !slices.Contains(l.Start, l.Unit) {
			return nil
		}
		return r.ready(ctx)
	})
}

// Collect removes from the store what nothing that stands leads to, and what
// is not kept for other reasons, and programs of defx that nobody runs.
func (h *Host) Collect(keep []digest.Digest, dry bool) (freed uint64, gone []string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(); err != nil {
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
				if e.Digest == "" && e.Previous == nil { // nobody knows what it needs
					return 0, nil, errors.New("an action here was interrupted: apply finishes it, and then there is rubbish to be told from the rest")
				}
				live[e.Object.Hex()] = true
				if e.Timer != "" {
					live[path.Base(docker.Runner)] = true
				}
				for _, u := range unitsOf(e.Files) {
					known[u] = true
				}
				for _, o := range e.Objects {
					live[o] = true
				}
			}
		}
	}
	if c, ok := h.system.(collector); ok {
		if freed, gone, err = c.Collect(context.Background(), engine.InUse{Unit: func(u string) bool { return known[u] },
			Artifact: func(hex string) bool { return live[hex] }, Image: h.imagesOf(live)}, dry); err != nil {
			return freed, gone, err
		}
	}
	programs := path.Join(base, "bin")
	for _, dir := range []string{storePath, programs} {
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
			if live[n] || dir == programs && h.runs(path.Join("/", dir, n)) {
				continue
			}
			p := path.Join(dir, n)
			freed += weigh(filepath.Join(h.path, p))
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

// collector is a system that keeps more than files.
type collector interface {
	Collect(ctx context.Context, keep engine.InUse, dry bool) (freed uint64, gone []string, err error)
	Orphans(ctx context.Context, scope string, known func(unit string) bool) ([]string, error)
}

var imageRE = regexp.MustCompile(`@(sha256:[0-9a-f]{64})"`)

// imagesOf tells which images of registries units in the store speak of.
func (h *Host) imagesOf(live map[string]bool) func(string) bool {
	images := map[string]bool{}
	for hex := range live {
		if raw, err := readRoot(h.root, path.Join(storePath, hex)); err == nil {
			for _, m := range imageRE.FindAllSubmatch(raw, -1) {
				images[string(m[1])] = true
			}
		}
	}
	return func(reference string) bool { return images[reference] }
}

// Orphans lists what runs here in a scope's name, and nothing that stands leads to.
func (h *Host) Orphans(ctx context.Context, scope string) ([]string, error) {
	c, ok := h.system.(collector)
	if !ok {
		return nil, nil
	}
	known := map[string]bool{}
	note := func(m *manifest) {
		for _, units := range m.Scopes {
			for _, e := range units {
				for ; e != nil; e = e.Previous {
					for _, u := range unitsOf(e.Files) {
						known[u] = true
					}
				}
			}
		}
	}
	h.mu.Lock()
	open := h.m != nil // then files may be about to change
	if open {
		note(h.m)
	}
	h.mu.Unlock()
	if !open {
		_, m, done, err := h.reading()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		done()
		note(m)
	}
	return c.Orphans(ctx, scope, func(u string) bool { return known[u] })
}

// runs tells whether some process is this program.
func (h *Host) runs(program string) bool {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == program {
			return true
		}
	}
	return false
}

func weigh(p string) uint64 {
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
