package terraform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends/external"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/artifact"
	"github.com/defx-dev/defx/deploy/lock"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// answerFile has the last response of a provider to create: its state and outputs.
const answerFile = "answer.json"

// providerRequest is the standard input of an executable of a provider.
type providerRequest struct {
	APIVersion  string          `json:"apiVersion"`
	Kind        string          `json:"kind"` // "ProviderRequest"
	Verb        string          `json:"verb"` // install, create, check or destroy
	Deployment  string          `json:"deployment"`
	Environment string          `json:"environment"`
	Address     string          `json:"address"`
	Arguments   json.RawMessage `json:"arguments"`
	State       json.RawMessage `json:"state,omitempty"` // of the last response to create
}

// providerResponse is its standard output.
type providerResponse struct {
	State   json.RawMessage `json:"state,omitempty"`   // of create: stored, and part of later requests
	Outputs plan.Values     `json:"outputs,omitempty"` // of create: values for other units
	OK      *bool           `json:"ok,omitempty"`      // of check
	Reason  string          `json:"reason,omitempty"`  // of check: why it is not OK
}

// applyExternal handles a request with the executables of a provider.
func (c *worker) applyExternal(ctx context.Context, u *plan.Unit, d digest.Digest, old *moduleRecord, r *workerResponse) error {
	q, err := external.Realize(u.Payload, func(t token.Token) (string, bool) { v, ok := c.Values[plan.Key(t)]; return v, ok })
	if err != nil {
		return err
	}
	if c.Status {
		r.Status = &plan.RefreshResult{Changes: []plan.ResourceChange{}, Drift: []plan.ResourceChange{}}
		if old == nil || old.Digest == "" {
			return nil
		}
		a, err := c.runExternal(ctx, q, "check")
		if err != nil {
			return err
		}
		if a.OK != nil && !*a.OK {
			r.Status.Changes = append(r.Status.Changes, plan.ResourceChange{Address: q.Address, Op: plan.Update,
				Fields: []plan.Change{{Path: "/check", Before: a.Reason, After: "ok"}}})
		}
		return nil
	}
	next := &moduleRecord{Scope: c.Scope, Address: c.Address, Last: c.Values}
	next.Backend, next.Apply, next.Token = u.Backend, c.Caller.Apply, c.Caller.Token
	uncertain := *next
	if old != nil {
		uncertain.Outputs = old.Outputs
	}
	if err := writeFile(c.path(unitFile), c.Unit); err != nil {
		return err
	}
	if err := uncertain.write(c.Dir); err != nil {
		return err
	}
	r.Entry, r.Known = &uncertain.Entry, true
	if _, err := os.Stat(filepath.Join(c.Root, filepath.FromSlash(q.Provider), "install")); err == nil {
		if _, err := c.runExternal(ctx, q, "install"); err != nil {
			return err
		}
	}
	a, err := c.runExternal(ctx, q, "create")
	if err != nil {
		return err
	}
	raw, err := json.Marshal(a)
	if err == nil {
		err = writeFile(c.path(answerFile), raw)
	}
	if err != nil {
		return err
	}
	next.Outputs = plan.Values{}
	for name, v := range a.Outputs {
		next.Outputs[plan.Key(token.Token{Kind: token.Ref, Name: q.Address, Field: "output", Arg: name})] = v
	}
	next.Digest, next.Object, next.Values = d, digest.Bytes(c.Unit), c.Values
	r.Entry = &next.Entry
	return next.write(c.Dir)
}

// destroyExternal makes a provider destroy its resource, and removes the module's directory.
func (c *worker) destroyExternal(ctx context.Context, u *plan.Unit, old *moduleRecord, r *workerResponse) error {
	q, err := external.Realize(u.Payload, func(t token.Token) (string, bool) { return old.Last[plan.Key(t)], true })
	if err != nil {
		return err
	}
	if _, err := c.runExternal(ctx, q, "destroy"); err != nil {
		return err
	}
	r.Entry, r.Known = nil, true
	return removeModule(c.Dir)
}

// lockedExecutable returns the path of an executable of a provider, whose folder must be as it is
// locked.
func (c *worker) lockedExecutable(provider, verb string) (string, error) {
	root, err := os.OpenRoot(c.Root)
	if err != nil {
		return "", err
	}
	defer root.Close()
	now, err := artifact.DigestFolder(root, provider)
	if err != nil {
		return "", fmt.Errorf("provider %s: %w", provider, err)
	}
	was, locked := c.External[provider]
	switch {
	case !locked:
		return "", diag.Errorf("", "provider %s is not locked, and only locked providers run", provider).WithHint("run defx providers lock")
	case was.Digest != now:
		return "", diag.Errorf("", "provider %s differs from %s (%s is locked, %s is present), and only locked providers run", provider, lock.ProvidersName, was.Digest.Brief(), now.Brief()).
			WithHint("if the change is intended: defx providers lock")
	}
	folder, err := root.OpenRoot(filepath.FromSlash(provider)) // the digest covers nothing outside of it
	if err != nil {
		return "", err
	}
	defer folder.Close()
	if info, err := folder.Stat(verb); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return "", diag.Errorf("", "provider %s has no executable %q", provider, verb).WithHint("it is a file in that folder; chmod +x it")
	}
	return filepath.Join(c.Root, filepath.FromSlash(provider), verb), nil
}

// runExternal runs one executable of a provider.
func (c *worker) runExternal(ctx context.Context, q *external.Request, verb string) (*providerResponse, error) {
	program, err := c.lockedExecutable(q.Provider, verb)
	if err != nil {
		return nil, err
	}
	environment, deployment, _ := strings.Cut(c.Scope, "/")
	in := providerRequest{APIVersion: plan.APIVersion, Kind: "ProviderRequest", Verb: verb, Deployment: deployment, Environment: environment, Address: q.Address, Arguments: q.Arguments}
	var previous providerResponse
	raw, err := os.ReadFile(c.path(answerFile))
	if err == nil {
		err = json.Unmarshal(raw, &previous)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	in.State = previous.State
	if raw, err = json.Marshal(in); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Dir, cmd.WaitDelay = c.Root, 5*time.Second
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(raw), &out, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s of provider %s: %w\n%s", verb, q.Provider, err, strings.TrimSpace(stderr.String()))
	}
	a := &providerResponse{}
	if len(bytes.TrimSpace(out.Bytes())) == 0 && verb != "check" {
		return a, nil
	}
	dec := json.NewDecoder(&out)
	dec.DisallowUnknownFields()
	if err := dec.Decode(a); err != nil {
		return nil, fmt.Errorf("%s of provider %s printed an invalid response: %w\n    hint: print { \"outputs\": { … }, \"state\": … } or nothing; check prints { \"ok\": true }", verb, q.Provider, err)
	}
	return a, nil
}
