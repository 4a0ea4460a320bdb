package state

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"time"
)

// leaseFile is the content of leases.json.
type leaseFile struct {
	Format int              `json:"format"`
	Last   int64            `json:"last"` // the highest token ever issued
	Held   map[string]Lease `json:"held"` // by token. Versions before format 2 cannot read it, which keeps them from taking a lease.
}

// key returns the name of a lease in leaseFile.Held.
func (l Lease) key() string { return strconv.FormatInt(l.Token, 10) }

// readLeases reads leases.json. Without the file there are no leases; that is
// damage if something was written under a lease before.
func (s *Dir) readLeases() (leaseFile, error) {
	l := leaseFile{Format: Format, Held: map[string]Lease{}}
	err := s.readFile(leasesName, &l)
	if !errors.Is(err, fs.ErrNotExist) {
		if l.Held == nil {
			l.Held = map[string]Lease{}
		}
		return l, err
	}
	h, err := s.readHead()
	if err == nil && (h.Generation > 0 || len(h.Intents) > 0) {
		err = s.damaged(leasesName, errors.New("the file is missing"))
	}
	return l, err
}

// Acquire implements Store.
func (s *Dir) Acquire(ctx context.Context, r LeaseRequest) (Lease, error) {
	var got Lease
	err := s.withLock(ctx, func() error {
		l, err := s.readLeases()
		if err != nil {
			return err
		}
		var holders []Lease
		for _, h := range l.Held {
			if overlap(h.Addresses, r.Addresses) && (r.Apply == "" || h.Apply != r.Apply) {
				holders = append(holders, h)
			}
		}
		if len(holders) > 0 {
			slices.SortFunc(holders, func(a, b Lease) int { return cmp.Compare(a.Token, b.Token) })
			return &ErrLeaseHeld{holders}
		}
		l.Last++
		got = Lease{Token: l.Last, Apply: r.Apply, Addresses: r.Addresses, Owner: r.Owner, Counter: 1, TTL: cmp.Or(r.TTL, DefaultTTL)}
		l.Held[got.key()] = got
		return s.writeFile(leasesName, l)
	})
	return got, err
}

// overlap reports whether two sets of addresses have one in common; an empty
// set means all addresses.
func overlap(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(x string) bool { return slices.Contains(b, x) })
}

// changeLease replaces or, if change returns false, removes a lease that is held.
// It returns ErrLeaseLost if it is not.
func (s *Dir) changeLease(ctx context.Context, lease Lease, change func(*Lease) (keep, write bool)) error {
	return s.withLock(ctx, func() error {
		l, err := s.readLeases()
		if err != nil {
			return err
		}
		held, is := l.Held[lease.key()]
		if !is || held.Apply != lease.Apply {
			return fmt.Errorf("lease %d: %w", lease.Token, ErrLeaseLost)
		}
		keep, write := change(&held)
		if !write {
			return nil
		}
		if l.Held[lease.key()] = held; !keep {
			delete(l.Held, lease.key())
		}
		return s.writeFile(leasesName, l)
	})
}

// Renew implements Store.
func (s *Dir) Renew(ctx context.Context, lease Lease) (Lease, error) {
	err := s.changeLease(ctx, lease, func(l *Lease) (keep, write bool) {
		l.Counter++
		lease = *l
		return true, true
	})
	return lease, err
}

// Break implements Store.
func (s *Dir) Break(ctx context.Context, lease Lease) error {
	err := s.changeLease(ctx, lease, func(l *Lease) (keep, write bool) { return false, l.Counter == lease.Counter })
	if errors.Is(err, ErrLeaseLost) {
		return nil
	}
	return err
}

// Release implements Store.
func (s *Dir) Release(ctx context.Context, lease Lease) error {
	err := s.changeLease(ctx, lease, func(*Lease) (keep, write bool) { return false, true })
	if errors.Is(err, ErrLeaseLost) {
		return nil
	}
	return err
}

// CurrentOwner returns this process as the owner of a lease.
func CurrentOwner(verb string) Owner {
	o := Owner{Verb: verb}
	o.Host, _ = os.Hostname()
	name := "uid" + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	o.Who = name + "@" + o.Host
	return o
}

// LeasesHeld returns the leases that are held now.
func (s *Dir) LeasesHeld(context.Context) ([]Lease, error) {
	l, err := s.readLeases()
	out := make([]Lease, 0, len(l.Held))
	for _, h := range l.Held {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Lease) int { return cmp.Compare(a.Token, b.Token) })
	return out, err
}

// lockTimeout is how long to wait for another process to change the head or the leases.
const lockTimeout = 30 * time.Second
