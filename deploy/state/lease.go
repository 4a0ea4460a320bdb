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

type leaseFile struct {
	Last int64   `json:"last"` // highest token ever given
	Held []Lease `json:"held"`
}

func (s *Dir) readLeases() (leaseFile, error) {
	var l leaseFile
	err := readJSON(filepath.Join(s.path, "leases.json"), &l)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return l, err
}

// Acquire takes a lease. A lease that expired, or whose holder is a process of
// this machine that is gone, does not stand in the way.
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

func overlap(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(x string) bool { return slices.Contains(b, x) })
}

// Renew extends a lease that is still held.
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

// Release ends a lease.
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

// CurrentOwner is this process as the owner of a lease.
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

func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// processStart is when a process began, in clock ticks since boot, or "" if it is not there.
func processStart(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	rest := string(raw[strings.LastIndexByte(string(raw), ')')+1:]) // the name before may hold anything
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" { // a zombie does nothing any more
		return ""
	}
	return fields[19]
}

// isDead tells whether the holder was a process of this machine, of this boot,
// that is not there any more. In doubt it lives until its lease expires.
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

// RaiseToken gives the holder of a lease a token above one that a machine remembers.
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

func leaseLost(lease Lease) error {
	return fmt.Errorf("the lease %d was lost: it expired and somebody else took over", lease.Token)
}
