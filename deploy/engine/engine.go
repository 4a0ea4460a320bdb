// Package engine runs what the backend docker says on a docker engine of this
// machine.
//
// It knows containers, images, networks and volumes, and the files of
// backends/docker. It refuses to know deployments and who owns which file: that
// is the agent's. Invariants: what does not carry our labels is never touched;
// asked twice, everything does it once; a name tells a version, so no version
// can be there twice.
package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/backends/spec"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
)

// Default is where an engine listens if nobody says otherwise.
const Default = "unix:///var/run/docker.sock"

// Engine is a docker engine of this machine. Its methods may be called at once
// from many goroutines.
type Engine struct {
	// Socket is unix://PATH; empty: as the user's own docker would.
	Socket string

	mu     sync.Mutex
	api    *client.Client
	path   string                // of the socket
	busy   map[string]*turn      // name → who makes it now
	looked map[string]int        // probe → its last exit code
	ids    map[string]string     // image → its id, once seen
	ending map[string]chan error // unit → what it was stopped by, and is tidied up after
	info   *system.Info          // what it tells of itself; nil: it was not asked

	generations map[string]int        // scope → what is made now
	networks    map[string]netip.Addr // scope and name → the machine's address in it
}

// CommandError means that something of the user's own did not do what it should.
type CommandError struct {
	Unit      string
	Text      string
	Code      int  // exit code; 0: it never ran
	UserFault bool // the engine itself is not to blame
}

func (f *CommandError) Error() string { return f.Text }

// ErrEngineUnavailable means that no engine answers.
type ErrEngineUnavailable struct {
	Socket string
	Err    error
}

func (a *ErrEngineUnavailable) Error() string {
	switch {
	case errors.Is(a.Err, fs.ErrPermission) || errors.Is(a.Err, syscall.EACCES):
		return fmt.Sprintf("the docker engine's socket %s may not be used by this user", a.Socket)
	case errors.Is(a.Err, fs.ErrNotExist) || errors.Is(a.Err, syscall.ENOENT):
		return fmt.Sprintf("no docker engine is here: there is no socket %s", a.Socket)
	case errors.Is(a.Err, syscall.ECONNREFUSED):
		return fmt.Sprintf("no docker engine answers at %s", a.Socket)
	}
	return fmt.Sprintf("the docker engine at %s does not answer: %v", a.Socket, a.Err)
}

func (a *ErrEngineUnavailable) Unwrap() error { return a.Err }

// socket finds the engine: what was said, DOCKER_HOST, the user's docker
// context, or the usual place.
func (e *Engine) socket() (string, error) {
	host := e.Socket
	if host == "" {
		host = os.Getenv("DOCKER_HOST")
	}
	if host == "" {
		host = currentContext()
	}
	if host == "" {
		host = Default
	}
	p, is := strings.CutPrefix(host, "unix://")
	if !is || !filepath.IsAbs(p) {
		return "", fmt.Errorf("the docker engine %q is not on this machine, where its containers would find their files: it must be unix:///PATH", host)
	}
	return p, nil
}

// currentContext is the host of the context that the user's docker uses.
func currentContext() string {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(home, ".docker")
	}
	name := os.Getenv("DOCKER_CONTEXT")
	if name == "" {
		var config struct {
			CurrentContext string `json:"currentContext"`
		}
		raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil || json.Unmarshal(raw, &config) != nil {
			return ""
		}
		name = config.CurrentContext
	}
	if name == "" || name == "default" {
		return ""
	}
	sum := sha256.Sum256([]byte(name))
	raw, err := os.ReadFile(filepath.Join(dir, "contexts", "meta", hex.EncodeToString(sum[:]), "meta.json"))
	var meta struct {
		Endpoints map[string]struct{ Host string }
	}
	if err != nil || json.Unmarshal(raw, &meta) != nil {
		return ""
	}
	return meta.Endpoints["docker"].Host
}

// Path is that of the engine's socket; empty if nobody can tell.
func (e *Engine) Path() string {
	p, _ := e.socket()
	return p
}

// connect gives the conversation with the engine.
func (e *Engine) connect() (*client.Client, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.api != nil {
		return e.api, nil
	}
	p, err := e.socket()
	if err != nil {
		return nil, err
	}
	api, err := client.New(client.WithHost("unix://"+p), client.WithUserAgent("defx"))
	if err != nil {
		return nil, err
	}
	e.api, e.path = api, p
	e.busy, e.looked, e.ids, e.networks = map[string]*turn{}, map[string]int{}, map[string]string{}, map[string]netip.Addr{}
	e.ending = map[string]chan error{}
	return api, nil
}

// Close ends the conversation.
func (e *Engine) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.api != nil {
		e.api.Close()
		e.api = nil
	}
}

// Check tells whether an engine answers.
func (e *Engine) Check(ctx context.Context) error {
	api, err := e.connect()
	if err != nil {
		return err
	}
	if _, err := api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return e.absent(err)
	}
	if info, err := e.about(ctx, api); err == nil && slices.Contains(info.SecurityOptions, "name=rootless") {
		return fmt.Errorf("the docker engine at %s is rootless: its containers may not read what defx keeps for them, and have users and addresses of their own; use one that root runs", e.path)
	}
	return nil
}

// about is what the engine tells of itself.
func (e *Engine) about(ctx context.Context, api *client.Client) (*system.Info, error) {
	e.mu.Lock()
	info := e.info
	e.mu.Unlock()
	if info != nil {
		return info, nil
	}
	res, err := api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.info = &res.Info
	return e.info, nil
}

// Version is the engine's own; empty if none answers.
func (e *Engine) Version(ctx context.Context) string {
	api, err := e.connect()
	if err != nil {
		return ""
	}
	v, err := api.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return ""
	}
	return v.Version
}

func (e *Engine) absent(err error) error {
	if client.IsErrConnectionFailed(err) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EACCES) {
		// The client's own words hide what the system said.
		cause := err
		if c, derr := dial(e.path); derr != nil {
			cause = derr
		} else {
			c.Close()
		}
		return &ErrEngineUnavailable{e.path, cause}
	}
	return err
}

// patience is how long an engine that is being restarted is waited for.
const patience = 45 * time.Second

// lasting does what may be done twice, and once more if the engine went away
// and came back meanwhile.
func (e *Engine) lasting(ctx context.Context, f func(*client.Client) error) error {
	api, err := e.connect()
	if err != nil {
		return err
	}
	until := time.Now().Add(patience)
	for {
		err := f(api)
		if !gone(err) && !e.leaving(ctx, api, err) {
			return err
		}
		if err = e.absent(err); absentForGood(err) && time.Now().Add(patience-3*time.Second).After(until) {
			return err // it was never there
		}
		for {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%w: %w", ctx.Err(), err)
			case <-time.After(300 * time.Millisecond):
			}
			if e.up(ctx, api) {
				break
			}
			if time.Now().After(until) {
				return err
			}
		}
		e.forget()
	}
}

// gone tells whether it is the engine itself that is not there.
func gone(err error) bool {
	if err == nil {
		return false
	}
	if client.IsErrConnectionFailed(err) || errdefs.IsUnavailable(err) {
		return true
	}
	text := err.Error() // what breaks off in the middle has no type of its own
	for _, s := range []string{"EOF", "connection reset by peer", "broken pipe", "connection refused", "shutting down"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// leaving tells whether what failed may have failed because the engine is about
// to go: its last answers are about whatever broke first inside it.
func (e *Engine) leaving(ctx context.Context, api *client.Client, err error) bool {
	f, is := errors.AsType[*CommandError](err)
	if err == nil || ctx.Err() != nil || is && (f.Code != 0 || f.UserFault) || !is && !errdefs.IsInternal(err) && !errdefs.IsInvalidArgument(err) {
		return false
	}
	for range 5 {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(200 * time.Millisecond):
		}
		if !e.up(ctx, api) && ctx.Err() == nil {
			return true
		}
	}
	return false
}

// up tells whether the engine answers, and would answer others too: one that is
// about to go still speaks to those whom it knows.
func (e *Engine) up(ctx context.Context, api *client.Client) bool {
	c, err := dial(e.path)
	if err != nil {
		return false
	}
	c.Close()
	_, err = api.Ping(ctx, client.PingOptions{})
	return err == nil
}

func absentForGood(err error) bool {
	return errors.Is(err, fs.ErrPermission)
}

// forget drops what is known of the engine: another one may have come.
func (e *Engine) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.ids)
	clear(e.networks)
	e.info = nil
}

// turn lets one at a time make something.
type turn struct {
	waiting int
	mu      sync.Mutex
}

// alone does f while nobody else does something of that name.
func (e *Engine) alone(name string, f func() error) error {
	e.mu.Lock()
	t := e.busy[name]
	if t == nil {
		t = &turn{}
		e.busy[name] = t
	}
	t.waiting++
	e.mu.Unlock()
	t.mu.Lock()
	defer func() {
		t.mu.Unlock()
		e.mu.Lock()
		if t.waiting--; t.waiting == 0 {
			delete(e.busy, name)
		}
		e.mu.Unlock()
	}()
	return f()
}

// unitsDir is docker.Dir, but for tests.
var unitsDir = docker.Dir

// read reads a file of ours, and its digest.
func read(unit string, v any) (digest.Digest, error) {
	raw, err := os.ReadFile(filepath.Join(unitsDir, unit))
	if err != nil {
		return "", err
	}
	if err := spec.DecodeStrict(raw, v); err != nil {
		return "", fmt.Errorf("%s/%s is damaged: %w", docker.Dir, unit, err)
	}
	return digest.Bytes(raw), nil
}

// Creating tells for which generation of a scope things are made from now on.
func (e *Engine) Creating(scope string, generation int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.generations == nil {
		e.generations = map[string]int{}
	}
	e.generations[scope] = generation
}

func (e *Engine) labels(id docker.ID, unit string, d digest.Digest) map[string]string {
	out := map[string]string{docker.LabelScope: id.Scope, docker.LabelBase: id.Base, docker.LabelUnit: unit}
	if id.Address != "" {
		out[docker.LabelAddress] = id.Address
	}
	if d != "" {
		out[docker.LabelDigest] = string(d)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := e.generations[id.Scope]; n > 0 {
		out[docker.LabelGeneration] = strconv.Itoa(n)
	}
	return out
}
