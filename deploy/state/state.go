// Package state stores generations, objects, the head of each environment and
// leases.
//
// It knows bytes, numbers, identities and time limits. It refuses to know what a
// unit is for. Invariants: an object never changes under its digest; the head
// moves only by compare-and-swap, to a generation that is completely written;
// tokens only increase, also after a lease was lost; a lease is taken over only
// after a rival has seen it unchanged for its whole time limit, on the rival's
// own clock; damage is an error that names the file and the command that repairs
// it, never an absence.
package state

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/poll"
)

// Format is the version of the head and of the files beside it. Version 1 had no
// such field.
const Format = 2

// Head names the newest generation, and the applies that have begun and are not
// known to have ended. The zero Head means that nothing was ever written.
type Head struct {
	Format     int           `json:"format"`
	Lineage    string        `json:"lineage"`           // identifies this state; it is made with the first write and never changes
	Generation int           `json:"generation"`        // 0 = none
	Object     digest.Digest `json:"object,omitempty"`  // of the Generation
	Applies    []string      `json:"applies,omitempty"` // the applies that the Generation records: known even if it is lost
	Intents    []Intent      `json:"intents,omitempty"` // in the order in which they began
}

// IsZero reports whether nothing was ever written.
func (h Head) IsZero() bool { return h.Lineage == "" && h.Generation == 0 && len(h.Intents) == 0 }

// Equal reports whether two heads are the same.
func (h Head) Equal(o Head) bool {
	a, errA := digest.Canonical(h)
	b, errB := digest.Canonical(o)
	return errA == nil && errB == nil && string(a) == string(b)
}

// Intent returns the open intent of an apply, or nil.
func (h Head) Intent(apply string) *Intent {
	for i := range h.Intents {
		if h.Intents[i].Apply == apply {
			return &h.Intents[i]
		}
	}
	return nil
}

// Intent announces an apply before its first write on a machine. It stays in the
// head until a generation records what the apply did, so that any other process
// can finish an apply that was killed.
type Intent struct {
	Apply     string        `json:"apply"`          // random ID of the apply
	Base      digest.Digest `json:"base,omitempty"` // object of the generation that it started from; empty = none
	Token     int64         `json:"token"`          // fencing token of its lease
	ChangeSet digest.Digest `json:"changeSet,omitempty"`
	Detail    digest.Digest `json:"detail"` // object of an IntentDetail
	Verb      string        `json:"verb"`
	By        string        `json:"by"` // user@host
	Started   time.Time     `json:"started"`
	Machines  []string      `json:"machines"` // names of machines that it may touch, sorted
}

// NewID returns a random identifier of 32 hexadecimal digits: of an apply, or of
// a lineage.
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// ErrHeadMoved is returned if the head is not the one that the caller expects.
var ErrHeadMoved = errors.New("another process has changed the state in the meantime")

// ErrNotFound is returned if the state has no such object.
var ErrNotFound = errors.New("not in the state")

// Store keeps one environment of one deployment. Every implementation passes statetest.Run.
type Store interface {
	// Head returns the head; the zero Head means that nothing was ever written.
	Head(ctx context.Context) (Head, error)
	// Swap changes the head from old to new. If the head is not old it changes
	// nothing and returns ErrHeadMoved. A new head has the lineage of the old one.
	Swap(ctx context.Context, old, new Head) error
	// Get reads an object and verifies its digest. It returns ErrNotFound if
	// there is no such object.
	Get(ctx context.Context, d digest.Digest) ([]byte, error)
	// Put stores objects durably, all or none. Objects that are already stored
	// are not written again.
	Put(ctx context.Context, objects ...[]byte) error
	// Oldest returns the end of the history that is kept; the zero Oldest means
	// that all of it is.
	Oldest(ctx context.Context) (Oldest, error)
	// GC removes the objects that are not live and records oldest as the end of
	// the kept history. It returns the number of removed objects and their
	// bytes. With dry it only counts. The caller holds a lease on all addresses.
	GC(ctx context.Context, oldest Oldest, live func(digest.Digest) bool, dry bool) (count int, size int64, err error)
	// Acquire takes a lease. It returns *ErrLeaseHeld if another apply holds an
	// overlapping one. It never waits, and never judges whether a holder lives:
	// AcquireWait does.
	Acquire(ctx context.Context, r LeaseRequest) (Lease, error)
	// Renew increments the counter of a lease, which shows others that its
	// holder lives. It returns ErrLeaseLost if the lease is not held any more.
	Renew(ctx context.Context, l Lease) (Lease, error)
	// Break ends the lease of another holder if its token and counter are still
	// those of l. Otherwise it changes nothing; that is no error. The caller has
	// seen l unchanged for l.TTL on its own monotonic clock.
	Break(ctx context.Context, l Lease) error
	// Release ends a lease. Releasing a lease that is not held is no error.
	Release(ctx context.Context, l Lease) error
}

// Oldest is the end of the history that is kept, after older generations were
// removed.
type Oldest struct {
	Format     int           `json:"format"`
	Generation int           `json:"generation"`
	Object     digest.Digest `json:"object"`
	Applies    digest.Digest `json:"applies,omitempty"` // object of a KnownApplies: of the removed generations
}

// Owner is the holder of a lease. It is shown to people; nothing is concluded from it.
type Owner struct {
	Who  string `json:"who"`  // user@host
	Verb string `json:"verb"` // the command that it runs
	Host string `json:"host"` // host name
}

// LeaseRequest is a lease to acquire.
type LeaseRequest struct {
	Addresses []string      // none = all
	Apply     string        // leases of one apply do not exclude each other; "" = this lease excludes all
	Owner     Owner         //
	TTL       time.Duration // how long the lease may stay unchanged until a rival may take it over; 0 = DefaultTTL
}

// DefaultTTL is the time limit of leases in a directory.
const DefaultTTL = 30 * time.Second

// Lease is the right to change units, until it is released or broken.
type Lease struct {
	Token     int64         // fencing token
	Apply     string        //
	Addresses []string      // none = all
	Owner     Owner         //
	Counter   int64         // incremented by each Renew
	TTL       time.Duration //
}

// leaseJSON is the stored form of a lease.
type leaseJSON struct {
	Token     int64    `json:"token"`
	Apply     string   `json:"apply,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	Owner     Owner    `json:"owner"`
	Counter   int64    `json:"counter"`
	TTL       string   `json:"ttl"`
}

// MarshalJSON writes the time limit as a text such as "30s".
func (l Lease) MarshalJSON() ([]byte, error) {
	return json.Marshal(leaseJSON{l.Token, l.Apply, l.Addresses, l.Owner, l.Counter, l.TTL.String()})
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (l *Lease) UnmarshalJSON(raw []byte) error {
	var in leaseJSON
	if err := json.Unmarshal(raw, &in); err != nil {
		return err
	}
	ttl, err := time.ParseDuration(in.TTL)
	if err != nil {
		return err
	}
	*l = Lease{in.Token, in.Apply, in.Addresses, in.Owner, in.Counter, ttl}
	return nil
}

// ErrLeaseHeld is returned if other owners hold overlapping leases.
type ErrLeaseHeld struct{ Holders []Lease }

func (e *ErrLeaseHeld) Error() string {
	h := e.Holders[0]
	others := ""
	if n := len(e.Holders) - 1; n > 0 {
		others = fmt.Sprintf(" and %d more", n)
	}
	what := "the environment"
	if len(h.Addresses) > 0 {
		what = strings.Join(h.Addresses, ", ")
	}
	return fmt.Sprintf("%s is locked by %s (%s)%s; if that lease does not move for %s, it is taken over", what, h.Owner.Who, h.Owner.Verb, others, h.TTL)
}

// ErrLeaseLost is returned if a lease is not held any more.
var ErrLeaseLost = errors.New("the lease was lost: it was not renewed in time, and another process may have taken over")

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

// ensureLineage writes the first head, if there is none. It is the first write
// to a state: whatever else is there without a head was damaged.
func ensureLineage(ctx context.Context, s Store) error {
	h, err := s.Head(ctx)
	if err != nil || !h.IsZero() {
		return err
	}
	if err = s.Swap(ctx, h, Head{Format: Format, Lineage: NewID()}); errors.Is(err, ErrHeadMoved) {
		err = nil // by another process, which wrote the first head
	}
	return err
}

// AcquireWait takes a lease. While others hold overlapping ones it waits, at most
// for wait, and breaks each lease that it sees unchanged for the time limit of
// that lease. It calls onWait, which may be nil, once before it starts to wait.
func AcquireWait(ctx context.Context, s Store, r LeaseRequest, wait time.Duration, onWait func(*ErrLeaseHeld)) (Lease, error) {
	if err := ensureLineage(ctx, s); err != nil {
		return Lease{}, err
	}
	type sighting struct {
		counter int64
		since   time.Time // with its monotonic reading
	}
	seen := map[int64]sighting{}
	begin := time.Now()
	for {
		l, err := s.Acquire(ctx, r)
		var held *ErrLeaseHeld
		if !errors.As(err, &held) {
			return l, err
		}
		interval, broken := 200*time.Millisecond, false
		for _, h := range held.Holders {
			last, known := seen[h.Token]
			switch {
			case !known || last.counter != h.Counter:
				seen[h.Token] = sighting{h.Counter, time.Now()}
			case time.Since(last.since) >= h.TTL:
				if err := s.Break(ctx, h); err != nil {
					return Lease{}, err
				}
				broken = true
			}
			interval = min(interval, max(h.TTL/10, 5*time.Millisecond))
		}
		if broken {
			continue
		}
		if time.Since(begin) >= wait {
			return Lease{}, held
		}
		if onWait != nil {
			onWait(held)
			onWait = nil
		}
		if poll.Sleep(ctx, interval) != nil {
			return Lease{}, held
		}
	}
}

// KeepAlive renews a lease until ctx ends. If the lease is lost, or cannot be
// renewed for its time limit, it calls lost with the cause, and the caller must
// not start anything more; actions in progress are kept from doing harm by their
// fencing token.
func KeepAlive(ctx context.Context, s Store, l Lease, lost context.CancelCauseFunc) {
	renewed := time.Now()
	interval := l.TTL / 3
	for poll.Sleep(ctx, interval) == nil {
		_, err := s.Renew(ctx, l)
		switch {
		case err == nil:
			renewed, interval = time.Now(), l.TTL/3
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrLeaseLost) || time.Since(renewed) >= l.TTL:
			lost(err)
			return
		default:
			interval = l.TTL / 10
		}
	}
}

// LeaseOptions are the options of WithLease.
type LeaseOptions struct {
	Verb   string              // the command that needs the lease
	Apply  string              // as in LeaseRequest
	TTL    time.Duration       // 0 = DefaultTTL
	Wait   time.Duration       // how long to wait for a lease that another process holds
	OnWait func(*ErrLeaseHeld) // may be nil; called once before waiting
}

// WithLease calls f under a lease on all addresses, which it renews meanwhile. It
// returns *ErrLeaseHeld if the lease cannot be taken. The context of f ends when
// the lease is lost.
func WithLease(ctx context.Context, s Store, o LeaseOptions, f func(context.Context, Lease) error) error {
	l, err := AcquireWait(ctx, s, LeaseRequest{Apply: o.Apply, Owner: CurrentOwner(o.Verb), TTL: o.TTL}, o.Wait, o.OnWait)
	if err != nil {
		return err
	}
	defer s.Release(context.WithoutCancel(ctx), l)
	held, lost := context.WithCancelCause(ctx)
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx)) // also while f ends after ctx has
	defer stop()
	defer lost(nil)
	go KeepAlive(renewing, s, l, lost)
	if err := f(held, l); err != nil {
		return errors.Join(err, context.Cause(held))
	}
	return context.Cause(held)
}

// Update changes the head by compare-and-swap, again and again until nobody else
// has changed it meanwhile. change returns the new head, or an error that ends
// the update.
func Update(ctx context.Context, s Store, change func(Head) (Head, error)) (Head, error) {
	for {
		old, err := s.Head(ctx)
		if err != nil {
			return old, err
		}
		next, err := change(old)
		if err != nil || next.Equal(old) {
			return old, err
		}
		if err = s.Swap(ctx, old, next); !errors.Is(err, ErrHeadMoved) {
			return next, err
		}
		if ctx.Err() != nil {
			return old, context.Cause(ctx)
		}
	}
}

// without returns intents without those of some applies.
func without(intents []Intent, applies ...string) []Intent {
	return slices.DeleteFunc(slices.Clone(intents), func(i Intent) bool { return slices.Contains(applies, i.Apply) })
}
