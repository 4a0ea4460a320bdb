package modeltest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/deploy/apply"
	"github.com/defx-dev/defx/deploy/project"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/failpoint"
	"github.com/defx-dev/defx/lang"
	"github.com/defx-dev/defx/lang/cache"
)

// lastData numbers the data that services write.
var lastData atomic.Int64

func newData() string { return strconv.FormatInt(lastData.Add(1), 10) }

// disks are all that outlives a crash: the machines and the state.
type disks struct {
	machines map[string]*machine
	state    string // folder of the state of all environments
}

// world is one sequence: two operators, who share a state, and their machines.
type world struct {
	dir       string
	disks     *disks
	scopes    []*scope
	r         *rand.Rand                   // of the present step
	log       []string                     // what was done
	folder    int                          // number of the last folder that was made
	number    int                          // of the last apply
	changes   int                          // number of steps that were made
	halted    map[string]map[string]string // scope → address → unit that somebody stopped and did nothing else to
	several   bool                         // steps concern all scopes
	sight     *sight                       // of the disks as they are now; nil = unknown
	finishing bool                         // no steps follow
	saved     saved

	touched    map[string]bool // scope and address of units that somebody changed by hand
	violations []string
}

// saved are copies of disks that an operator can restore.
type saved struct {
	machines map[string]*machine
	states   map[string]stateCopy // by scope
}

// stateCopy is a copy of the state of a scope.
type stateCopy struct {
	dir   string
	known map[int]bool
}

func newWorld(dir string) *world {
	w := &world{dir: dir, touched: map[string]bool{}, halted: map[string]map[string]string{}, saved: saved{map[string]*machine{}, map[string]stateCopy{}}}
	w.disks = &disks{machines: map[string]*machine{}, state: w.newFolder()}
	for _, name := range machineNames {
		w.disks.machines[name] = newMachine(name, w.newFolder())
	}
	for _, s := range [][2]string{{"shop", "dev"}, {"shop", "prod"}, {"other", "dev"}} {
		w.scopes = append(w.scopes, &scope{deployment: s[0], environment: s[1], want: &deployment{map[string]service{}, map[string]string{}},
			known: map[int]bool{}, had: map[string]held{}, past: map[int]*deployment{}, recorded: map[string]seen{}, begun: map[string]unit{}, stopped: map[string]bool{}})
	}
	return w
}

// look returns what can be seen on the machines now.
func (w *world) look() *sight {
	if w.sight == nil {
		w.sight = w.disks.observe()
	}
	return w.sight
}

func (w *world) newFolder() string {
	w.folder++
	return filepath.Join(w.dir, strconv.Itoa(w.folder))
}

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

// violate records that an invariant does not hold.
func (w *world) violate(format string, args ...any) {
	w.violations = append(w.violations, fmt.Sprintf(format, args...))
}

// must ends a sequence at an error of the test itself.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (w *world) stateDir(s *scope) string {
	return filepath.Join(w.disks.state, s.deployment, s.environment)
}

// clone returns a copy of the disks.
func (w *world) cloneDisks(d *disks) *disks {
	out := &disks{machines: map[string]*machine{}, state: w.newFolder()}
	must(copyTree(d.state, out.state))
	for name, m := range d.machines {
		c, err := m.clone(w.newFolder())
		must(err)
		out.machines[name] = c
	}
	return out
}

// operator is one of the hosts from which people apply.
type operator int

// project opens the checkout of an operator, in which the entry file of the scope is
// the present one. The caches learn what it evaluates to, because it is a literal.
func (w *world) project(by operator, s *scope, o options) *project.Project {
	root := filepath.Join(w.dir, fmt.Sprintf("host%d", by))
	must(os.MkdirAll(root, 0o755))
	const entry = "defx.jsonnet"
	text := s.text()
	must(os.WriteFile(filepath.Join(root, entry), []byte(text), 0o644))
	c := lang.Config{Env: s.environment, Cache: filepath.Join(root, "cache")}
	p, err := project.Open(root, entry, w.disks.state, c, backends.NewSet(systemd.New()))
	must(err)
	p.AllowDelete, p.AllowMove, p.GiveUp = o.allowDelete, o.allowMove, o.giveUp
	reads := []cache.Read{{Path: entry, Digest: digest.Bytes([]byte(text))}}
	store := cache.Open(p.Config.Cache, 0)
	put := func(part string, values ...[]byte) {
		key, err := p.Config.Key(part)
		must(err)
		store.Store(key, reads, cache.EncodeParts(values...))
	}
	put("entry", encode(lang.Result{Environment: s.environment, Deployment: encode(s.head())}), []byte(`["app"]`))
	var parts [][]byte
	for _, name := range sortedKeys(s.want.services) {
		parts = append(parts, []byte(name), s.want.services[name].value(), nil)
	}
	put("library app", parts...)
	return p
}

// dial connects to a machine through a gate, which may be nil.
func (d *disks) dial(ctx context.Context, m *graph.Machine, g *gate) (*agent.Client, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		agent.Serve(context.WithoutCancel(ctx), there, d.machines[m.Name].host())
	}()
	c, err := agent.NewClient(ctx, gated{here, g})
	if err == nil {
		c.Name = m.Name
	}
	return c, err
}

// crash is a copy of the disks that was made while an apply ran.
type crash struct {
	at   int64 // the step at which it dies; 0 = it does not
	mu   sync.Mutex
	hits int64
	left *disks // nil: it ended before
}

// run runs f, and returns the disks as they were at the step at which it was to die,
// or nil if it ended before.
func (w *world) runUntil(at int64, f func()) *disks {
	c := &crash{at: at}
	from := w.disks
	var stop func()
	stop = failpoint.Watch(func(string) {
		c.mu.Lock() // the others wait, so that nothing changes while it is copied
		defer c.mu.Unlock()
		if c.hits++; c.hits == c.at {
			time.Sleep(200 * time.Microsecond)
			c.left = w.cloneDisks(from)
			stop()
		}
	})
	f()
	stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left != nil {
		w.expireLeases(c.left)
	}
	return c.left
}

// expireLeases lets the time pass after which the leases of dead processes may be taken over.
func (w *world) expireLeases(d *disks) {
	for _, s := range w.scopes {
		name := filepath.Join(d.state, s.deployment, s.environment, "leases.json")
		raw, err := os.ReadFile(name)
		if err == nil {
			must(os.WriteFile(name, []byte(strings.ReplaceAll(string(raw), `"ttl":"30s"`, `"ttl":"1ms"`)), 0o600))
		}
	}
}

// apply.Request fields that depend on the world.
func (w *world) prepare(r *apply.Request, o options) {
	d := w.disks
	r.Dial = func(ctx context.Context, m *graph.Machine) (*agent.Client, error) { return d.dial(ctx, m, o.gate) }
	r.LeaseWait = time.Minute
	r.AllowDelete, r.AllowMove, r.GiveUp, r.AllowEmpty = o.allowDelete, o.allowMove, o.giveUp, o.allowEmpty
}

// temporary returns a folder in memory, if there is one.
func temporary(t testing.TB) string {
	t.Helper()
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(base, "defx-model-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

var _ = json.Marshal
