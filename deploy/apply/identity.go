package apply

import (
	"context"
	"io"
	"maps"
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
)

// identity is what can be told of the machine that defx runs on.
type identity struct {
	instance  string          // what the cloud calls it; "" = it is no instance, or does not know
	addresses map[string]bool // by which others reach it
}

var instanceRE = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)

// detectIdentity asks the machine, and then the cloud's own service on the link, which
// answers at once or is not there.
func detectIdentity(ctx context.Context) identity {
	s := identity{addresses: map[string]bool{}}
	list, _ := net.InterfaceAddrs() // of a machine without addresses nobody can take one for another
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
	at := "http://169.254.169.254"
	if e := os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"); e != "" {
		at = strings.TrimSuffix(e, "/")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	ask := func(method, path string, header map[string]string) string {
		req, err := http.NewRequestWithContext(ctx, method, at+path, nil)
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
	token := ask("PUT", "/latest/api/token", map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "60"})
	if token == "" {
		return s
	}
	if id := ask("GET", "/latest/meta-data/instance-id", map[string]string{"X-aws-ec2-metadata-token": token}); instanceRE.MatchString(id) {
		s.instance = id
	}
	return s
}

// matches tells whether a machine that a module makes is this one, and how that is
// known. An address alone is no proof: other networks have the same ones.
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

// checkSelfDestruct refuses to destroy the machine that defx runs on: such an apply
// would end in the middle, and nobody would be left to finish it.
func (r *run) checkSelfDestruct(ctx context.Context, cs *plan.ChangeSet, records []plan.Record) error {
	acting := map[string]plan.Op{}
	for _, a := range cs.Actions {
		if a.Machine == "" {
			acting[a.Address] = a.Op
		}
	}
	var me *identity
	var out diag.List
	for _, name := range slices.Sorted(maps.Keys(r.machines)) {
		m := r.machines[name].decl
		op, changes := acting[m.Module]
		if m.Module == "" || !changes || !slices.ContainsFunc(records, func(rec plan.Record) bool { return rec.Address == m.Module }) {
			continue
		}
		if me == nil {
			s := detectIdentity(ctx)
			me = &s
		}
		id, _ := r.outputs.get(m.Identity)
		if m.Address == "" {
			found := *m
			found.Address, _ = r.outputs.get(m.Output)
			m = &found
		}
		how, certain := me.matches(m, id)
		if how == "" || !certain && r.req.AllowDelete[m.Module] {
			continue
		}
		declared := slices.ContainsFunc(r.req.Machines, func(w *graph.Machine) bool { return w.Name == m.Name })
		if op != plan.Delete && r.req.Verb != "destroy" && declared { // only Terraform knows whether it would be replaced
			r.selfResource = resourceOf(m)
			continue
		}
		e := diag.Errorf(m.Module, "it would destroy machine %s, on which defx runs itself (%s): nobody would be left to finish it", m.Name, how).
			WithHint("run defx on another machine; the state folder must be there too")
		if !certain {
			e.WithHint("run defx on another machine; if this is another one that only has the same address, --allow-delete %s consents", m.Module)
		}
		out = append(out, e)
	}
	return out.Err()
}

// resourceOf is the resource that is a machine.
func resourceOf(m *graph.Machine) string {
	name, _, _ := strings.Cut(m.Identity, ".")
	return name
}
