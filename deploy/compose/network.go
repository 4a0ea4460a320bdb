package compose

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/defx-dev/defx/internal/sets"
)

// ports converts published ports.
func (m *importer) ports(s types.ServiceConfig, f fields, service, docker object) {
	ports, container, addresses := object{}, object{}, map[string]bool{}
	for _, p := range s.Ports {
		field := fmt.Sprintf("ports.%d", p.Target)
		published, err := strconv.Atoi(p.Published)
		if err != nil {
			m.report(field, "the published port must be one number, not %q", p.Published)
			continue
		}
		if p.Protocol != "tcp" && p.Protocol != "udp" {
			m.report(field, "protocol %s is not supported", p.Protocol)
			continue
		}
		name := "p" + strconv.Itoa(int(p.Target))
		if p.Protocol == "udp" {
			name += "-udp"
		}
		if _, taken := ports[name]; taken {
			name += "-" + strconv.Itoa(published)
		}
		if ports[name] = any(published); p.Protocol == "udp" {
			ports[name] = object{"port": published, "protocol": "udp"}
		}
		if int(p.Target) != published {
			container[name] = int(p.Target)
		}
		addresses[p.HostIP] = true
	}
	if len(ports) > 0 {
		service["ports"] = ports
	}
	if len(container) > 0 {
		docker["ports"] = container
	}
	if len(addresses) > 1 {
		m.report("ports", "a service publishes all its ports on one address of the machine, or on all addresses")
	} else if a := strings.Join(slices.Collect(maps.Keys(addresses)), ""); a != "" && a != "0.0.0.0" {
		if _, err := netip.ParseAddr(a); err == nil {
			docker["publish"] = a
		}
	}
	delete(f, "ports")
	delete(f, "expose") // not needed: services in a network reach all ports of each other
}

// networks converts networks and links, and returns the aliases of a service.
func (m *importer) networks(s types.ServiceConfig, f fields, docker object) []string {
	var aliases []string
	switch mode := s.NetworkMode; {
	case mode == "host":
		docker["network"] = "host"
	case mode != "":
		m.report("network_mode", "%s is not supported: a service is in the network of its deployment, or in that of the machine", mode)
	}
	for _, name := range sets.Keys(s.Networks) {
		n := s.Networks[name]
		if n == nil {
			continue
		}
		aliases = append(aliases, n.Aliases...)
		if n.Ipv4Address != "" || n.Ipv6Address != "" || n.MacAddress != "" || len(n.LinkLocalIPs) > 0 || len(n.DriverOpts) > 0 {
			m.report("networks."+name, "the engine assigns addresses")
		}
	}
	for _, l := range s.Links {
		if target, alias, has := strings.Cut(l, ":"); has && alias != target {
			m.report("links", "add the alias %s to docker.aliases of %s", alias, target)
		}
	}
	for _, k := range []string{"networks", "network_mode", "links"} {
		delete(f, k)
	}
	return aliases
}
