// Package engine runs the units of the backend docker on a docker engine of this machine.
//
// It knows containers, images, networks and volumes, and the files of backends/docker. It
// refuses to know deployments and file ownership, which are the agent's. Invariants: it
// never touches what does not carry defx's labels; every operation can be repeated; a
// container's name contains its version, so no version exists twice.
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
	"github.com/defx-dev/defx/internal/poll"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
)

// Default is the engine's usual address.
const Default = "unix:///var/run/docker.sock"

// Engine is a docker engine of this machine. Its methods may be called concurrently.
type Engine struct {
	// Socket is unix://PATH; empty: chosen as the docker command of the user does.
	Socket string

	mu           sync.Mutex
	api          *client.Client
	path         string                // of the socket
	busy         map[string]*nameLock  // name → lock of what is being created
	probeResults map[string]int        // probe → its last exit code
	ids          map[string]string     // image → its id, once seen
	cleanups     map[string]chan error // unit → result of a stop whose cleanup is still running
	info         *system.Info          // cached; nil: not asked yet

	generations map[string]int        // scope → generation that is being deployed
	networks    map[string]netip.Addr // scope and name → the machine's address in the network
}

// CommandError is the error of a user's container or command that failed.
type CommandError struct {
	Unit      string
	Text      string
	Code      int  // exit code; 0: it was not started
	UserFault bool // the user's configuration is wrong, not the engine

	stale bool // see isStaleContainer
}

func (f *CommandError) Error() string { return f.Text }

// ErrEngineUnavailable is the error of an engine that does not answer.
type ErrEngineUnavailable struct {
	Socket string
	Err    error
}

func (a *ErrEngineUnavailable) Error() string {
	switch {
	case errors.Is(a.Err, fs.ErrPermission) || errors.Is(a.Err, syscall.EACCES):
		return fmt.Sprintf("this user has no permission to use the docker engine's socket %s", a.Socket)
	case errors.Is(a.Err, fs.ErrNotExist) || errors.Is(a.Err, syscall.ENOENT):
		return fmt.Sprintf("there is no docker engine on this machine: socket %s does not exist", a.Socket)
	case errors.Is(a.Err, syscall.ECONNREFUSED):
		return fmt.Sprintf("no docker engine answers at %s", a.Socket)
	}
	return fmt.Sprintf("the docker engine at %s does not answer: %v", a.Socket, a.Err)
}

func (a *ErrEngineUnavailable) Unwrap() error { return a.Err }

// socket returns the path of the engine's socket: from Socket, DOCKER_HOST, the user's
// docker context, or the default.
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
		return "", fmt.Errorf("the docker engine %q is not on this machine: it must be unix:///PATH", host)
	}
	return p, nil
}

// currentContext returns the host of the user's current docker context; "" if none.
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

// Path returns the path of the engine's socket; empty if unknown.
func (e *Engine) Path() string {
	p, _ := e.socket()
	return p
}

// connect returns the client of the engine.
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
	e.busy, e.probeResults, e.ids, e.networks = map[string]*nameLock{}, map[string]int{}, map[string]string{}, map[string]netip.Addr{}
	e.cleanups = map[string]chan error{}
	return api, nil
}

// Close closes the client.
func (e *Engine) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.api != nil {
		e.api.Close()
		e.api = nil
	}
}

// Check fails if no suitable engine answers.
func (e *Engine) Check(ctx context.Context) error {
	api, err := e.connect()
	if err != nil {
		return err
	}
	if _, err := api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return e.unavailable(err)
	}
	if info, err := e.cachedInfo(ctx, api); err == nil && slices.Contains(info.SecurityOptions, "name=rootless") {
		return fmt.Errorf("the docker engine at %s is rootless: its containers cannot read files of defx, and their users and addresses differ from the machine's; use an engine that runs as root", e.path)
	}
	return nil
}

// cachedInfo returns the engine's description of itself.
func (e *Engine) cachedInfo(ctx context.Context, api *client.Client) (*system.Info, error) {
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

// Version returns the engine's version; empty if it does not answer.
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

func (e *Engine) unavailable(err error) error {
	if client.IsErrConnectionFailed(err) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EACCES) {
		// The client's error hides the system's error.
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

// restartTimeout is how long to wait for an engine that is restarting.
const restartTimeout = 45 * time.Second

// withRetry runs f, which must be repeatable, and runs it again if the engine restarted
// meanwhile.
func (e *Engine) withRetry(ctx context.Context, f func(*client.Client) error) error {
	api, err := e.connect()
	if err != nil {
		return err
	}
	until := time.Now().Add(restartTimeout)
	for {
		err := f(api)
		if !connectionLost(err) && !e.isShuttingDown(ctx, api, err) {
			return err
		}
		if err = e.unavailable(err); isPermanent(err) && time.Now().Add(restartTimeout-3*time.Second).After(until) {
			return err // it was never available
		}
		for {
			if serr := poll.Sleep(ctx, 300*time.Millisecond); serr != nil {
				return fmt.Errorf("%w: %w", serr, err)
			}
			if e.responds(ctx, api) {
				break
			}
			if time.Now().After(until) {
				return err
			}
		}
		e.resetCache()
	}
}

// connectionLost reports whether err means that the engine itself is gone.
func connectionLost(err error) bool {
	if err == nil {
		return false
	}
	if client.IsErrConnectionFailed(err) || errdefs.IsUnavailable(err) {
		return true
	}
	text := err.Error() // an interrupted response has no error type
	for _, s := range []string{"EOF", "connection reset by peer", "broken pipe", "connection refused", "shutting down"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// isShuttingDown reports whether err may be caused by the engine's shutdown: then it reports
// errors of whichever of its parts ended first.
func (e *Engine) isShuttingDown(ctx context.Context, api *client.Client, err error) bool {
	f, is := errors.AsType[*CommandError](err)
	if err == nil || ctx.Err() != nil || is && (f.Code != 0 || f.UserFault) || !is && !errdefs.IsInternal(err) && !errdefs.IsInvalidArgument(err) {
		return false
	}
	for range 5 {
		if poll.Sleep(ctx, 200*time.Millisecond) != nil {
			return false
		}
		if !e.responds(ctx, api) && ctx.Err() == nil {
			return true
		}
	}
	return false
}

// responds reports whether the engine answers and accepts new connections: while it shuts
// down, it still serves existing ones.
func (e *Engine) responds(ctx context.Context, api *client.Client) bool {
	c, err := dial(e.path)
	if err != nil {
		return false
	}
	c.Close()
	_, err = api.Ping(ctx, client.PingOptions{})
	return err == nil
}

func isPermanent(err error) bool {
	return errors.Is(err, fs.ErrPermission)
}

// resetCache discards what is known about the engine: another one may have replaced it.
func (e *Engine) resetCache() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.ids)
	clear(e.networks)
	e.info = nil
}

// nameLock serializes operations on one name.
type nameLock struct {
	waiting int
	mu      sync.Mutex
}

// withLock runs f while no other operation on the same name runs.
func (e *Engine) withLock(name string, f func() error) error {
	e.mu.Lock()
	t := e.busy[name]
	if t == nil {
		t = &nameLock{}
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

// unitsDir is docker.Dir, except in tests.
var unitsDir = docker.Dir

// readUnit reads a unit's file, and returns its digest.
func readUnit(unit string, v any) (digest.Digest, error) {
	raw, err := os.ReadFile(filepath.Join(unitsDir, unit))
	if err != nil {
		return "", err
	}
	if err := spec.DecodeStrict(raw, v); err != nil {
		return "", fmt.Errorf("%s/%s is damaged: %w", docker.Dir, unit, err)
	}
	return digest.Bytes(raw), nil
}

// Creating sets the generation that labels of new containers of a scope name.
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
