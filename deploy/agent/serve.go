package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Each side sends a message at least every heartbeatInterval. A peer that is silent for
// idleTimeout is considered gone: it must not keep the machine locked, and nobody waits for
// it any longer.
var (
	heartbeatInterval = newTimeout(10 * time.Second)
	idleTimeout       = newTimeout(60 * time.Second)
)

// timeout is a duration that a test may shorten while connections of earlier tests still read it.
type timeout struct{ nanoseconds atomic.Int64 }

func newTimeout(d time.Duration) *timeout {
	t := &timeout{}
	t.set(d)
	return t
}

func (t *timeout) get() time.Duration  { return time.Duration(t.nanoseconds.Load()) }
func (t *timeout) set(d time.Duration) { t.nanoseconds.Store(int64(d)) }

// Serve answers requests on rw until the peer closes the connection, is silent for
// idleTimeout, or ctx ends. Requests with content are handled one after the other; others
// run concurrently.
func Serve(ctx context.Context, rw io.ReadWriter, h *Host) error {
	c := newConn(rw)
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx) // ends when the peer is gone
	idle := make(chan struct{})
	var once sync.Once
	limit := time.AfterFunc(idleTimeout.get(), func() { once.Do(func() { close(idle) }) })
	defer limit.Stop()
	c.onReceive = func() { limit.Reset(idleTimeout.get()) }
	done := make(chan error, 1)
	go func() { done <- serve(ctx, c, h, &running) }()
	defer cancel()
	var err error
	select {
	case err = <-done:
		cancel()
		running.Wait()
		h.Close()
		return err
	case <-idle:
		err = errors.New("the peer stopped responding")
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	cancel()
	running.Wait()
	if h.mu.TryLock() { // otherwise a handler waits for content that never comes
		h.mu.Unlock()
		h.Close()
	} else {
		go h.Close() // in a process that goes on, the handler ends with the connection
	}
	return err
}

func serve(ctx context.Context, c *conn, h *Host, running *sync.WaitGroup) error {
	var sending sync.Mutex
	reply := func(m *Message, err error) error {
		if err != nil {
			m.Error = newError(err)
		}
		sending.Lock()
		defer sending.Unlock()
		return c.send(m)
	}
	go func() {
		every := time.NewTicker(heartbeatInterval.get())
		defer every.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-every.C:
			}
			if sending.TryLock() { // a message being sent serves as a heartbeat
				c.send(&Message{Kind: "heartbeat"})
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
		if m.Kind == "heartbeat" {
			continue
		}
		if m.Kind == "put" {
			in := &content{c: c}
			err := h.PutArtifact(ctx, *m.Artifact, m.Offset, in)
			if _, err := io.Copy(io.Discard, in); err != nil { // left unread by a failed upload
				return err
			}
			if err := reply(&Message{Kind: m.Kind, ID: m.ID}, err); err != nil {
				return err
			}
			continue
		}
		if m.Kind == "logs" {
			running.Go(func() {
				err := h.logs(ctx, m.Scope, m.Address, m.Entry, m.Number, m.Follow, func(l []Line) error {
					return reply(&Message{Kind: m.Kind, ID: m.ID, Lines: l, More: true}, nil)
				})
				reply(&Message{Kind: m.Kind, ID: m.ID}, err)
			})
			continue
		}
		running.Go(func() {
			ctx := ctx
			if m.Follow {
				ctx = WithProgress(ctx, limitRate(func(p Progress) { reply(&Message{Kind: m.Kind, ID: m.ID, Progress: &p, More: true}, nil) }))
			}
			out, err := h.handle(ctx, m)
			out.Kind, out.ID = m.Kind, m.ID
			reply(out, err) // if the peer is gone, receive reports it
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
		out.State, err = h.Scope(m.Scope)
	case "fence":
		if err = h.Fence(ctx, m.Scope, m.caller(), m.Addresses); err == nil {
			h.setGeneration(m.Scope, m.Number)
		}
	case "missing":
		if out.Digests, err = h.Missing(m.Digests); err == nil {
			for _, d := range out.Digests {
				out.Arrived = append(out.Arrived, h.UploadOffset(d))
			}
		}
	case "apply":
		out.Entry, err = h.applyUnit(ctx, m.Scope, m.Address, m.caller(), m.Unit, m.Values, m.Former, m.Stopped, time.Duration(m.Timeout)*time.Second)
		if out.Address = m.Address; err != nil && h.has(m.Scope, m.Former) { // it was not renamed
			out.Address = m.Former
		}
	case "adopt":
		out.Entry, err = h.Adopt(ctx, m.Scope, m.Address, m.caller(), m.Unit, m.Values)
	case "repair":
		out.Names, err = h.Repair(ctx)
	case "retire":
		err = h.Retire(ctx, m.Scope, m.Address, m.caller(), time.Duration(m.Timeout)*time.Second)
	case "flush":
		err = h.FlushManifest(ctx, m.Scope, m.Number)
	case "settle":
		out.Failures, err = h.Settle(ctx, m.Scope, m.Addresses)
	case "refresh":
		out.Refreshed, err = h.Refresh(ctx, RefreshRequest{Scope: m.Scope, Addresses: m.Addresses, Data: m.Data, Details: m.Details})
	case "prepare":
		out.Names, err = h.PrepareRepair(ctx, m.Scope, m.Address, m.caller(), m.Empty, m.KeepOnly)
	case "stop":
		out.Entry, err = h.SetStopped(ctx, m.Scope, m.Address, m.caller(), m.Stopped, time.Duration(m.Timeout)*time.Second)
	case "status":
		out.Statuses, err = h.Status(ctx, m.Scope, m.Addresses)
	case "info":
		out.Info, err = h.Info(ctx)
	case "object":
		if len(m.Digests) != 1 {
			return out, errors.New("the request must name one object")
		}
		out.Object, err = h.Object(m.Digests[0])
	case "engine":
		h.UseEngine(m.Engine)
	case "orphans":
		out.Names, err = h.Orphans(ctx, m.Scope)
	case "restart":
		err = h.Restart(ctx, m.Scope, m.Address)
	case "collect":
		out.Freed, out.Names, err = h.Collect(ctx, m.Digests, m.Dry)
	default:
		err = fmt.Errorf("the agent does not know request %q", m.Kind)
	}
	return out, err
}
