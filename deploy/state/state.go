// Package state stores generations, objects, the head of each environment and
// leases.
//
// It knows bytes, numbers and time limits. It refuses to know what a unit is
// for. Invariants: an object never changes under its digest; the head moves
// only by compare-and-swap, to a generation that is completely written; tokens
// only increase, also after a lease was lost.
package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/poll"
)

// Head names the newest generation. The zero Head means that there is none.
type Head struct {
	Generation int           `json:"generation"`
	Object     digest.Digest `json:"object"` // of the Generation
}

// ErrHeadMoved is returned if the head is not the one that the caller expects.
var ErrHeadMoved = errors.New("another process has changed the state in the meantime")

// ErrNotFound is returned if the state has no such object.
var ErrNotFound = errors.New("not in the state")

// Store keeps one environment of one deployment. Every implementation passes statetest.Run.
type Store interface {
	// Head returns the newest generation; the zero Head means that there is none.
	Head(ctx context.Context) (Head, error)
	// Swap moves the head from old to new. If the head is not old it changes
	// nothing and returns ErrHeadMoved.
	Swap(ctx context.Context, old, new Head) error
	// Get reads an object and verifies its digest. It returns ErrNotFound if
	// there is no such object.
	Get(ctx context.Context, d digest.Digest) ([]byte, error)
	// Put stores objects durably, all or none. Objects that are already stored
	// are not written again.
	Put(ctx context.Context, objects ...[]byte) error
	// Oldest returns the oldest generation that is kept; the zero Head means
	// that all are.
	Oldest(ctx context.Context) (Head, error)
	// GC removes the objects that are not live and records oldest as the oldest
	// generation that is kept. It returns the number of removed objects and
	// their bytes. With dry it only counts. The caller holds a lease on all addresses.
	GC(ctx context.Context, oldest Head, live func(digest.Digest) bool, dry bool) (count int, size int64, err error)
	// Acquire takes a lease on addresses (none = all). It returns *ErrLeaseHeld
	// if another owner holds an overlapping one.
	Acquire(ctx context.Context, addresses []string, owner Owner, ttl time.Duration) (Lease, error)
	// Renew extends a lease. It fails if the lease is not held any more.
	Renew(ctx context.Context, l Lease, ttl time.Duration) error
	// RaiseToken issues a fencing token greater than above to the holder of a
	// lease, for a machine that remembers the token of another state. Later
	// leases get still greater tokens.
	RaiseToken(ctx context.Context, l Lease, above int64) (int64, error)
	// Release ends a lease. Releasing a lease that is not held is no error.
	Release(ctx context.Context, l Lease) error
}

// Owner is the holder of a lease. Host, Boot, PID and Start let another process
// on the same machine detect that the holder has ended.
type Owner struct {
	Who   string `json:"who"`   // user@host
	Verb  string `json:"verb"`  // the command that it runs
	Host  string `json:"host"`  // host name
	Boot  string `json:"boot"`  // ID of the machine's boot
	PID   int    `json:"pid"`   // process ID
	Start string `json:"start"` // start time of the process, in clock ticks since boot
}

// Lease is the right to change units until it expires.
type Lease struct {
	Token     int64     `json:"token"`               // fencing token
	Addresses []string  `json:"addresses,omitempty"` // none = all
	Owner     Owner     `json:"owner"`
	Expires   time.Time `json:"expires"`
}

// ErrLeaseHeld is returned if another owner holds an overlapping lease.
type ErrLeaseHeld struct{ Holder Lease }

func (e *ErrLeaseHeld) Error() string {
	return fmt.Sprintf("the environment is locked by %s (%s, process %d) until %s at the latest",
		e.Holder.Owner.Who, e.Holder.Owner.Verb, e.Holder.Owner.PID, e.Holder.Expires.Format(time.RFC3339))
}

// Object returns the canonical encoding of v and its digest.
func Object(v any) ([]byte, digest.Digest, error) {
	raw, err := digest.Canonical(v)
	return raw, digest.Bytes(raw), err
}

// Load reads an object and decodes it into v.
func Load(ctx context.Context, s Store, d digest.Digest, v any) error {
	raw, err := s.Get(ctx, d)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

// KeepAlive renews a lease until ctx ends. If a renewal fails it calls lost with
// the cause, and the caller must not start anything more; actions in progress
// are kept from doing harm by their fencing token.
func KeepAlive(ctx context.Context, s Store, l Lease, ttl time.Duration, lost context.CancelCauseFunc) {
	for poll.Sleep(ctx, ttl/3) == nil {
		if err := s.Renew(ctx, l, ttl); err != nil && ctx.Err() == nil {
			lost(err)
			return
		}
	}
}

// WithLease runs f under a lease on all addresses. It returns *ErrLeaseHeld if
// the lease cannot be taken. The context of f ends when the lease is lost.
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
