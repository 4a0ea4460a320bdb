package agent

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/defx-dev/defx/internal/poll"
	"github.com/defx-dev/defx/internal/sockets"
)

// Listener is a socket that listens on a port of this machine, and what holds it.
type Listener struct {
	Address   netip.Addr // unspecified: all
	PID       int        // 0: unknown
	Command   string     // name of the process
	Unit      string     // of systemd, or of an engine; empty: none
	Container string     // name of the container to which the port is forwarded
}

// String names the process.
func (l Listener) String() string {
	var about []string
	if l.Container != "" {
		return "container " + l.Container
	}
	if l.PID > 0 {
		about = append(about, fmt.Sprintf("process %d", l.PID))
	}
	if l.Unit != "" {
		about = append(about, l.Unit)
	}
	switch {
	case l.Command != "" && len(about) > 0:
		return l.Command + " (" + strings.Join(about, ", ") + ")"
	case len(about) > 0:
		return strings.Join(about, ", ")
	}
	return "another process"
}

// Listeners returns who listens on a port in addition to units. own reports whether one of
// these does.
func (b *multiSupervisor) Listeners(ctx context.Context, protocol string, port int, units []string) (own bool, others []Listener, err error) {
	list := sockets.Listening(protocol, port)
	if len(list) == 0 {
		return false, nil, nil
	}
	var groups []string
	for _, u := range units {
		var group string
		switch {
		case isContainer(u):
			if st, serr := b.engine.State(ctx, u); serr == nil && st.PID > 0 {
				group = sockets.Group(st.PID)
			}
		case path.Ext(u) == ".service":
			if group, err = b.systemd.controlGroup(ctx, u); err != nil {
				return false, nil, err
			}
		}
		if group != "" {
			groups = append(groups, group)
		}
	}
	var rest []sockets.Socket
	for i, held := range sockets.HeldIn(groups, list) {
		if own = own || held; !held {
			rest = append(rest, list[i])
		}
	}
	for i, holders := range sockets.Holders(rest) {
		l := Listener{Address: rest[i].Address}
		if len(holders) == 0 { // it ended, or its files cannot be read
			others = append(others, l)
			continue
		}
		p := holders[0]
		if p.PID == 1 {
			if l.Unit = b.systemd.socketUnit(ctx, protocol, port); slices.Contains(units, l.Unit) {
				own = true
				continue
			}
			if len(holders) > 1 && l.Unit == "" {
				p = holders[1]
			}
		}
		l.PID, l.Command = p.PID, p.Command
		if l.Unit == "" {
			l.Unit = sockets.Unit(p.Group)
		}
		if l.Command == "docker-proxy" {
			if name, unit := b.engine.Publisher(ctx, protocol, port); name != "" {
				if unit != "" && slices.Contains(units, unit) {
					own = true
					continue
				}
				l.Container, l.Unit = name, unit
			}
		}
		others = append(others, l)
	}
	return own, others, nil
}

// controlGroup returns the control group of a service; empty if it has no processes.
func (s *systemd) controlGroup(ctx context.Context, unit string) (string, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return "", err
	}
	p, err := c.GetUnitTypePropertyContext(ctx, unit, "Service", "ControlGroup")
	if err != nil {
		return "", fmt.Errorf("%s: %w", unit, err)
	}
	group, _ := p.Value.Value().(string)
	return group, nil
}

// socketUnit returns the socket unit that listens on a port; empty if there is none.
func (s *systemd) socketUnit(ctx context.Context, protocol string, port int) string {
	c, err := s.connect(ctx)
	if err != nil {
		return ""
	}
	var list []dbus.UnitStatus
	if list, err = c.ListUnitsByPatternsContext(ctx, nil, []string{"*.socket"}); err != nil {
		return ""
	}
	kind, suffix := map[string]string{"tcp": "Stream", "udp": "Datagram"}[protocol], fmt.Sprintf(":%d", port)
	for _, u := range list {
		p, err := c.GetUnitTypePropertyContext(ctx, u.Name, "Socket", "Listen")
		if err != nil {
			continue
		}
		all, _ := p.Value.Value().([][]any)
		for _, one := range all {
			if len(one) == 2 && one[0] == kind && strings.HasSuffix(fmt.Sprint(one[1]), suffix) {
				return u.Name
			}
		}
	}
	return ""
}

// overlaps reports whether a version that listens on a port cannot do so beside l. Which address
// it uses is not known. Only those that every version is likely to need count; for others, such as
// 127.0.0.53 of the machine's own resolver, the readiness check shows whether they are in the way.
func (l Listener) overlaps() bool {
	a := l.Address
	return !a.IsValid() || a.IsUnspecified() || a == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || a == netip.IPv6Loopback()
}

// portWait is how long a port may still be in use by a unit of the same deployment, which the
// same apply may be about to change or delete, and portGrace by others, which may be ending.
var (
	portWait  = 15 * time.Second
	portGrace = time.Second
)

// checkPorts fails if another process listens on a port of the version, before anything is
// stopped for it.
func (r *rollout) checkPorts(ctx context.Context) error {
	if isContainer(r.layout.Unit) || !slices.Contains(r.layout.Start, r.layout.Unit) {
		return nil // the engine has checked the ports of a container
	}
	units := r.ownUnits()
	for _, p := range r.layout.Ports {
		begin := time.Now()
		err := poll.Until(ctx, 200*time.Millisecond, func(ctx context.Context) (bool, error) {
			_, others, err := r.h.supervisor.Listeners(ctx, p.Protocol, p.Port, units)
			if err != nil {
				return false, err
			}
			i := slices.IndexFunc(others, Listener.overlaps)
			if i < 0 {
				return true, nil
			}
			scope, address := r.h.ownerOf(others[i].Unit)
			limit := portGrace
			if scope != "" && scope == r.scope {
				limit = portWait
			}
			if time.Since(begin) < limit {
				report(ctx, begin, limit, fmt.Sprintf("port %d is in use by %s", p.Port, address))
				return false, nil
			}
			return false, &portInUse{p.Protocol, p.Port, others[i], scope, address}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ownUnits returns the units that may listen on the ports of the version: its own, and those that
// it replaces.
func (r *rollout) ownUnits() []string {
	out := append([]string{r.layout.Unit}, r.layout.Start...)
	out = append(out, r.obsolete...)
	if r.previous != nil {
		out = append(append(out, r.previous.Unit), r.previous.Start...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ownerOf returns the scope and the address of the entry that a unit belongs to; empty if defx
// does not manage it.
func (h *Host) ownerOf(unit string) (scope, address string) {
	if unit == "" {
		return "", ""
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m == nil {
		return "", ""
	}
	for scope, units := range h.m.Scopes {
		for address, e := range units {
			if e.Unit == unit || slices.Contains(unitNames(e.Files), unit) {
				return scope, shortAddress(units, address)
			}
		}
	}
	return "", ""
}

// shortAddress returns an address as people write it: the only replica of a set has no number.
func shortAddress(units map[string]*Entry, address string) string {
	if set, is := strings.CutSuffix(address, "#0"); is && units[set+"#1"] == nil {
		return set
	}
	return address
}

// portInUse is the error of a version whose port another process uses.
type portInUse struct {
	protocol string
	port     int
	by       Listener
	scope    string // of the unit that uses it; empty: defx does not manage it
	address  string
}

func (e *portInUse) Error() string {
	name := fmt.Sprintf("port %d", e.port)
	if e.protocol == "udp" {
		name += "/udp"
	}
	if e.scope == "" {
		return fmt.Sprintf("%s is in use by %s, which is not managed by defx: stop that, or choose another port", name, e.by)
	}
	return fmt.Sprintf("%s is in use by %s of %s: %s", name, e.address, e.scope, e.by)
}

// checkListener fails if the process that answered on a port is not one of a version; start is what
// starts that.
func (r *rollout) checkListener(ctx context.Context, port int, unit string, start []string) error {
	if isContainer(unit) {
		if hosts, err := r.h.supervisor.Hosts(ctx, unit); err != nil || !slices.Equal(hosts, localAddrs()) {
			return err // it was asked at its own address, and not at the machine's
		}
	}
	units := slices.DeleteFunc(slices.Clone(start), func(u string) bool { return path.Ext(u) != ".socket" })
	own, others, err := r.h.supervisor.Listeners(ctx, "tcp", port, append(units, unit))
	i := slices.IndexFunc(others, func(l Listener) bool { return l.PID > 0 || l.Container != "" })
	if err != nil || own || i < 0 { // without a known one, something else forwards the port, or this user may not look
		return err
	}
	return &foreignListener{port, others[i]}
}

// foreignListener is the error of a readiness check that another process answered.
type foreignListener struct {
	port int
	by   Listener
}

func (e *foreignListener) Error() string {
	return fmt.Sprintf("port %d is answered by %s, not by this version", e.port, e.by)
}
