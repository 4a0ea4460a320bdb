package modeltest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/deploy/agent"
)

const unitDir = "etc/systemd/system"

// machine is a folder with a supervisor that runs nothing, but does what systemd and
// the services would do with files: it makes state directories, and a service that
// finds its own empty writes new data into it.
type machine struct {
	name string
	dir  string

	mu     sync.Mutex
	active map[string]*process // by the name of the unit file
	starts []start             // since takeStarts
	marks  marks
}

// process is a running unit.
type process struct {
	unitFile
}

// start is a start of a unit that wrote new data, or that could not be.
type start struct {
	unitFile
	fresh    bool   // its state directory was empty
	conflict string // why it cannot run beside another one
}

// unitFile is what the tests know of the text of a unit file.
type unitFile struct {
	name    string
	scope   string // ENV/DEPLOYMENT
	address string
	version string
	port    string
	path    string   // literal directory
	state   []string // state directories, relative to /var/lib
}

func parseUnit(name, text string) (unitFile, bool) {
	u := unitFile{name: name}
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
		}
		key, value, _ := strings.Cut(line, "=")
		switch {
		case key == "Description" && u.scope == "":
			if fields := strings.Fields(value); len(fields) > 1 && fields[0] == "defx" {
				u.scope = fields[1]
			}
		case key == "Address" && section == "[X-Defx]":
			u.address = value
		case key == "Environment":
			for _, field := range strings.Fields(value) {
				name, value, _ := strings.Cut(strings.Trim(field, `"`), "=")
				switch name {
				case "V":
					u.version = value
				case "PORT":
					u.port = value
				case "DIR":
					u.path = value
				}
			}
		case key == "StateDirectory":
			u.state = append(u.state, strings.Fields(value)...)
		}
	}
	return u, u.address != ""
}

func newMachine(name, dir string) *machine {
	return &machine{name: name, dir: dir, active: map[string]*process{}, marks: marks{}}
}

// clone returns a copy of the machine in another folder.
func (m *machine) clone(dir string) (*machine, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &machine{name: m.name, dir: dir, active: maps.Clone(m.active), starts: slices.Clone(m.starts), marks: m.marks.clone()}, copyTree(m.dir, dir)
}

// host returns the machine as a new process of the agent sees it.
func (m *machine) host() *agent.Host {
	return agent.OpenHost(m.dir, backends.NewSet(systemd.New())).WithSupervisor(&supervisor{m})
}

// takeStarts returns the remarkable starts since the last call.
func (m *machine) takeStarts() []start {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.starts
	m.starts = nil
	return out
}

func (m *machine) path(p ...string) string {
	return filepath.Join(append([]string{m.dir}, p...)...)
}

// start does what systemd does when it starts a unit. The caller holds the lock.
func (m *machine) start(name string) error {
	file := m.path(unitDir, name)
	target, err := filepath.EvalSymlinks(file)
	if err != nil {
		return fmt.Errorf("%s: not found", name)
	}
	if target == "/dev/null" {
		return fmt.Errorf("%s: masked", name)
	}
	name = filepath.Base(target)
	if m.active[name] != nil {
		return nil
	}
	for _, f := range []string{filepath.Base(file), name} {
		if _, err := os.Stat(m.path(unitDir, f+".d", "zz-defx-stopped.conf")); err == nil {
			return nil // its condition does not hold
		}
	}
	raw, err := os.ReadFile(target)
	if err != nil {
		return err
	}
	u, ok := parseUnit(name, string(raw))
	if !ok {
		return nil // not a service
	}
	for _, other := range m.active {
		if conflict := u.conflict(other.unitFile); conflict != "" {
			m.starts = append(m.starts, start{unitFile: u, conflict: conflict})
			return errors.New(conflict)
		}
	}
	for _, d := range u.state {
		dir := m.path("var/lib", d)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "data"), []byte(newData()), 0o644); err != nil {
			return err
		}
		m.starts = append(m.starts, start{unitFile: u, fresh: true})
	}
	m.active[name] = &process{u}
	return nil
}

// conflict says why two units cannot run beside each other; "" if they can.
func (u unitFile) conflict(o unitFile) string {
	if u.port != "" && u.port == o.port {
		return fmt.Sprintf("port %s is in use: %s of %s cannot run beside %s of %s", u.port, u.address, u.scope, o.address, o.scope)
	}
	if u.path != "" && u.path == o.path {
		return fmt.Sprintf("two live units in %s: %s of %s and %s of %s", u.path, u.address, u.scope, o.address, o.scope)
	}
	for _, d := range u.state {
		if slices.Contains(o.state, d) {
			return fmt.Sprintf("two live units on the same data %s: %s and %s", d, u.name, o.name)
		}
	}
	return ""
}

// boot starts what is enabled, as after a reboot.
func (m *machine) boot() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.active = map[string]*process{}
	links, _ := filepath.Glob(m.path(unitDir, "*.target.wants", "*.service"))
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil {
			m.start(filepath.Base(to))
		}
	}
}

// supervisor implements agent.Supervisor for a machine.
type supervisor struct{ m *machine }

func (s *supervisor) locked(f func() error) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return f()
}

func (s *supervisor) Start(_ context.Context, u string) error {
	return s.locked(func() error { return s.m.start(u) })
}

func (s *supervisor) Stop(_ context.Context, u string) error {
	return s.locked(func() error { delete(s.m.active, u); return nil })
}

func (s *supervisor) Restart(_ context.Context, u string) error {
	return s.locked(func() error { delete(s.m.active, u); return s.m.start(u) })
}

func (s *supervisor) State(_ context.Context, u string) (agent.SupervisorState, error) {
	st := agent.SupervisorState{Load: "not-found", Active: "inactive", Path: "/" + unitDir + "/" + u}
	return st, s.locked(func() error {
		if to, err := os.Readlink(s.m.path(unitDir, u)); err == nil && to == "/dev/null" {
			st.Load = "masked"
		} else if _, err := os.Stat(s.m.path(unitDir, u)); err == nil {
			st.Load = "loaded"
		}
		if s.m.active[u] != nil {
			st.Active = "active"
		}
		return nil
	})
}

func (s *supervisor) Check(context.Context, ...string) error                     { return nil }
func (s *supervisor) Prepare(context.Context, string, []string) error            { return nil }
func (s *supervisor) Hosts(context.Context, string) ([]string, error)            { return nil, nil }
func (s *supervisor) Reload(context.Context) error                               { return nil }
func (s *supervisor) ReloadUnit(context.Context, string) error                   { return nil }
func (s *supervisor) ActivateTarget(context.Context, string) error               { return nil }
func (s *supervisor) Forget(context.Context, string) error                       { return nil }
func (s *supervisor) Versions(context.Context) map[string]string                 { return nil }
func (s *supervisor) Close()                                                     {}
func (s *supervisor) Runs(context.Context, string, string) (*agent.Runs, error)  { return nil, nil }
func (s *supervisor) Journal(context.Context, []string, time.Time, int) []string { return nil }
func (s *supervisor) Logs(context.Context, *agent.Entry, int, bool, func([]agent.Line) error) error {
	return nil
}

// Listeners implements agent.Supervisor.
func (s *supervisor) Listeners(_ context.Context, _ string, port int, units []string) (own bool, others []agent.Listener, err error) {
	return own, others, s.locked(func() error {
		for name, p := range s.m.active {
			switch {
			case p.port != strconv.Itoa(port):
			case slices.Contains(units, name):
				own = true
			default:
				others = append(others, agent.Listener{Unit: name})
			}
		}
		return nil
	})
}

// copyTree copies a folder, which may be changing and need not exist.
func copyTree(from, to string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, info.Mode().Perm()); err != nil {
		return err
	}
	for _, e := range entries {
		a, b := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		switch {
		case e.IsDir():
			err = copyTree(a, b)
		case e.Type()&fs.ModeSymlink != 0:
			var target string
			if target, err = os.Readlink(a); err == nil {
				err = os.Symlink(target, b)
			}
		default:
			err = copyFile(a, b)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, raw, info.Mode().Perm())
}
