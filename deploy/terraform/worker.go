package terraform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/defx-dev/defx/backends/ec2"
	"github.com/defx-dev/defx/backends/external"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
	"github.com/gofrs/flock"
	"github.com/hashicorp/terraform-exec/tfexec"
)

// WorkerVerb is the word by which the program starts itself for one module.
const WorkerVerb = "terraform-module"

// job is what a child is asked to do.
type job struct {
	Dir         string            `json:"dir"`     // of the module
	Program     string            `json:"program"` // terraform or tofu
	Cache       string            `json:"cache"`   // of providers, shared by all modules
	Deps        string            `json:"deps"`    // chosen versions of providers, shared by all modules of a deployment
	Root        string            `json:"root"`    // folder of the entry file: paths of providers start there
	Scope       string            `json:"scope"`
	Address     string            `json:"address"`
	Token       int64             `json:"token"`
	Unit        []byte            `json:"unit,omitempty"` // canonical bytes; absent: everything goes
	Values      plan.Values       `json:"values,omitempty"`
	OnlyCreate  bool              `json:"onlyCreate"`      // stop if anything that stands would change
	AllowDelete bool              `json:"allowDelete"`     // of what keeps data or is protected
	Moved       map[string]string `json:"moved,omitempty"` // resources that stand under another name: old → new
	Spare       string            `json:"spare,omitempty"` // address of a resource that must not go
	Look        bool              `json:"look"`            // only plan, and tell
	Shown       bool              `json:"shown"`           // apply the plan that Look made
	Timeout     int               `json:"timeout"`         // seconds
}

// report is what a child says at its end.
type report struct {
	Entry  *agent.Entry        `json:"entry,omitempty"`
	Known  bool                `json:"known"`
	Fenced int64               `json:"fenced,omitempty"`
	Error  string              `json:"error,omitempty"`
	Look   *plan.RefreshResult `json:"look,omitempty"`
	Again  bool                `json:"again,omitempty"` // what Look planned is not yet all that will be done: it is planned once more
	Starts int                 `json:"starts"`          // how often Terraform was started
}

// Worker does one job, told on in, and reports on out. It is the whole of a
// process, which nobody's death ends but its own.
func Worker(in io.Reader, out io.Writer) int {
	signal.Ignore(syscall.SIGPIPE, syscall.SIGINT, syscall.SIGHUP)
	syscall.Umask(0o077)
	var j job
	if err := json.NewDecoder(in).Decode(&j); err != nil {
		fmt.Fprintln(os.Stderr, "not a job:", err)
		return 1
	}
	limit := time.Hour
	if j.Timeout > 0 {
		limit = time.Duration(j.Timeout) * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var r report
	c := &child{job: &j}
	err := c.run(ctx, &r)
	r.Starts = c.starts
	if f, is := errors.AsType[*agent.ErrStaleToken](err); is {
		r.Fenced = f.Token
	}
	if err != nil {
		r.Error = err.Error()
		if ctx.Err() != nil {
			r.Error = fmt.Sprintf("it took more than %s: %s", limit, r.Error)
		}
	}
	json.NewEncoder(out).Encode(r) // if nobody listens any more, the entry tells
	return 0
}

type child struct {
	*job
	tf     *tfexec.Terraform
	starts int
	guards []string // kind.name that Terraform was told to keep, because nobody consented
}

func (c *child) path(name string) string { return filepath.Join(c.Dir, name) }

func (c *child) run(ctx context.Context, r *report) error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	lock := flock.New(c.path(lockFile))
	if ok, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil || !ok {
		return fmt.Errorf("another Terraform is still at work in %s: %w", c.Dir, err)
	}
	defer lock.Unlock()
	old, err := readEntry(c.Dir)
	if err != nil {
		return err
	}
	if old != nil {
		r.Entry, r.Known = &old.Entry, true
		if old.Token > c.Token && !c.Look {
			return &agent.ErrStaleToken{Address: c.Address, Token: old.Token}
		}
	}
	if c.Unit == nil {
		return c.remove(ctx, old, r)
	}
	var u plan.Unit
	if err := u.Decode(c.Unit); err != nil {
		return err
	}
	d, err := u.Digest()
	if err != nil {
		return err
	}
	if old != nil && old.Digest == d && maps.Equal(old.Values, c.Values) && !c.Look && !c.Shown {
		return nil // one that was left alone has finished it
	}
	if u.Backend == external.Name {
		return c.scripts(ctx, &u, d, old, r)
	}
	m, err := ec2.Realize(u.Payload, func(t token.Token) (string, bool) { v, ok := c.Values[plan.Key(t)]; return v, ok })
	if err != nil {
		return err
	}
	if c.Look {
		return c.look(ctx, m, old, r)
	}
	next := &kept{Scope: c.Scope, Address: c.Address, Token: c.Token, Keeps: m.Protected, Retains: m.OrphanOnDelete, Last: c.Values}
	next.Backend = u.Backend
	doubt := *next
	if old != nil { // what must not go is known until it is certain that it may
		doubt.Keeps, doubt.Outputs = both(old.Keeps, m.Protected), old.Outputs
	}
	if doubt.Moves, err = c.moves(m, old); err == nil && len(doubt.Moves) > 0 {
		if m.JSON, err = withMoves(m.JSON, doubt.Moves); err == nil {
			err = doubt.write(c.Dir) // before what stood is forgotten
		}
	}
	if err == nil {
		err = durable(c.path(unitFile), c.Unit)
	}
	if err != nil {
		return err
	}
	if err := doubt.write(c.Dir); err != nil {
		return err
	}
	r.Entry, r.Known = &doubt.Entry, true
	sure, err := c.guard(m, old, doubt.Moves)
	if err != nil {
		return err
	}
	if err := durable(c.path(configFile), m.JSON); err != nil {
		return err
	}
	if err := c.init(ctx, m.Providers); err != nil {
		return err
	}
	if err := c.apply(ctx, m, old, sure); err != nil {
		if _, refused := errors.AsType[*refusal](err); refused && old != nil { // nothing was done
			r.Entry = &old.Entry
			return errors.Join(err, old.write(c.Dir))
		}
		if c.empty() {
			r.Entry = nil // nothing of it stands
			err = errors.Join(err, os.RemoveAll(c.Dir))
		}
		return err
	}
	if next.Outputs, err = c.outputs(ctx, m); err != nil {
		return err
	}
	next.Digest, next.Object, next.Values = d, digest.Bytes(c.Unit), c.Values
	if err := next.write(c.Dir); err != nil {
		return err
	}
	r.Entry = &next.Entry
	return nil
}

// moves lists what is called otherwise from now on: kind.name → kind.name. What
// is called so is no part of what a module is, and so of no digest.
func (c *child) moves(m *ec2.Module, old *kept) (map[string]string, error) {
	out := map[string]string{}
	if old != nil {
		maps.Copy(out, old.Moves) // of an apply that did not live to its end
	}
	raw, err := os.ReadFile(c.path(unitFile))
	if len(c.Moved) == 0 || errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	var u plan.Unit
	if err == nil {
		err = u.Decode(raw)
	}
	if err != nil {
		return nil, err
	}
	before, err := ec2.Realize(u.Payload, func(token.Token) (string, bool) { return "", true })
	if err != nil {
		return nil, err
	}
	now := map[string]string{} // our address → kind.name
	for id, address := range m.Addresses {
		now[address] = id
	}
	for id, address := range before.Addresses {
		kind, _, _ := strings.Cut(id, ".")
		if to := now[c.Moved[address]]; m.Addresses[id] == "" && strings.HasPrefix(to, kind+".") {
			out[id] = to
		}
	}
	return out, nil
}

// withMoves tells Terraform of them.
func withMoves(config []byte, moves map[string]string) ([]byte, error) {
	var doc map[string]any
	if err := json.Unmarshal(config, &doc); err != nil {
		return nil, err
	}
	var list []map[string]string
	for _, from := range slices.Sorted(maps.Keys(moves)) {
		list = append(list, map[string]string{"from": from, "to": moves[from]})
	}
	doc["moved"] = list
	return json.MarshalIndent(doc, "", "  ")
}

func both(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// begin prepares Terraform for the folder.
func (c *child) begin() error {
	if c.tf != nil {
		return nil
	}
	var err error
	if c.tf, err = tfexec.NewTerraform(c.Dir, c.Program); err != nil {
		return err
	}
	c.tf.SetStdout(io.Discard)
	c.tf.SetStderr(io.Discard)
	return c.tf.SetEnv(environment(c.Cache))
}

// environment is ours, without what Terraform is told by other means.
func environment(cache string) map[string]string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	env = tfexec.CleanEnv(env)
	if cache != "" {
		env["TF_PLUGIN_CACHE_DIR"] = cache
	}
	env["CHECKPOINT_DISABLE"] = "1"
	if env["GOGC"] == "" { // both are programs that live for seconds: to collect less costs a fifth more memory, and saves a quarter of their time
		env["GOGC"] = "400"
	}
	return env
}

// init fetches providers, once for what the module needs. The cache that all
// modules share bears one at a time.
func (c *child) init(ctx context.Context, providers string) error {
	if raw, err := os.ReadFile(c.path(readyFile)); err == nil && string(raw) == providers {
		if _, err := os.Stat(c.path(".terraform/providers")); err == nil || providers == "{}" {
			return c.begin()
		}
	}
	if err := os.MkdirAll(c.Cache, 0o700); err != nil {
		return err
	}
	if err := c.begin(); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(c.Cache, lockFile))
	if ok, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil || !ok {
		return fmt.Errorf("the cache of providers is in use: %w", err)
	}
	defer lock.Unlock()
	if raw, err := os.ReadFile(c.Deps); err == nil { // the versions that the other modules have
		if err := durable(c.path(depsFile), raw); err != nil {
			return err
		}
	}
	c.starts++
	if err := c.tf.Init(ctx, tfexec.Upgrade(false)); err != nil {
		return told(fmt.Errorf("its providers cannot be fetched: %w", err), nil)
	}
	if raw, err := os.ReadFile(c.path(depsFile)); err == nil {
		if err := durable(c.Deps, raw); err != nil {
			return err
		}
	}
	return durable(c.path(readyFile), []byte(providers))
}

// refusal is an error before anything was changed.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// guard lets Terraform itself keep what must not go unasked, and tells whether
// nothing else can go that would need consent: what is not in the module any
// more cannot be guarded in it.
func (c *child) guard(m *ec2.Module, old *kept, moves map[string]string) (sure bool, err error) {
	if c.AllowDelete {
		return true, nil
	}
	ids := slices.Clone(m.Protected)
	if old != nil {
		for _, id := range old.Keeps {
			if to := moves[id]; to != "" {
				id = to
			}
			if _, still := m.Addresses[id]; still {
				ids = append(ids, id)
			} else if !slices.Contains(old.Retains, id) { // that is forgotten, and not deleted
				return false, nil
			}
		}
	}
	if len(ids) == 0 || old == nil {
		return true, nil
	}
	m.JSON, err = withLife(m.JSON, func(id string, life map[string]any) {
		if slices.Contains(ids, id) && life["prevent_destroy"] == nil {
			life["prevent_destroy"], c.guards = true, append(c.guards, id)
		}
	})
	return true, err
}

// apply makes the module true. What needs consent is seen in a plan first, which is
// then the one that is applied; where nothing does, or Terraform itself is sure to keep
// it, one start does.
func (c *child) apply(ctx context.Context, m *ec2.Module, old *kept, sure bool) error {
	var said stream
	fresh := c.empty()
	if old != nil && !fresh {
		if err := c.forget(ctx, old.Retains, m.Addresses); err != nil {
			return err
		}
	}
	if (fresh || sure && !c.OnlyCreate && c.Spare == "") && !c.Shown {
		c.starts++
		err := c.tf.ApplyJSON(ctx, &said)
		if err != nil && !fresh && !said.began && len(said.faults) > 0 { // it did not get as far as that
			return &refusal{c.unasked(&said, m, told(err, &said, m.Addresses))}
		}
		if err != nil {
			return c.failed(ctx, m, &said, err)
		}
		return nil
	}
	if c.Shown {
		raw, err := os.ReadFile(c.path(plannedFile))
		if err == nil {
			err = json.Unmarshal(raw, &said.planned)
		}
		if err == nil {
			err = c.consent(&said, m, old)
		}
		if err != nil {
			return &refusal{err}
		}
	} else {
		c.starts++
		changes, err := c.tf.PlanJSON(ctx, &said, tfexec.Out(c.path(planFile)))
		if err != nil {
			return &refusal{told(err, &said, m.Addresses)}
		}
		if err := c.consent(&said, m, old); err != nil || !changes {
			os.Remove(c.path(planFile))
			if err == nil {
				return nil
			}
			return &refusal{err}
		}
	}
	said = stream{}
	defer os.Remove(c.path(planFile))
	defer os.Remove(c.path(plannedFile))
	c.starts++
	if err := c.tf.ApplyJSON(ctx, &said, tfexec.DirOrPlan(c.path(planFile))); err != nil {
		return c.failed(ctx, m, &said, err)
	}
	return nil
}

// unasked words that Terraform kept what it was told to keep.
func (c *child) unasked(said *stream, m *ec2.Module, err error) error {
	for _, f := range said.faults {
		if !strings.Contains(f.Detail, "prevent_destroy") {
			continue
		}
		for _, id := range c.guards {
			if slices.Contains(strings.Fields(f.Detail), id) {
				return c.consents("replace", m.Addresses[id])
			}
		}
	}
	return err
}

func (c *child) consents(action, name string) error {
	return fmt.Errorf("it would %s %s, which is protected or keeps data; nothing was done\n    hint: --allow-delete %s consents", action, name, c.Address)
}

// empty tells whether nothing stands for certain. Terraform and OpenTofu write
// the same state in other forms, so it is read and not searched.
func (c *child) empty() bool {
	raw, err := os.ReadFile(c.path(stateFile))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	var st struct{ Resources []struct{ Mode string } }
	return json.Unmarshal(raw, &st) == nil && !slices.ContainsFunc(st.Resources, func(r struct{ Mode string }) bool { return r.Mode == "managed" })
}

// consent looks at what would be done.
func (c *child) consent(said *stream, m *ec2.Module, old *kept) error {
	var keeps []string
	if old != nil {
		keeps = old.Keeps
	}
	var changed []string
	for _, p := range said.planned {
		name := ours(p.Addr, m.Addresses)
		if p.Action != "create" && p.Action != "read" && p.Action != "noop" && p.Action != "no-op" {
			changed = append(changed, fmt.Sprintf("%s (%s)", name, p.Action))
		}
		if (p.Action == "delete" || p.Action == "replace" || p.Action == "remove") && c.Spare != "" && name == c.Spare {
			return fmt.Errorf("it would %s %s, the machine on which defx runs itself: nobody would be left to finish; nothing was done\n    hint: run defx on another machine; the state folder must be there too", p.Action, name)
		}
		if (p.Action == "delete" || p.Action == "replace" || p.Action == "remove") && slices.Contains(both(keeps, m.Protected), p.Addr) && !c.AllowDelete {
			return c.consents(p.Action, name)
		}
	}
	if c.OnlyCreate && len(changed) > 0 {
		return fmt.Errorf("what it reads is known only now, and with it what stands would change: %s; nothing was done\n    hint: look at defx plan, and apply again", strings.Join(changed, ", "))
	}
	return nil
}

// failed says what went wrong, and what was left.
func (c *child) failed(ctx context.Context, m *ec2.Module, said *stream, err error) error {
	err = told(err, said, m.Addresses)
	if ctx.Err() != nil {
		return err
	}
	var stands, lacks []string
	raw, rerr := os.ReadFile(c.path(stateFile))
	if rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		return err
	}
	var st struct {
		Resources []struct {
			Mode, Type, Name string
			Instances        []struct {
				Status string
			}
		}
	}
	json.Unmarshal(raw, &st)
	there := map[string]bool{}
	for _, r := range st.Resources {
		if r.Mode == "managed" && len(r.Instances) > 0 {
			there[r.Type+"."+r.Name] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.Addresses)) {
		if there[id] {
			stands = append(stands, m.Addresses[id])
		} else {
			lacks = append(lacks, m.Addresses[id])
		}
	}
	left := "nothing of it stands"
	if len(stands) > 0 {
		left = "there stands " + strings.Join(stands, ", ")
	}
	if len(lacks) > 0 && len(stands) > 0 {
		left += "; not made: " + strings.Join(lacks, ", ")
	}
	return fmt.Errorf("%w\n    left: %s", err, left)
}

// forget lets go of what is to be kept and is not in the module any more.
func (c *child) forget(ctx context.Context, retains []string, still map[string]string) error {
	for _, id := range retains {
		if _, is := still[id]; is {
			continue
		}
		c.starts++
		if err := c.tf.StateRm(ctx, id); err != nil && !strings.Contains(err.Error(), "No matching objects") {
			return told(fmt.Errorf("%s cannot be let go: %w", id, err), nil)
		}
	}
	return nil
}

// outputs reads what others may know.
func (c *child) outputs(ctx context.Context, m *ec2.Module) (plan.Values, error) {
	// The state that Terraform has just written holds them: it need not be started again.
	raw, err := os.ReadFile(c.path(stateFile))
	if err != nil && len(m.Outputs) > 0 {
		return nil, err
	}
	var st struct {
		Outputs map[string]struct {
			Value     any
			Sensitive bool
		}
	}
	if err == nil {
		if err := json.Unmarshal(raw, &st); err != nil {
			return nil, err
		}
	}
	out := plan.Values{}
	for name, key := range m.Outputs {
		o, ok := st.Outputs[name]
		if !ok || o.Sensitive || o.Value == nil {
			continue
		}
		switch v := o.Value.(type) {
		case string:
			out[key] = v
		default:
			text, err := json.Marshal(v)
			if err != nil {
				return nil, err
			}
			out[key] = string(text)
		}
	}
	return out, nil
}

// remove destroys all of a module and its folder.
func (c *child) remove(ctx context.Context, old *kept, r *report) error {
	if old == nil {
		r.Known = true
		return os.RemoveAll(c.Dir)
	}
	doubt := *old
	doubt.Digest, doubt.Object, doubt.Values, doubt.Token = "", "", nil, c.Token
	if err := doubt.write(c.Dir); err != nil {
		return err
	}
	r.Entry = &doubt.Entry
	raw, err := os.ReadFile(c.path(unitFile))
	if err != nil {
		return err
	}
	var u plan.Unit
	if err := u.Decode(raw); err != nil {
		return err
	}
	if u.Backend == external.Name {
		return c.unmake(ctx, &u, old, r)
	}
	m, err := ec2.Realize(u.Payload, func(t token.Token) (string, bool) { return old.Last[plan.Key(t)], true })
	if err != nil {
		return err
	}
	config, err := withoutGuard(m.JSON)
	if err != nil {
		return err
	}
	if err := durable(c.path(configFile), config); err != nil {
		return err
	}
	if _, err := os.Stat(c.path(stateFile)); err == nil {
		if err := c.init(ctx, m.Providers); err != nil {
			return err
		}
		if err := c.forget(ctx, old.Retains, nil); err != nil {
			return err
		}
		var said stream
		c.starts++
		if err := c.tf.DestroyJSON(ctx, &said); err != nil {
			return c.failed(ctx, m, &said, err)
		}
	}
	r.Entry, r.Known = nil, true
	return os.RemoveAll(c.Dir)
}

// withoutGuard drops prevent_destroy: whoever deletes a whole module was asked for consent.
func withoutGuard(raw []byte) ([]byte, error) {
	return withLife(raw, func(_ string, life map[string]any) { delete(life, "prevent_destroy") })
}

// withLife changes the lifecycle of resources, by kind.name.
func withLife(raw []byte, change func(id string, life map[string]any)) ([]byte, error) {
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	kinds, _ := doc["resource"].(map[string]any)
	for kind, names := range kinds {
		for name, body := range names.(map[string]any) {
			life, _ := body.(map[string]any)["lifecycle"].(map[string]any)
			if life == nil {
				life = map[string]any{}
			}
			if change(kind+"."+name, life); len(life) > 0 {
				body.(map[string]any)["lifecycle"] = life
			}
		}
	}
	return json.MarshalIndent(doc, "", "  ")
}
