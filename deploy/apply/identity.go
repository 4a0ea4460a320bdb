package apply

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
)

// identity is what is known of the machine that defx runs on.
type identity struct {
	instance  string          // ID of the EC2 instance; "" = it is no instance, or this is unknown
	addresses map[string]bool // addresses by which other machines reach it
}

var instanceRE = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)

// detectIdentity reads the identity from the machine itself, or else from the
// instance metadata service, which it gives one second to answer.
func detectIdentity(ctx context.Context) identity {
	s := identity{addresses: map[string]bool{}}
	list, _ := net.InterfaceAddrs() // without addresses none can match
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			s.addresses[n.IP.String()] = true
		}
	}
	if raw, err := os.ReadFile("/sys/devices/virtual/dmi/id/board_asset_tag"); err == nil {
		if id := strings.TrimSpace(string(raw)); instanceRE.MatchString(id) {
			s.instance = id
			return s
		}
	}
	if os.Getenv("AWS_EC2_METADATA_DISABLED") == "true" {
		return s
	}
	endpoint := "http://169.254.169.254"
	if e := os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"); e != "" {
		endpoint = strings.TrimSuffix(e, "/")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	query := func(method, path string, header map[string]string) string {
		req, err := http.NewRequestWithContext(ctx, method, endpoint+path, nil)
		if err != nil {
			return ""
		}
		for k, v := range header {
			req.Header.Set(k, v)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return ""
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(io.LimitReader(res.Body, 4096))
		if err != nil || res.StatusCode != http.StatusOK {
			return ""
		}
		return string(raw)
	}
	token := query("PUT", "/latest/api/token", map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "60"})
	if token == "" {
		return s
	}
	if id := query("GET", "/latest/meta-data/instance-id", map[string]string{"X-aws-ec2-metadata-token": token}); instanceRE.MatchString(id) {
		s.instance = id
	}
	return s
}

// matches reports how a machine that a module makes is known to be this one; how
// is empty if it is not. An equal private address alone is not certain, because
// other networks use the same addresses.
func (s identity) matches(m *graph.Machine, id string) (how string, certain bool) {
	switch {
	case s.instance != "" && id != "":
		if s.instance == id {
			return "both are instance " + id, true
		}
	case m.Address != "" && s.addresses[m.Address]:
		return "both have the address " + m.Address, false
	}
	return "", false
}

// checkSelfDestruct refuses to destroy the machine that defx runs on, because such
// an apply would end in the middle.
func (r *run) checkSelfDestruct(ctx context.Context, cs *plan.ChangeSet, records []plan.Record) error {
	acting := map[string]plan.Op{}
	for _, a := range cs.Actions {
		if a.Machine == "" {
			acting[a.Address] = a.Op
		}
	}
	var self *identity
	var out diag.List
	for _, name := range sets.Keys(r.machines) {
		m := r.machines[name].decl
		op, changes := acting[m.Module]
		if m.Module == "" || !changes || !slices.ContainsFunc(records, func(rec plan.Record) bool { return rec.Address == m.Module }) {
			continue
		}
		if self == nil {
			s := detectIdentity(ctx)
			self = &s
		}
		id, _ := r.outputs.get(m.Identity)
		if m.Address == "" {
			found := *m
			found.Address, _ = r.outputs.get(m.Output)
			m = &found
		}
		how, certain := self.matches(m, id)
		if how == "" || !certain && r.req.AllowDelete[m.Module] {
			continue
		}
		declared := slices.ContainsFunc(r.req.Machines, func(d *graph.Machine) bool { return d.Name == m.Name })
		if op != plan.Delete && r.req.Verb != "destroy" && declared { // whether it would be replaced is known only to Terraform
			r.selfResource = resourceOf(m)
			continue
		}
		e := diag.Errorf(m.Module, "it would destroy machine %s, on which defx itself is running (%s)", m.Name, how).
			WithHint("run defx on another machine, which needs the state directory too")
		if !certain {
			e.WithHint("run defx on another machine; if this is a different machine with the same address, use --allow-delete %s", m.Module)
		}
		out = append(out, e)
	}
	return out.Err()
}

// resourceOf returns the address of the resource that makes a machine.
func resourceOf(m *graph.Machine) string {
	name, _, _ := strings.Cut(m.Identity, ".")
	return name
}
