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
	"github.com/defx-dev/defx/deploy/lock"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
	"github.com/gofrs/flock"
	"github.com/hashicorp/terraform-exec/tfexec"
)

// WorkerVerb is the argument with which the program starts itself as a worker.
const WorkerVerb = "terraform-module"

// workerRequest is the standard input of a worker.
type workerRequest struct {
	Dir          string            `json:"dir"`     // directory of the module
	Program      string            `json:"program"` // path of Terraform or OpenTofu
	Cache        string            `json:"cache"`   // directory of providers, shared by all modules
	Deps         string            `json:"deps"`    // Terraform's lock file of provider versions, shared by all modules of a deployment
	Root         string            `json:"root"`    // directory of the entry file, to which paths of external providers are relative
	Scope        string            `json:"scope"`
	Address      string            `json:"address"`
	Caller       agent.Caller      `json:"caller"`
	TTL          time.Duration     `json:"ttl,omitempty"`  // of the lease that the worker holds, in nanoseconds; 0 = it holds none
	State        string            `json:"state"`          // directory of the state that has the lease
	Unit         []byte            `json:"unit,omitempty"` // canonical bytes; absent = delete the module
	Values       plan.Values       `json:"values,omitempty"`
	OnlyCreate   bool              `json:"onlyCreate"`             // fail if an existing resource would change
	AllowDelete  bool              `json:"allowDelete"`            // deletion of protected resources and of those with data is confirmed
	Moved        map[string]string `json:"moved,omitempty"`        // renamed resources: old address → new
	SelfResource string            `json:"selfResource,omitempty"` // address of a resource that must not be deleted
	Status       bool              `json:"status"`                 // only report what would change
	UsePlan      bool              `json:"usePlan"`                // apply the plan that a Status request has saved
	Timeout      int               `json:"timeout"`                // seconds

	Locked   map[string]lock.TerraformProvider `json:"locked,omitempty"`   // by source
	External map[string]lock.ExternalProvider  `json:"external,omitempty"` // by folder; those that may run
}

// workerResponse is the standard output of a worker.
type workerResponse struct {
	Entry  *agent.Entry         `json:"entry,omitempty"`
	Known  bool                 `json:"known"`
	Fenced *agent.ErrStaleToken `json:"fenced,omitempty"` // the newer apply that the module has seen
	Error  string               `json:"error,omitempty"`
	Status *plan.RefreshResult  `json:"status,omitempty"`
	Replan bool                 `json:"replan,omitempty"` // the saved plan must not be used: an apply removes resources from the state first
}

// Worker reads one request from in, executes it and writes the response to out. It
// returns the exit code of the process, which continues if its parent is killed. A
// SIGTERM interrupts a status request only.
func Worker(ctx context.Context, in io.Reader, out io.Writer) int {
	signal.Ignore(syscall.SIGPIPE, syscall.SIGINT, syscall.SIGHUP)
	syscall.Umask(0o077)
	var q workerRequest
	if err := json.NewDecoder(in).Decode(&q); err != nil {
		fmt.Fprintln(os.Stderr, "invalid worker request:", err)
		return 1
	}
	limit := time.Hour
	if q.Timeout > 0 {
		limit = time.Duration(q.Timeout) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if q.Status {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM)
		defer stop()
	}
	var r workerResponse
	c := &worker{workerRequest: &q}
	err := c.underLease(ctx, func() error { return c.run(ctx, &r) })
	if f, is := errors.AsType[*agent.ErrStaleToken](err); is {
		r.Fenced = f
	}
	if err != nil {
		r.Error = err.Error()
		if ctx.Err() != nil {
			r.Error = fmt.Sprintf("it took more than %s: %s", limit, r.Error)
		}
	}
	json.NewEncoder(out).Encode(r) // if the parent is gone, entry.json has the result
	return 0
}

// worker executes one request.
type worker struct {
	*workerRequest
	tf        *tfexec.Terraform
	prevented []string // kind.name of resources that got prevent_destroy, because their deletion is not confirmed
}

// underLease calls f while it holds and renews a lease on the module, because the
// process may outlive the one that holds the lease of the apply.
func (c *worker) underLease(ctx context.Context, f func() error) error {
	if c.TTL == 0 || c.Status {
		return f()
	}
	store := state.OpenDir(c.State)
	owner := state.CurrentOwner(c.Caller.Verb + " of " + c.Address)
	owner.Who = c.Caller.By
	lease, err := store.Acquire(ctx, state.LeaseRequest{Addresses: []string{c.Address}, Apply: c.Caller.Apply, Owner: owner, TTL: c.TTL})
	if err != nil {
		return err
	}
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		stop()
		store.Release(context.WithoutCancel(ctx), lease)
	}()
	go state.KeepAlive(renewing, store, lease, func(error) {}) // what Terraform has begun it finishes in any case
	return f()
}

// path returns the path of a file in the module's directory.
func (c *worker) path(name string) string { return filepath.Join(c.Dir, name) }

// run executes the request.
func (c *worker) run(ctx context.Context, r *workerResponse) error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	lock := flock.New(c.path(lockFile))
	if ok, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil || !ok {
		return fmt.Errorf("another Terraform is still running in %s: %w", c.Dir, err)
	}
	defer lock.Unlock()
	old, err := readEntry(c.Dir)
	if err != nil {
		return err
	}
	if old != nil {
		r.Entry, r.Known = &old.Entry, true
		if !c.Status && (old.Token > c.Caller.Token || old.Token == c.Caller.Token && old.Apply != "" && old.Apply != c.Caller.Apply) {
			return &agent.ErrStaleToken{Address: c.Address, Token: old.Token, Apply: old.Apply}
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
	if old != nil && old.Digest == d && maps.Equal(old.Values, c.Values) && !c.Status && !c.UsePlan {
		return nil // a worker whose parent was killed has completed it
	}
	if u.Backend == external.Name {
		return c.applyExternal(ctx, &u, d, old, r)
	}
	m, err := ec2.Realize(u.Payload, func(t token.Token) (string, bool) { v, ok := c.Values[plan.Key(t)]; return v, ok })
	if err != nil {
		return err
	}
	if c.Status {
		return c.status(ctx, m, old, r)
	}
	next := &moduleRecord{Scope: c.Scope, Address: c.Address, Protected: m.Protected, OrphanOnDelete: m.OrphanOnDelete, Last: c.Values}
	next.Backend, next.Apply, next.Token = u.Backend, c.Caller.Apply, c.Caller.Token
	uncertain := *next
	if old != nil { // resources stay protected until the change has succeeded
		uncertain.Protected, uncertain.Outputs = sets.Union(old.Protected, m.Protected), old.Outputs
	}
	if uncertain.Moves, err = c.moves(m, old); err == nil && len(uncertain.Moves) > 0 {
		if m.JSON, err = withMoves(m.JSON, uncertain.Moves); err == nil {
			err = uncertain.write(c.Dir) // before the previous unit is overwritten, from which the moves are computed
		}
	}
	if err == nil {
		err = writeFile(c.path(unitFile), c.Unit)
	}
	if err != nil {
		return err
	}
	if err := uncertain.write(c.Dir); err != nil {
		return err
	}
	r.Entry, r.Known = &uncertain.Entry, true
	safe, err := c.preventDestroy(m, old, uncertain.Moves)
	if err != nil {
		return err
	}
	if err := writeFile(c.path(configFile), m.JSON); err != nil {
		return err
	}
	if err := c.init(ctx, m); err != nil {
		return err
	}
	if err := c.apply(ctx, m, old, safe); err != nil {
		if _, refused := errors.AsType[*refusedError](err); refused && old != nil { // nothing was changed
			r.Entry = &old.Entry
			return errors.Join(err, old.write(c.Dir))
		}
		if c.isEmpty() {
			r.Entry = nil // no resource was created
			err = errors.Join(err, removeModule(c.Dir))
		}
		return err
	}
	if next.Outputs, err = c.outputs(m); err != nil {
		return err
	}
	next.Digest, next.Object, next.Values = d, digest.Bytes(c.Unit), c.Values
	if err := next.write(c.Dir); err != nil {
		return err
	}
	r.Entry = &next.Entry
	return nil
}

// moves returns the renames of a module's resources: kind.name → kind.name. Renames
// are not in the unit, because they must not change its digest.
func (c *worker) moves(m *ec2.Module, old *moduleRecord) (map[string]string, error) {
	out := map[string]string{}
	if old != nil {
		maps.Copy(out, old.Moves) // of an interrupted apply
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
	previous, err := ec2.Realize(u.Payload, func(token.Token) (string, bool) { return "", true })
	if err != nil {
		return nil, err
	}
	now := map[string]string{} // address → kind.name
	for id, address := range m.Addresses {
		now[address] = id
	}
	for id, address := range previous.Addresses {
		kind, _, _ := strings.Cut(id, ".")
		if to := now[c.Moved[address]]; m.Addresses[id] == "" && strings.HasPrefix(to, kind+".") {
			out[id] = to
		}
	}
	return out, nil
}

// withMoves adds moved blocks to a configuration.
func withMoves(config []byte, moves map[string]string) ([]byte, error) {
	var doc map[string]any
	if err := json.Unmarshal(config, &doc); err != nil {
		return nil, err
	}
	var list []map[string]string
	for _, from := range sets.Keys(moves) {
		list = append(list, map[string]string{"from": from, "to": moves[from]})
	}
	doc["moved"] = list
	return json.MarshalIndent(doc, "", "  ")
}

// openTerraform sets tf for the module's directory, once.
func (c *worker) openTerraform() error {
	if c.tf != nil {
		return nil
	}
	var err error
	if c.tf, err = tfexec.NewTerraform(c.Dir, c.Program); err != nil {
		return err
	}
	c.tf.SetStdout(io.Discard)
	c.tf.SetStderr(io.Discard)
	if c.Status {
		c.tf.SetWaitDelay(interruptDelay)
	}
	return c.tf.SetEnv(environment(c.Cache))
}

// init downloads the providers of the module, unless this was done before, in the
// locked versions. A lock ensures that one Terraform at a time writes to the shared
// cache.
func (c *worker) init(ctx context.Context, m *ec2.Module) error {
	if c.Status {
		if err := unlocked(m.Sources, c.Locked); err != nil {
			return err
		}
	}
	locked := map[string]lock.TerraformProvider{}
	for _, source := range m.Sources {
		if p, ok := c.Locked[source]; ok {
			p.Schema = nil
			locked[source] = p
		}
	}
	providers := m.Providers
	if len(locked) > 0 {
		raw, err := json.Marshal(locked)
		if err != nil {
			return err
		}
		providers += "\n" + string(raw)
	}
	if raw, err := os.ReadFile(c.path(readyFile)); err == nil && string(raw) == providers {
		if _, err := os.Stat(c.path(".terraform/providers")); err == nil || m.Providers == "{}" {
			return c.openTerraform()
		}
	}
	if err := os.MkdirAll(c.Cache, 0o700); err != nil {
		return err
	}
	if err := c.openTerraform(); err != nil {
		return err
	}
	busy := flock.New(filepath.Join(c.Cache, lockFile))
	if ok, err := busy.TryLockContext(ctx, 100*time.Millisecond); err != nil || !ok {
		return fmt.Errorf("the provider cache is in use: %w", err)
	}
	defer busy.Unlock()
	deps, err := os.ReadFile(c.Deps) // the versions of the other modules
	if err == nil || len(locked) > 0 {
		if err := writeFile(c.path(depsFile), withLocked(deps, locked)); err != nil {
			return err
		}
	}
	if err := initModule(ctx, c.Program, c.Dir, c.Cache); err != nil {
		return translateError(fmt.Errorf("its providers cannot be downloaded: %w", err), nil)
	}
	raw, err := os.ReadFile(c.path(depsFile))
	if err == nil {
		err = writeFile(c.Deps, raw)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := checkLocked(raw, m.Sources, locked); err != nil {
		return err
	}
	return writeFile(c.path(readyFile), []byte(providers))
}

// refusedError is an error that occurred before anything was changed.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// preventDestroy sets prevent_destroy on the resources whose deletion needs
// confirmation. It reports whether this covers all of them: a resource that is no
// longer in the module cannot be marked.
func (c *worker) preventDestroy(m *ec2.Module, old *moduleRecord, moves map[string]string) (safe bool, err error) {
	if c.AllowDelete {
		return true, nil
	}
	ids := slices.Clone(m.Protected)
	if old != nil {
		for _, id := range old.Protected {
			if to := moves[id]; to != "" {
				id = to
			}
			if _, still := m.Addresses[id]; still {
				ids = append(ids, id)
			} else if !slices.Contains(old.OrphanOnDelete, id) { // an orphan is not deleted
				return false, nil
			}
		}
	}
	if len(ids) == 0 || old == nil {
		return true, nil
	}
	m.JSON, err = withLifecycle(m.JSON, func(id string, lifecycle map[string]any) {
		if slices.Contains(ids, id) && lifecycle["prevent_destroy"] == nil {
			lifecycle["prevent_destroy"], c.prevented = true, append(c.prevented, id)
		}
	})
	return true, err
}

// apply applies the module. If a change may need confirmation, it makes a plan,
// checks it and applies this plan. Otherwise, and if prevent_destroy is safe, it
// applies directly, which saves a start of Terraform.
func (c *worker) apply(ctx context.Context, m *ec2.Module, old *moduleRecord, safe bool) error {
	var output outputParser
	empty := c.isEmpty()
	if old != nil && !empty {
		if err := c.forgetOrphans(ctx, old.OrphanOnDelete, m.Addresses); err != nil {
			return err
		}
	}
	if (empty || safe && !c.OnlyCreate && c.SelfResource == "") && !c.UsePlan {
		err := c.tf.ApplyJSON(ctx, &output)
		if err != nil && !empty && !output.started && len(output.diagnostics) > 0 { // planning failed
			return &refusedError{c.explainPrevented(&output, m, translateError(err, &output, m.Addresses))}
		}
		if err != nil {
			return c.applyFailed(ctx, m, &output, err)
		}
		return nil
	}
	if c.UsePlan {
		raw, err := os.ReadFile(c.path(plannedFile))
		if err == nil {
			err = json.Unmarshal(raw, &output.changes)
		}
		if err == nil {
			err = c.checkConsent(&output, m, old)
		}
		if err != nil {
			return &refusedError{err}
		}
	} else {
		changes, err := c.tf.PlanJSON(ctx, &output, tfexec.Out(c.path(planFile)))
		if err != nil {
			return &refusedError{translateError(err, &output, m.Addresses)}
		}
		if err := c.checkConsent(&output, m, old); err != nil || !changes {
			os.Remove(c.path(planFile))
			if err == nil {
				return nil
			}
			return &refusedError{err}
		}
	}
	output = outputParser{}
	defer os.Remove(c.path(planFile))
	defer os.Remove(c.path(plannedFile))
	if err := c.tf.ApplyJSON(ctx, &output, tfexec.DirOrPlan(c.path(planFile))); err != nil {
		return c.applyFailed(ctx, m, &output, err)
	}
	return nil
}

// explainPrevented returns err, or the error that confirmation is needed if Terraform
// failed because of a prevent_destroy that preventDestroy has set.
func (c *worker) explainPrevented(output *outputParser, m *ec2.Module, err error) error {
	for _, d := range output.diagnostics {
		if !strings.Contains(d.Detail, "prevent_destroy") {
			continue
		}
		for _, id := range c.prevented {
			if slices.Contains(strings.Fields(d.Detail), id) {
				return c.confirmError("replace", m.Addresses[id])
			}
		}
	}
	return err
}

// confirmError returns the error that an action needs confirmation.
func (c *worker) confirmError(action, name string) error {
	return fmt.Errorf("it would %s %s, which is protected or has data; nothing was changed\n    hint: use --allow-delete %s to allow it", action, name, c.Address)
}

// isEmpty reports whether the Terraform state certainly has no managed resources.
func (c *worker) isEmpty() bool {
	raw, err := os.ReadFile(c.path(stateFile))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	var st struct{ Resources []struct{ Mode string } }
	return json.Unmarshal(raw, &st) == nil && !slices.ContainsFunc(st.Resources, func(r struct{ Mode string }) bool { return r.Mode == "managed" })
}

// checkConsent returns an error if a planned change is not allowed by the request.
func (c *worker) checkConsent(output *outputParser, m *ec2.Module, old *moduleRecord) error {
	var protected []string
	if old != nil {
		protected = old.Protected
	}
	var changed []string
	for _, p := range output.changes {
		name := toAddress(p.Addr, m.Addresses)
		if p.Action != "create" && p.Action != "read" && p.Action != "noop" && p.Action != "no-op" {
			changed = append(changed, fmt.Sprintf("%s (%s)", name, p.Action))
		}
		if (p.Action == "delete" || p.Action == "replace" || p.Action == "remove") && c.SelfResource != "" && name == c.SelfResource {
			return fmt.Errorf("it would %s %s, the machine on which defx itself is running; nothing was changed\n    hint: run defx on another machine, which needs the state directory too", p.Action, name)
		}
		if (p.Action == "delete" || p.Action == "replace" || p.Action == "remove") && slices.Contains(sets.Union(protected, m.Protected), p.Addr) && !c.AllowDelete {
			return c.confirmError(p.Action, name)
		}
	}
	if c.OnlyCreate && len(changed) > 0 {
		return fmt.Errorf("values that were unknown in the plan would change existing resources: %s; nothing was changed\n    hint: review defx plan and apply again", strings.Join(changed, ", "))
	}
	return nil
}

// applyFailed returns the errors that Terraform has reported, with the resources that
// exist now.
func (c *worker) applyFailed(ctx context.Context, m *ec2.Module, output *outputParser, err error) error {
	err = translateError(err, output, m.Addresses)
	if ctx.Err() != nil {
		return err
	}
	var existing, missing []string
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
	exists := map[string]bool{}
	for _, r := range st.Resources {
		if r.Mode == "managed" && len(r.Instances) > 0 {
			exists[r.Type+"."+r.Name] = true
		}
	}
	for _, id := range sets.Keys(m.Addresses) {
		if exists[id] {
			existing = append(existing, m.Addresses[id])
		} else {
			missing = append(missing, m.Addresses[id])
		}
	}
	left := "none"
	if len(existing) > 0 {
		left = strings.Join(existing, ", ")
	}
	if len(missing) > 0 && len(existing) > 0 {
		left += "; not created: " + strings.Join(missing, ", ")
	}
	return fmt.Errorf("%w\n    existing resources: %s", err, left)
}

// forgetOrphans removes resources that are to be kept, and are not in the module any
// more, from the Terraform state.
func (c *worker) forgetOrphans(ctx context.Context, ids []string, module map[string]string) error {
	for _, id := range ids {
		if _, is := module[id]; is {
			continue
		}
		if err := c.tf.StateRm(ctx, id); err != nil && !strings.Contains(err.Error(), "No matching objects") {
			return translateError(fmt.Errorf("removing %s from the Terraform state: %w", id, err), nil)
		}
	}
	return nil
}

// outputs returns the outputs of the module that are not sensitive.
func (c *worker) outputs(m *ec2.Module) (plan.Values, error) {
	// They are in the state that Terraform has just written, so it need not be started again.
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

// remove destroys the resources of a module and removes its directory.
func (c *worker) remove(ctx context.Context, old *moduleRecord, r *workerResponse) error {
	if old == nil {
		r.Known = true
		return removeModule(c.Dir)
	}
	uncertain := *old
	uncertain.Digest, uncertain.Object, uncertain.Values = "", "", nil
	uncertain.Apply, uncertain.Token = c.Caller.Apply, c.Caller.Token
	if err := uncertain.write(c.Dir); err != nil {
		return err
	}
	r.Entry = &uncertain.Entry
	raw, err := os.ReadFile(c.path(unitFile))
	if err != nil {
		return err
	}
	var u plan.Unit
	if err := u.Decode(raw); err != nil {
		return err
	}
	if u.Backend == external.Name {
		return c.destroyExternal(ctx, &u, old, r)
	}
	m, err := ec2.Realize(u.Payload, func(t token.Token) (string, bool) { return old.Last[plan.Key(t)], true })
	if err != nil {
		return err
	}
	config, err := withoutPreventDestroy(m.JSON)
	if err != nil {
		return err
	}
	if err := writeFile(c.path(configFile), config); err != nil {
		return err
	}
	if _, err := os.Stat(c.path(stateFile)); err == nil {
		if err := c.init(ctx, m); err != nil {
			return err
		}
		if err := c.forgetOrphans(ctx, old.OrphanOnDelete, nil); err != nil {
			return err
		}
		var output outputParser
		if err := c.tf.DestroyJSON(ctx, &output); err != nil {
			return c.applyFailed(ctx, m, &output, err)
		}
	}
	r.Entry, r.Known = nil, true
	return removeModule(c.Dir)
}

// withoutPreventDestroy removes prevent_destroy from a configuration, because the
// deletion of a whole module has been confirmed.
func withoutPreventDestroy(raw []byte) ([]byte, error) {
	return withLifecycle(raw, func(_ string, lifecycle map[string]any) { delete(lifecycle, "prevent_destroy") })
}

// withLifecycle calls change with the lifecycle block of each resource (kind.name)
// and returns the changed configuration.
func withLifecycle(raw []byte, change func(id string, lifecycle map[string]any)) ([]byte, error) {
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	kinds, _ := doc["resource"].(map[string]any)
	for kind, names := range kinds {
		for name, body := range names.(map[string]any) {
			lifecycle, _ := body.(map[string]any)["lifecycle"].(map[string]any)
			if lifecycle == nil {
				lifecycle = map[string]any{}
			}
			if change(kind+"."+name, lifecycle); len(lifecycle) > 0 {
				body.(map[string]any)["lifecycle"] = lifecycle
			}
		}
	}
	return json.MarshalIndent(doc, "", "  ")
}
