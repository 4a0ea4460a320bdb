package systemd

import (
	"strconv"

	"github.com/defx-dev/defx/backends/spec"
)

// socketUnit returns the unit of the listeners. It outlives versions: an old and a new version
// inherit the same listeners. The service gets them in the order of their names; a single one also
// has its name in LISTEN_FDNAMES.
func (b *builder) socketUnit() []byte {
	var u unitText
	u.section("Unit")
	u.set("Description", "defx sockets of "+b.Run.Environment+"/"+b.Run.Deployment+" "+b.Subject)
	u.set("PartOf", b.target)
	u.section("Socket")
	mode := ""
	for _, l := range b.Run.Sockets {
		where := spec.At("sockets", l.Name)
		switch {
		case l.Path != "":
			u.set("ListenStream", b.checked(where)(socketPath(l.Path)))
		case l.Protocol == "udp":
			u.set("ListenDatagram", strconv.Itoa(l.Port))
		default:
			u.set("ListenStream", strconv.Itoa(l.Port))
		}
		if l.Mode == "" {
			continue
		}
		if m, ok := spec.Octal(l.Mode); !ok || m > 0o777 {
			b.Fail(append(where, "mode"), "mode %q must be three or four octal digits", l.Mode)
		}
		if mode != "" && mode != l.Mode {
			b.Fail(append(where, "mode"), "all sockets of a service must have the same mode, not %q and %q", mode, l.Mode)
		}
		mode = l.Mode
	}
	if mode != "" {
		u.set("SocketMode", mode)
	}
	if len(b.Run.Sockets) == 1 {
		u.set("FileDescriptorName", b.Run.Sockets[0].Name)
	}
	u.set("Service", b.unit())
	b.writeAddressSection(&u)
	return u.bytes()
}
