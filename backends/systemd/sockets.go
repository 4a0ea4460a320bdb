package systemd

import (
	"strconv"

	"github.com/defx-dev/defx/backends/spec"
)

// socketUnit writes the listeners. They belong to the machine: an old and a new
// version inherit the same ones. The service gets them in the order of their
// names; a single one also carries its name (LISTEN_FDNAMES).
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
			b.Fail(append(where, "mode"), "mode %q is not three or four octal digits", l.Mode)
		}
		if mode != "" && mode != l.Mode {
			b.Fail(append(where, "mode"), "the sockets of a service share one mode, but %q and %q are asked for", mode, l.Mode)
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
