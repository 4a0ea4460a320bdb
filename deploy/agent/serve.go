package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Both sides say something every beat, if only that they are there. One that
// says nothing for silence has gone without a word: it must not keep the
// machine from others, and nobody waits for it any longer.
var (
	beat    = 10 * time.Second
	silence = 60 * time.Second
)

// Serve answers requests on rw until the other side hangs up or falls silent.
// Requests that carry content are answered in turn; the others may overtake
// each other.
func Serve(rw io.ReadWriter, h *Host) error {
	c := newConn(rw)
	var running sync.WaitGroup
	ctx, gone := context.WithCancel(context.Background()) // nobody is there any more
	silent := make(chan struct{})
	var once sync.Once
	limit := time.AfterFunc(silence, func() { once.Do(func() { close(silent) }) })
	defer limit.Stop()
	c.heard = func() { limit.Reset(silence) }
	over := make(chan error, 1)
	go func() { over <- serve(ctx, c, h, &running) }()
	defer gone()
	select {
	case err := <-over:
		gone()
		running.Wait()
		h.Close()
		return err
	case <-silent:
		gone()
		running.Wait()
		if h.mu.TryLock() { // else it waits for content that will never come, and the lock goes with the process
			h.mu.Unlock()
			h.Close()
		}
		return errors.New("the other side has fallen silent")
	}
}

func serve(ctx context.Context, c *conn, h *Host, running *sync.WaitGroup) error {
	var sending sync.Mutex
	answer := func(m *Message, err error) error {
		if err != nil {
			m.Error = err.Error()
			if f, ok := errors.AsType[*ErrStaleToken](err); ok {
				m.StaleToken, m.Address = f.Token, f.Address
			}
			_, m.Unhealthy = errors.AsType[*Unhealthy](err)
		}
		sending.Lock()
		defer sending.Unlock()
		return c.send(m)
	}
	go func() {
		every := time.NewTicker(beat)
		defer every.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-every.C:
			}
			if sending.TryLock() { // what is being sent tells it as well
				c.send(&Message{Kind: "beat"})
				sending.Unlock()
			}
		}
	}()
	for {
		m, err := c.receive()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
			return nil
		}
		if err != nil {
			return err
		}
		if m.Kind == "beat" {
			continue
		}
		if m.Kind == "put" {
			in := &content{c: c}
			err := h.PutArtifact(*m.Artifact, m.Offset, in)
			if _, rest := io.Copy(io.Discard, in); rest != nil { // what a failed put left unread
				return rest
			}
			if err := answer(&Message{Kind: m.Kind, ID: m.ID}, err); err != nil {
				return err
			}
			continue
		}
		if m.Kind == "logs" {
			running.Go(func() {
				err := h.Logs(ctx, m.Scope, m.Address, m.Number, m.Follow, func(l []Line) error {
					return answer(&Message{Kind: m.Kind, ID: m.ID, Lines: l, More: true}, nil)
				})
				answer(&Message{Kind: m.Kind, ID: m.ID}, err)
			})
			continue
		}
		running.Go(func() {
			out, err := h.handle(ctx, m)
			out.Kind, out.ID = m.Kind, m.ID
			answer(out, err) // if the other side is gone, receive says so
		})
	}
}

func (h *Host) handle(ctx context.Context, m *Message) (*Message, error) {
	out := &Message{}
	var err error
	switch m.Kind {
	case "hello":
		out.Protocol = Protocol
		if m.Protocol != Protocol {
			err = fmt.Errorf("the agent speaks protocol %d, defx %d: use the same version on both sides", Protocol, m.Protocol)
		}
	case "manifest":
		out.Units, err = h.Units(m.Scope)
	case "fence":
		if err = h.Fence(m.Scope, m.Token, m.Addresses); err == nil {
			h.making(m.Scope, m.Number)
		}
	case "missing":
		if out.Digests, err = h.Missing(m.Digests); err == nil {
			for _, d := range out.Digests {
				out.Arrived = append(out.Arrived, h.UploadOffset(d))
			}
		}
	case "do":
		out.Entry, err = h.ApplyUnit(ctx, m.Scope, m.Address, m.Token, m.Unit, m.Values, time.Duration(m.Timeout)*time.Second)
	case "retire":
		err = h.Retire(ctx, m.Scope, m.Address, m.Token, time.Duration(m.Timeout)*time.Second)
	case "settle":
		err = h.FlushManifest(ctx, m.Scope, m.Number)
	case "look":
		out.Statuses, err = h.Status(ctx, m.Scope, m.Addresses)
	case "info":
		out.Info, err = h.Info(ctx)
	case "object":
		if len(m.Digests) != 1 {
			return out, errors.New("one object at a time")
		}
		out.Object, err = h.Object(m.Digests[0])
	case "engine":
		h.UseEngine(m.Engine)
	case "orphans":
		out.Names, err = h.Orphans(ctx, m.Scope)
	case "restart":
		err = h.Restart(ctx, m.Scope, m.Address)
	case "collect":
		out.Freed, out.Names, err = h.Collect(m.Digests, m.Dry)
	default:
		err = fmt.Errorf("the agent knows no request %q", m.Kind)
	}
	return out, err
}
