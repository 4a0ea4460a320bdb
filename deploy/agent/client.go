package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
)

// Client sends requests to an agent over a connection. Its methods may be called
// concurrently.
type Client struct {
	Name string // of the machine, for hints; may be empty

	rw      io.ReadWriteCloser
	c       *conn
	sending sync.Mutex

	last atomic.Int64 // when the agent last sent or accepted something, in Unix nanoseconds

	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]chan *Message
	broken  error

	progress map[uint64]chan Progress // request → reports of what it waits for

	closed chan struct{}
	once   sync.Once
}

// NewClient performs the handshake with the agent at the other end of rw.
func NewClient(ctx context.Context, rw io.ReadWriteCloser) (*Client, error) {
	c := &Client{rw: rw, c: newConn(rw), waiting: map[uint64]chan *Message{}, progress: map[uint64]chan Progress{}, closed: make(chan struct{})}
	c.last.Store(time.Now().UnixNano())
	c.c.onReceive = func() { c.last.Store(time.Now().UnixNano()) }
	c.c.onSend = c.c.onReceive
	go c.receive()
	if _, err := c.quickly(ctx, &Message{Kind: "hello", Protocol: Protocol}); err != nil {
		c.Close()
		return nil, err
	}
	go c.heartbeat()
	return c, nil
}

// heartbeat shows the agent that this client is alive, and closes the connection when the
// agent is silent for longer than idleTimeout.
func (c *Client) heartbeat() {
	every := time.NewTicker(heartbeatInterval.get())
	defer every.Stop()
	for {
		select {
		case <-c.closed:
			return
		case <-every.C:
		}
		if time.Since(time.Unix(0, c.last.Load())) > idleTimeout.get() {
			c.fail(errors.New("the agent stopped responding"))
			return
		}
		if c.sending.TryLock() { // a frame being sent serves as a heartbeat
			err := c.c.send(&Message{Kind: "heartbeat"})
			c.sending.Unlock()
			if err != nil {
				return
			}
		}
	}
}

// Close closes the connection; pending requests fail.
func (c *Client) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.rw.Close()
}

func (c *Client) receive() {
	for {
		m, err := c.c.receive()
		if err == nil && m.Progress != nil {
			c.mu.Lock()
			p := c.progress[m.ID]
			c.mu.Unlock()
			select {
			case p <- *m.Progress:
			default: // an earlier report has not been read yet
			}
			continue
		}
		c.mu.Lock()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the agent closed the connection")
			}
			if c.broken == nil {
				c.broken = err
			}
			for _, w := range c.waiting {
				close(w)
			}
			c.waiting = nil
			c.mu.Unlock()
			return
		}
		w := c.waiting[m.ID]
		if !m.More {
			delete(c.waiting, m.ID)
			delete(c.progress, m.ID)
		}
		c.mu.Unlock()
		if w != nil {
			select {
			case w <- m:
			case <-c.closed:
			}
		}
	}
}

// requestTimeout bounds requests that change no unit. It is long enough to wait for another
// apply to release the machine.
const requestTimeout = 90 * time.Second

// quickly is request with requestTimeout.
func (c *Client) quickly(ctx context.Context, m *Message) (*Message, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, fmt.Errorf("the agent did not answer within %s", requestTimeout))
	defer cancel()
	out, err := c.request(ctx, m, nil)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out, err
}

// request sends a message, with content if in is not nil, and waits for the reply.
func (c *Client) request(ctx context.Context, m *Message, in io.Reader) (*Message, error) {
	if progressOf(ctx) != nil {
		m.Follow, m.progress = true, make(chan Progress, 1)
	}
	w, err := c.send(m, in)
	if err != nil {
		return nil, err
	}
	return c.await(ctx, m, w)
}

// send sends a request. Its replies arrive on the returned channel.
func (c *Client) send(m *Message, in io.Reader) (chan *Message, error) {
	c.mu.Lock()
	if c.broken != nil {
		defer c.mu.Unlock()
		return nil, c.broken
	}
	c.lastID++
	m.ID = c.lastID
	w := make(chan *Message, 1)
	c.waiting[m.ID] = w
	if m.progress != nil {
		c.progress[m.ID] = m.progress
	}
	c.mu.Unlock()

	c.sending.Lock()
	defer c.sending.Unlock()
	err := c.c.send(m)
	if err == nil && in != nil {
		err = c.c.sendContent(in)
	}
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.broken != nil { // the reason
			err = c.broken
		}
	}
	return w, err
}

func (c *Client) await(ctx context.Context, m *Message, w chan *Message) (*Message, error) {
	for {
		select {
		case <-ctx.Done():
			c.mu.Lock()
			delete(c.waiting, m.ID)
			delete(c.progress, m.ID)
			c.mu.Unlock()
			return nil, ctx.Err()
		case p := <-m.progress:
			progressOf(ctx)(p)
		case out, ok := <-w:
			if !ok {
				c.mu.Lock()
				defer c.mu.Unlock()
				return nil, c.broken
			}
			if out.Error != nil {
				if out.Error.Code == CodeDamaged && out.Error.Hint == "" && c.Name != "" {
					out.Error.Hint = "defx machine repair " + c.Name
				}
				return out, out.Error
			}
			return out, nil
		}
	}
}

// Units returns the deployed units of a scope.
func (c *Client) Units(ctx context.Context, scope string) (map[string]*Entry, error) {
	s, err := c.Scope(ctx, scope)
	if err != nil {
		return nil, err
	}
	return s.Units, nil
}

// Scope returns what the machine knows of a scope.
func (c *Client) Scope(ctx context.Context, scope string) (*Scope, error) {
	out, err := c.quickly(ctx, &Message{Kind: "manifest", Scope: scope})
	if err != nil {
		return nil, err
	}
	if out.State == nil {
		return &Scope{}, nil
	}
	return out.State, nil
}

// Fence announces an apply, the addresses that its lease covers (none: all), and
// the generation that it is going to make.
func (c *Client) Fence(ctx context.Context, scope string, by Caller, addresses []string, generation int) error {
	m := &Message{Kind: "fence", Scope: scope, Addresses: addresses, Number: generation}
	_, err := c.quickly(ctx, m.from(by))
	return err
}

// Adopt records a unit that is on the machine but not in its records.
func (c *Client) Adopt(ctx context.Context, scope, address string, by Caller, unit json.RawMessage, values plan.Values) (*Entry, error) {
	m := &Message{Kind: "adopt", Scope: scope, Address: address, Unit: unit, Values: values}
	out, err := c.quickly(ctx, m.from(by))
	if err != nil {
		return nil, err
	}
	return out.Entry, nil
}

// Repair makes damaged records of the machine readable again. It returns the
// files that were kept aside, whose names contain DamagedSuffix, and those that were missing.
func (c *Client) Repair(ctx context.Context) (files []string, err error) {
	out, err := c.quickly(ctx, &Message{Kind: "repair"})
	if err != nil {
		return nil, err
	}
	return out.Names, nil
}

// Missing returns the artifacts that have to be sent, each with the byte to start from.
func (c *Client) Missing(ctx context.Context, digests []digest.Digest) (map[digest.Digest]int64, error) {
	out, err := c.quickly(ctx, &Message{Kind: "missing", Digests: digests})
	if err != nil {
		return nil, err
	}
	missing := map[digest.Digest]int64{}
	for i, d := range out.Digests {
		missing[d] = 0
		if i < len(out.Arrived) {
			missing[d] = out.Arrived[i]
		}
	}
	return missing, nil
}

// stallTimeout is how long an upload may make no progress before it fails.
var stallTimeout = newTimeout(2 * time.Minute)

// Put sends an artifact's content, starting at byte offset. If the machine accepts nothing
// for stallTimeout, Put closes the connection and fails; the upload can be resumed.
func (c *Client) Put(ctx context.Context, a plan.Artifact, offset int64, in io.Reader) error {
	timer := time.AfterFunc(stallTimeout.get(), func() {
		c.fail(fmt.Errorf("the machine accepted nothing of artifact %s for %s", a.Path, stallTimeout.get()))
	})
	defer timer.Stop()
	_, err := c.request(ctx, &Message{Kind: "put", Artifact: &a, Offset: offset}, &uploadReader{in, timer})
	return err
}

// uploadReader restarts the timer for each piece of content that is read, because then the
// piece before has been accepted, and stops it at the end.
type uploadReader struct {
	r     io.Reader
	timer *time.Timer
}

func (u *uploadReader) Read(b []byte) (int, error) {
	n, err := u.r.Read(b)
	if err != nil {
		u.timer.Stop()
	} else {
		u.timer.Reset(stallTimeout.get())
	}
	return n, err
}

// fail closes the connection, so that pending requests fail with err.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.broken == nil {
		c.broken = err
	}
	c.mu.Unlock()
	c.rw.Close()
}

// ApplyUnit creates or updates a unit, or deletes it if unit is nil. It returns the entry
// that is deployed afterwards, even on an error; known reports whether the agent returned
// one. After limit (0 = 10 minutes), and in addition the time that the unit's own settings
// allow, the previous version is restored; ctx must leave time for that.
func (c *Client) ApplyUnit(ctx context.Context, scope, address string, by Caller, unit json.RawMessage, values plan.Values, limit time.Duration) (e *Entry, known bool, err error) {
	return c.apply(ctx, (&Message{Kind: "apply", Scope: scope, Address: address, Unit: unit, Values: values, Timeout: seconds(limit)}).from(by))
}

// RenameUnit is ApplyUnit for a unit that has another address on the machine until then. It also
// returns the address at which the unit is deployed afterwards: the former one if that failed.
func (c *Client) RenameUnit(ctx context.Context, scope, former, address string, by Caller, unit json.RawMessage, values plan.Values, stopped bool, limit time.Duration) (e *Entry, at string, known bool, err error) {
	m := (&Message{Kind: "apply", Scope: scope, Address: address, Former: former, Unit: unit, Values: values, Stopped: stopped, Timeout: seconds(limit)}).from(by)
	out, err := c.request(ctx, m, nil)
	if out == nil {
		return nil, "", false, fmt.Errorf("no answer from the agent: %w", err)
	}
	return out.Entry, out.Address, true, err
}

// ApplyStopped is ApplyUnit for a unit that was stopped on purpose: it is not started.
func (c *Client) ApplyStopped(ctx context.Context, scope, address string, by Caller, unit json.RawMessage, values plan.Values, limit time.Duration) (e *Entry, known bool, err error) {
	return c.apply(ctx, (&Message{Kind: "apply", Scope: scope, Address: address, Unit: unit, Values: values, Stopped: true, Timeout: seconds(limit)}).from(by))
}

func (c *Client) apply(ctx context.Context, m *Message) (e *Entry, known bool, err error) {
	out, err := c.request(ctx, m, nil)
	if out == nil {
		return nil, false, fmt.Errorf("no answer from the agent: %w", err)
	}
	return out.Entry, true, err
}

// seconds rounds a limit up to seconds; 0 stays 0.
func seconds(limit time.Duration) int { return int((limit + time.Second - 1) / time.Second) }

// Retire runs the command that a unit's retire field names, before the unit is deleted for
// good. It fails after limit (0 = 10 minutes).
func (c *Client) Retire(ctx context.Context, scope, address string, by Caller, limit time.Duration) error {
	_, err := c.request(ctx, (&Message{Kind: "retire", Scope: scope, Address: address, Timeout: seconds(limit)}).from(by), nil)
	return err
}

// Settle checks once more that the versions that were started over this connection still run,
// and returns how those ended that do not.
func (c *Client) Settle(ctx context.Context, scope string, addresses []string) (map[string]*Error, error) {
	out, err := c.quickly(ctx, &Message{Kind: "settle", Scope: scope, Addresses: addresses})
	if err != nil {
		return nil, err
	}
	return out.Failures, nil
}

// FlushManifest ends an apply on the machine: the journal is merged into the manifest.
func (c *Client) FlushManifest(ctx context.Context, scope string, generation int) error {
	_, err := c.quickly(ctx, &Message{Kind: "flush", Scope: scope, Number: generation})
	return err
}

// Status returns the status of the units of a scope. No addresses means all.
func (c *Client) Status(ctx context.Context, scope string, addresses ...string) (map[string]*UnitStatus, error) {
	out, err := c.quickly(ctx, &Message{Kind: "status", Scope: scope, Addresses: addresses})
	if err != nil {
		return nil, err
	}
	return out.Statuses, nil
}

// Refresh compares the units of a scope with what was deployed, in one exchange of frames.
func (c *Client) Refresh(ctx context.Context, q RefreshRequest) (*Refreshed, error) {
	out, err := c.quickly(ctx, &Message{Kind: "refresh", Scope: q.Scope, Addresses: q.Addresses, Data: q.Data, Details: q.Details})
	if err != nil {
		return nil, err
	}
	if out.Refreshed == nil {
		return nil, errors.New("the agent sent no answer to the refresh")
	}
	return out.Refreshed, nil
}

// Broken returns why the connection cannot be used any more; nil if it can.
func (c *Client) Broken() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

// PrepareRepair prepares a unit that somebody changed for being applied again. It returns the paths of
// copies of edited files. empty allows it to start without its data; keepOnly is for a unit that is
// about to be deleted.
func (c *Client) PrepareRepair(ctx context.Context, scope, address string, by Caller, empty, keepOnly bool) (kept []string, err error) {
	out, err := c.request(ctx, (&Message{Kind: "prepare", Scope: scope, Address: address, Empty: empty, KeepOnly: keepOnly}).from(by), nil)
	if err != nil {
		return nil, err
	}
	return out.Names, nil
}

// SetStopped stops a unit, so that it does not start at a boot either, or starts it again. It fails
// after limit (0 = 10 minutes), and in addition the time that the unit's own settings allow. It returns the entry afterwards, if the agent
// returned one, even on an error.
func (c *Client) SetStopped(ctx context.Context, scope, address string, by Caller, stopped bool, limit time.Duration) (*Entry, error) {
	m := (&Message{Kind: "stop", Scope: scope, Address: address, Stopped: stopped, Timeout: seconds(limit)}).from(by)
	out, err := c.request(ctx, m, nil)
	if out == nil {
		return nil, err
	}
	return out.Entry, err
}

// Info returns facts about the machine.
func (c *Client) Info(ctx context.Context) (*Info, error) {
	out, err := c.quickly(ctx, &Message{Kind: "info"})
	if err != nil {
		return nil, err
	}
	return out.Info, nil
}

// Object returns the canonical bytes of a deployed unit.
func (c *Client) Object(ctx context.Context, d digest.Digest) ([]byte, error) {
	out, err := c.quickly(ctx, &Message{Kind: "object", Digests: []digest.Digest{d}})
	if err != nil {
		return nil, err
	}
	if digest.Bytes(out.Object) != d {
		return nil, fmt.Errorf("received content is not object %s", d.Short())
	}
	return out.Object, nil
}

// UseEngine sets where the machine's docker engine listens. It must precede requests that
// use it.
func (c *Client) UseEngine(ctx context.Context, socket string) error {
	_, err := c.quickly(ctx, &Message{Kind: "engine", Engine: socket})
	return err
}

// Orphans returns containers, networks and volumes of a scope that no deployed unit needs.
func (c *Client) Orphans(ctx context.Context, scope string) ([]string, error) {
	out, err := c.quickly(ctx, &Message{Kind: "orphans", Scope: scope})
	if err != nil {
		return nil, err
	}
	return out.Names, nil
}

// Restart restarts a unit without changing it, and waits until it is ready.
func (c *Client) Restart(ctx context.Context, scope, address string) error {
	_, err := c.request(ctx, &Message{Kind: "restart", Scope: scope, Address: address}, nil)
	return err
}

// Collect deletes what no deployed unit needs from the store, except keep.
func (c *Client) Collect(ctx context.Context, keep []digest.Digest, dry bool) (freed uint64, names []string, err error) {
	out, err := c.request(ctx, &Message{Kind: "collect", Digests: keep, Dry: dry}, nil)
	if err != nil {
		return 0, nil, err
	}
	return out.Freed, out.Names, nil
}

// Logs passes the last n lines of a unit to each, and with follow new lines until ctx ends.
func (c *Client) Logs(ctx context.Context, scope, address string, n int, follow bool, each func(Line)) error {
	return c.LogsOf(ctx, scope, address, nil, n, follow, each)
}

// LogsOf is Logs for a unit that may not be deployed: then e names it.
func (c *Client) LogsOf(ctx context.Context, scope, address string, e *Entry, n int, follow bool, each func(Line)) error {
	m := &Message{Kind: "logs", Scope: scope, Address: address, Entry: e, Number: n, Follow: follow}
	w, err := c.send(m, nil)
	if err != nil {
		return err
	}
	for {
		out, err := c.await(ctx, m, w)
		if err != nil {
			return err
		}
		for _, l := range out.Lines {
			each(l)
		}
		if !out.More {
			return nil
		}
	}
}
