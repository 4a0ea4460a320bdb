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

// Client asks an agent over a connection. Its methods may be called at once
// from many goroutines.
type Client struct {
	rw      io.ReadWriteCloser
	c       *conn
	sending sync.Mutex

	last atomic.Int64 // when the agent last took or said something

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan *Message
	broken  error

	closed chan struct{}
	once   sync.Once
}

// NewClient greets the agent at the other end.
func NewClient(ctx context.Context, rw io.ReadWriteCloser) (*Client, error) {
	c := &Client{rw: rw, c: newConn(rw), waiting: map[uint64]chan *Message{}, closed: make(chan struct{})}
	c.last.Store(time.Now().UnixNano())
	c.c.heard = func() { c.last.Store(time.Now().UnixNano()) }
	c.c.wrote = c.c.heard
	go c.receive()
	if _, err := c.quickly(ctx, &Message{Kind: "hello", Protocol: Protocol}); err != nil {
		c.Close()
		return nil, err
	}
	go c.beat()
	return c, nil
}

// beat tells the agent that we are there.
func (c *Client) beat() {
	every := time.NewTicker(beat)
	defer every.Stop()
	for {
		select {
		case <-c.closed:
			return
		case <-every.C:
		}
		if time.Since(time.Unix(0, c.last.Load())) > silence {
			c.mu.Lock()
			c.broken = errors.New("the agent has fallen silent")
			c.mu.Unlock()
			c.rw.Close() // whoever waits for it sees that
			return
		}
		if c.sending.TryLock() { // what is being sent tells it as well
			err := c.c.send(&Message{Kind: "beat"})
			c.sending.Unlock()
			if err != nil {
				return
			}
		}
	}
}

// Close hangs up; requests under way fail.
func (c *Client) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.rw.Close()
}

func (c *Client) receive() {
	for {
		m, err := c.c.receive()
		c.mu.Lock()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the agent hung up")
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

// soon is how long the agent may take for what touches no unit: it may have to
// wait for another one to leave the machine.
const soon = 90 * time.Second

// quickly asks for what touches no unit.
func (c *Client) quickly(ctx context.Context, m *Message) (*Message, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, soon, fmt.Errorf("the agent does not answer for %s", soon))
	defer cancel()
	out, err := c.ask(ctx, m, nil)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out, err
}

// ask sends a request, and content if there is any, and waits for the answer.
func (c *Client) ask(ctx context.Context, m *Message, in io.Reader) (*Message, error) {
	w, err := c.begin(m, in)
	if err != nil {
		return nil, err
	}
	return c.answer(ctx, m, w)
}

// begin sends a request. Its answers come out of the channel.
func (c *Client) begin(m *Message, in io.Reader) (chan *Message, error) {
	c.mu.Lock()
	if c.broken != nil {
		defer c.mu.Unlock()
		return nil, c.broken
	}
	c.next++
	m.ID = c.next
	w := make(chan *Message, 1)
	c.waiting[m.ID] = w
	c.mu.Unlock()

	c.sending.Lock()
	defer c.sending.Unlock()
	err := c.c.send(m)
	if err == nil && in != nil {
		err = c.c.sendContent(in)
	}
	return w, err
}

func (c *Client) answer(ctx context.Context, m *Message, w chan *Message) (*Message, error) {
	select {
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.waiting, m.ID)
		c.mu.Unlock()
		return nil, ctx.Err()
	case out, ok := <-w:
		if !ok {
			c.mu.Lock()
			defer c.mu.Unlock()
			return nil, c.broken
		}
		switch {
		case out.StaleToken != 0:
			return out, &ErrStaleToken{Address: out.Address, Token: out.StaleToken}
		case out.Unhealthy:
			return out, &Unhealthy{errors.New(out.Error)}
		case out.Error != "":
			return out, errors.New(out.Error)
		}
		return out, nil
	}
}

// Units asks what stands of a scope.
func (c *Client) Units(ctx context.Context, scope string) (map[string]*Entry, error) {
	out, err := c.quickly(ctx, &Message{Kind: "manifest", Scope: scope})
	if err != nil {
		return nil, err
	}
	return out.Units, nil
}

// Fence announces a lease, and the generation that is made under it.
func (c *Client) Fence(ctx context.Context, scope string, token int64, addresses []string, generation int) error {
	_, err := c.quickly(ctx, &Message{Kind: "fence", Scope: scope, Token: token, Addresses: addresses, Number: generation})
	return err
}

// Missing asks which artifacts are to be sent, and from which byte on.
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

// Put sends an artifact's content from a byte on.
func (c *Client) Put(ctx context.Context, a plan.Artifact, offset int64, in io.Reader) error {
	_, err := c.ask(ctx, &Message{Kind: "put", Artifact: &a, Offset: offset}, in)
	return err
}

// ApplyUnit makes a unit what it should be, or deletes it if unit is nil. The entry
// is what stands afterwards, even when there is an error; known tells whether
// the agent said so.
func (c *Client) ApplyUnit(ctx context.Context, scope, address string, token int64, unit json.RawMessage, values plan.Values) (e *Entry, known bool, err error) {
	m := &Message{Kind: "do", Scope: scope, Address: address, Token: token, Unit: unit, Values: values}
	if until, ok := ctx.Deadline(); ok { // what is left is for going back
		m.Timeout = max(1, int(time.Until(until).Seconds()*0.8))
	}
	out, err := c.ask(ctx, m, nil)
	if out == nil {
		return nil, false, fmt.Errorf("no answer from the agent: %w", err)
	}
	return out.Entry, true, err
}

// Retire does what a unit wants done before it goes for good.
func (c *Client) Retire(ctx context.Context, scope, address string, token int64) error {
	m := &Message{Kind: "retire", Scope: scope, Address: address, Token: token}
	if until, ok := ctx.Deadline(); ok {
		m.Timeout = max(1, int(time.Until(until).Seconds()*0.8))
	}
	_, err := c.ask(ctx, m, nil)
	return err
}

// FlushManifest ends an apply on the machine: its manifest becomes whole.
func (c *Client) FlushManifest(ctx context.Context, scope string, generation int) error {
	_, err := c.quickly(ctx, &Message{Kind: "settle", Scope: scope, Number: generation})
	return err
}

// Status asks how the units of a scope are. No addresses = all.
func (c *Client) Status(ctx context.Context, scope string, addresses ...string) (map[string]*UnitStatus, error) {
	out, err := c.quickly(ctx, &Message{Kind: "look", Scope: scope, Addresses: addresses})
	if err != nil {
		return nil, err
	}
	return out.Statuses, nil
}

// Info asks what the machine tells of itself.
func (c *Client) Info(ctx context.Context) (*Info, error) {
	out, err := c.quickly(ctx, &Message{Kind: "info"})
	if err != nil {
		return nil, err
	}
	return out.Info, nil
}

// Object asks for the bytes of a unit that stands.
func (c *Client) Object(ctx context.Context, d digest.Digest) ([]byte, error) {
	out, err := c.quickly(ctx, &Message{Kind: "object", Digests: []digest.Digest{d}})
	if err != nil {
		return nil, err
	}
	if digest.Bytes(out.Object) != d {
		return nil, fmt.Errorf("what arrived is not object %s", d.Short())
	}
	return out.Object, nil
}

// UseEngine says where the machine's docker engine listens, before anything is asked of it.
func (c *Client) UseEngine(ctx context.Context, socket string) error {
	_, err := c.quickly(ctx, &Message{Kind: "engine", Engine: socket})
	return err
}

// Orphans asks for what runs in a scope's name and nothing that stands leads to.
func (c *Client) Orphans(ctx context.Context, scope string) ([]string, error) {
	out, err := c.quickly(ctx, &Message{Kind: "orphans", Scope: scope})
	if err != nil {
		return nil, err
	}
	return out.Names, nil
}

// Restart starts a unit anew, as it stands, and waits until it is ready.
func (c *Client) Restart(ctx context.Context, scope, address string) error {
	_, err := c.ask(ctx, &Message{Kind: "restart", Scope: scope, Address: address}, nil)
	return err
}

// Collect removes from the store what nothing leads to, but for what is kept.
func (c *Client) Collect(ctx context.Context, keep []digest.Digest, dry bool) (freed uint64, names []string, err error) {
	out, err := c.ask(ctx, &Message{Kind: "collect", Digests: keep, Dry: dry}, nil)
	if err != nil {
		return 0, nil, err
	}
	return out.Freed, out.Names, nil
}

// Logs gives the last n lines of a unit, and with follow what comes until ctx
// ends. While it goes on, nothing else can be asked over this connection.
func (c *Client) Logs(ctx context.Context, scope, address string, n int, follow bool, each func(Line)) error {
	m := &Message{Kind: "logs", Scope: scope, Address: address, Number: n, Follow: follow}
	w, err := c.begin(m, nil)
	if err != nil {
		return err
	}
	for {
		out, err := c.answer(ctx, m, w)
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
