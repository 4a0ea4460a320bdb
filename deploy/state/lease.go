package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// leaseFile is the content of leases.json.
type leaseFile struct {
	Last int64   `json:"last"` // the highest token ever issued
	Held []Lease `json:"held"`
}

// readLeases reads leases.json; without the file there are no leases.
func (s *Dir) readLeases() (leaseFile, error) {
	var l leaseFile
	err := readJSON(filepath.Join(s.path, "leases.json"), &l)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return l, err
}

// Acquire implements Store. It removes leases that have expired and those of
// processes of this machine that have ended.
func (s *Dir) Acquire(ctx context.Context, addresses []string, owner Owner, ttl time.Duration) (Lease, error) {
	var got Lease
	err := s.withLock(ctx, func() error {
		l, err := s.readLeases()
		if err != nil {
			return err
		}
		now := time.Now()
		l.Held = slices.DeleteFunc(l.Held, func(h Lease) bool { return now.After(h.Expires) || isDead(h.Owner) })
		for _, h := range l.Held {
			if overlap(h.Addresses, addresses) {
				return &ErrLeaseHeld{Holder: h}
			}
		}
		l.Last++
		got = Lease{Token: l.Last, Addresses: addresses, Owner: owner, Expires: now.Add(ttl)}
		l.Held = append(l.Held, got)
		return writeJSON(filepath.Join(s.path, "leases.json"), l)
	})
	return got, err
}

// overlap reports whether two sets of addresses have one in common; an empty
// set means all addresses.
func overlap(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(x string) bool { return slices.Contains(b, x) })
}

// Renew implements Store.
func (s *Dir) Renew(ctx context.Context, lease Lease, ttl time.Duration) error {
	return s.withLock(ctx, func() error {
		l, err := s.readLeases()
		if err != nil {
			return err
		}
		for i := range l.Held {
			if l.Held[i].Token == lease.Token {
				l.Held[i].Expires = time.Now().Add(ttl)
				return writeJSON(filepath.Join(s.path, "leases.json"), l)
			}
		}
		return leaseLost(lease)
	})
}

// Release implements Store.
func (s *Dir) Release(ctx context.Context, lease Lease) error {
	return s.withLock(ctx, func() error {
		l, err := s.readLeases()
		if err != nil {
			return err
		}
		l.Held = slices.DeleteFunc(l.Held, func(h Lease) bool { return h.Token == lease.Token })
		return writeJSON(filepath.Join(s.path, "leases.json"), l)
	})
}

// CurrentOwner returns this process as the owner of a lease.
func CurrentOwner(verb string) Owner {
	o := Owner{Verb: verb, PID: os.Getpid(), Boot: bootID(), Start: processStart(os.Getpid())}
	o.Host, _ = os.Hostname()
	name := "uid" + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	o.Who = name + "@" + o.Host
	return o
}

// bootID returns the ID of the machine's boot, or "" if the system has none.
func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// processStart returns the start time of a process in clock ticks since boot,
// or "" if there is no such process.
func processStart(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	rest := string(raw[strings.LastIndexByte(string(raw), ')')+1:]) // the name before it may contain spaces and parentheses
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" { // a zombie counts as ended
		return ""
	}
	return fields[19]
}

// isDead reports whether the owner was a process of this machine and has ended.
// If this cannot be determined it returns false, and the lease ends by expiry.
func isDead(o Owner) bool {
	host, _ := os.Hostname()
	if o.Boot == "" || o.Start == "" || o.Host != host {
		return false
	}
	if boot := bootID(); boot != o.Boot {
		return boot != ""
	}
	return processStart(o.PID) != o.Start
}

// RaiseToken implements Store.
func (s *Dir) RaiseToken(ctx context.Context, lease Lease, above int64) (int64, error) {
	var token int64
	err := s.withLock(ctx, func() error {
		l, err := s.readLeases()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(l.Held, func(h Lease) bool { return h.Token == lease.Token }) {
			return leaseLost(lease)
		}
		token = max(l.Last, above) + 1
		l.Last = token
		return writeJSON(filepath.Join(s.path, "leases.json"), l)
	})
	return token, err
}

// leaseLost returns the error that lease is not held any more.
func leaseLost(lease Lease) error {
	return fmt.Errorf("lease %d was lost: it expired, and another process may have taken over", lease.Token)
}
