// Package state keeps generations, objects, the head of each environment and
// leases.
//
// It knows bytes, numbers and time limits. It refuses to know what a unit is
// for. Invariants: an object never changes under its digest; the head moves
// only by compare-and-swap, to a generation that is wholly written; a lease's
// token only rises, even over lost leases.
package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/defx-dev/defx/internal/digest"
)

// Head names the newest generation. The zero Head means that there is none.
type Head struct {
	Generation int           `json:"generation"`
	Object     digest.Digest `json:"object"` // of the Generation
}

// ErrHeadMoved means that the head is not where the caller thought.
var ErrHeadMoved = errors.New("the state moved on meanwhile")

// ErrNotFound means that there is no such object.
var ErrNotFound = errors.New("not in the state")

// Store keeps one environment of one deployment. Every implementation passes statetest.Run.
type Store interface {
	// Head reads the newest generation's name.
	Head(ctx context.Context) (Head, error)
	// Swap moves the head from old to new, or fails with ErrMoved and changes nothing.
	Swap(ctx context.Context, old, new Head) error
	// Get reads an object and checks its digest; ErrAbsent if there is none.
	Get(ctx context.Context, d digest.Digest) ([]byte, error)
	// Put keeps objects durably, all or none. Those there already cost nothing.
	Put(ctx context.Context, objects ...[]byte) error
	// Oldest names the oldest generation that is kept; the zero Head means that all are.
	Oldest(ctx context.Context) (Head, error)
	// GC removes the objects that are not live, or only counts them and their bytes. From then on no
	// generation older than oldest is kept. The caller holds a lease on all addresses.
	GC(ctx context.Context, oldest Head, live func(digest.Digest) bool, dry bool) (count int, size int64, err error)
	// Acquire takes a lease on addresses (none = all), or fails with *Busy.
	Acquire(ctx context.Context, addresses []string, owner Owner, ttl time.Duration) (Lease, error)
	// Renew extends a lease that is still held.
	Renew(ctx context.Context, l Lease, ttl time.Duration) error
	// RaiseToken gives the holder of a lease a fencing token above one that a machine remembers
	// from another state; above that, later leases begin.
	RaiseToken(ctx context.Context, l Lease, above int64) (int64, error)
	// Release ends a lease. One that is gone already is no error.
	Release(ctx context.Context, l Lease) error
}

// Owner says who holds a lease. Host, Boot, PID and Start let another process
// on the same machine see that the holder is dead.
type Owner struct {
	Who   string `json:"who"`   // user@host
	Verb  string `json:"verb"`  // what it does
	Host  string `json:"host"`  //
	Boot  string `json:"boot"`  // id of the machine's boot
	PID   int    `json:"pid"`   //
	Start string `json:"start"` // when the process began, in the kernel's own count
}

// Lease is the right to change units until it expires.
type Lease struct {
	Token     int64     `json:"token"`               // fencing token
	Addresses []string  `json:"addresses,omitempty"` // none = all
	Owner     Owner     `json:"owner"`
	Expires   time.Time `json:"expires"`
}

// ErrLeaseHeld means that somebody else holds an overlapping lease.
type ErrLeaseHeld struct{ Holder Lease }

func (b *ErrLeaseHeld) Error() string {
	return fmt.Sprintf("%s is at work on this environment (%s, process %d) until %s at the latest",
		b.Holder.Owner.Who, b.Holder.Owner.Verb, b.Holder.Owner.PID, b.Holder.Expires.Format(time.RFC3339))
}

// Object encodes v canonically and names it.
func Object(v any) ([]byte, digest.Digest, error) {
	raw, err := digest.Canonical(v)
	return raw, digest.Bytes(raw), err
}

// Load reads an object into v.
func Load(ctx context.Context, s Store, d digest.Digest, v any) error {
	raw, err := s.Get(ctx, d)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

// KeepAlive keeps a lease alive until ctx ends. When that fails nothing more is to be
// begun: lost is told why. The fencing token keeps what is under way from doing harm.
func KeepAlive(ctx context.Context, s Store, l Lease, ttl time.Duration, lost context.CancelCauseFunc) {
	every := time.NewTicker(ttl / 3)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
			if err := s.Renew(ctx, l, ttl); err != nil && ctx.Err() == nil {
				lost(err)
				return
			}
		}
	}
}

// WithLease runs f under a lease on all addresses, or fails with *Busy. The context of f
// ends when the lease is lost.
func WithLease(ctx context.Context, s Store, verb string, f func(context.Context) error) error {
	const ttl = 30 * time.Second
	l, err := s.Acquire(ctx, nil, CurrentOwner(verb), ttl)
	if err != nil {
		return err
	}
	defer s.Release(context.WithoutCancel(ctx), l)
	held, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	go KeepAlive(held, s, l, ttl, lost)
	if err := f(held); err != nil {
		return errors.Join(err, context.Cause(held))
	}
	return context.Cause(held)
}
