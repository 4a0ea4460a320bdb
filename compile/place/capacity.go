package place

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/size"
)

// Capacity is a hard constraint: the limits of the services on a machine together stay within the
// machine's capacity. A service without a limit counts as zero, and a machine without a capacity
// is not limited. Held services and services that are already on a machine count first.
//
// Least-loaded assignment alone can split what only fits together, so groups that are free to choose
// a machine with a capacity are placed largest first, and by a bounded search with backtracking.

// amount is cpu in thousandths of a core and memory in bytes. In a capacity, zero means not limited.
type amount struct{ cpu, memory int64 }

func (a amount) add(b amount) amount { return amount{a.cpu + b.cpu, a.memory + b.memory} }

// lacking returns the resource (cpu or memory) of which a capacity with used in use has too little
// for need, or "". What is not needed is never lacking.
func (need amount) lacking(used, capacity amount) string {
	switch {
	case need.memory > 0 && capacity.memory > 0 && used.memory+need.memory > capacity.memory:
		return "memory"
	case need.cpu > 0 && capacity.cpu > 0 && used.cpu+need.cpu > capacity.cpu:
		return "cpu"
	}
	return ""
}

func parseAmount(cpu, memory string) (a amount, err error) {
	if cpu != "" {
		if a.cpu, err = size.ParseCores(cpu); err != nil {
			return amount{}, err
		}
	}
	if memory != "" {
		a.memory, err = size.ParseMemory(memory)
	}
	return a, err
}

// readCapacities sets the capacity of each machine. Instances that the deployment creates for services
// have none here: their services were assigned by capacity before.
func (p *placer) readCapacities() {
	p.capacity, p.used = make([]amount, len(p.g.Machines)), make([]amount, len(p.g.Machines))
	for i, m := range p.g.Machines {
		if m.Module != "" && m.Made == nil {
			continue
		}
		var err error
		if p.capacity[i], err = parseAmount(m.Capacity.CPU, m.Capacity.Memory); err != nil {
			p.errs = append(p.errs, diag.Errorf("machine "+m.Name, "capacity: %v", err).At("machines", m.Name, "capacity"))
		}
		p.limited = p.limited || p.capacity[i] != amount{}
	}
}

// need returns what a group uses at most.
func (p *placer) need(pg placementGroup) amount {
	if !p.limited {
		return amount{}
	}
	need, known := p.needs[pg[0]]
	if !known {
		for _, s := range pg {
			if l := s.Spec.Limits; l != nil {
				a, err := parseAmount(l.CPU, l.Memory)
				if err != nil {
					p.errs = append(p.errs, diag.Errorf(s.String(), "limits: %v", err).At(append(slices.Clone(s.SpecPath), "limits")...))
				}
				need = need.add(a)
			}
		}
		p.needs[pg[0]] = need
	}
	return need
}

// exceeded returns the resource of which a machine has too little for a group, and a description of
// that; "" if it has enough.
func (p *placer) exceeded(pg placementGroup, machine int) (resource, why string) {
	need := p.need(pg)
	used, capacity := p.used[machine], p.capacity[machine]
	switch need.lacking(used, capacity) {
	case "memory":
		return "memory", fmt.Sprintf("has too little memory: %s of %s in use, %s required", formatMemory(used.memory), formatMemory(capacity.memory), formatMemory(need.memory))
	case "cpu":
		return "cpu", fmt.Sprintf("has too little cpu: %s of %s cores in use, %s required", formatCores(used.cpu), formatCores(capacity.cpu), formatCores(need.cpu))
	}
	return "", ""
}

func formatMemory(n int64) string {
	if n == 0 {
		return "0"
	}
	return size.Format(n)
}

func formatCores(milli int64) string { return strconv.FormatFloat(float64(milli)/1000, 'f', -1, 64) }

// limitPath returns the path of the limit of a group that is largest in a resource.
func limitPath(pg placementGroup, resource string) []string {
	largest, path := int64(-1), []string(nil)
	for _, s := range pg {
		l := s.Spec.Limits
		if l == nil {
			continue
		}
		a, _ := parseAmount(l.CPU, l.Memory)
		n := a.memory
		if resource == "cpu" {
			n = a.cpu
		}
		if n > largest {
			largest, path = n, append(slices.Clone(s.SpecPath), "limits", resource)
		}
	}
	return path
}

// withoutCapacity describes the machines that would accept a group if they had more capacity, except
// the previous one.
func (p *placer) withoutCapacity(pg placementGroup, previous string) string {
	var out []string
	more := 0
	for i, m := range p.g.Machines {
		if resource, why := p.exceeded(pg, i); resource != "" && m.Name != previous && p.refuse(pg, m) == why {
			if len(out) == 3 {
				more++
				continue
			}
			out = append(out, m.Name+" "+why)
		}
	}
	if more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, ", ")
}

// Bounds of search: for more groups than maxSearch, or when no assignment was found after maxSteps,
// groups are assigned to the least loaded machine one by one.
const (
	maxSearch = 200
	maxSteps  = 50_000
)

// placeFree assigns groups to machines of their choice.
func (p *placer) placeFree(groups []placementGroup) {
	if !p.limited || !slices.ContainsFunc(groups, func(pg placementGroup) bool { return p.need(pg) != amount{} }) {
		for _, pg := range groups {
			p.choose(pg, nil)
		}
		return
	}
	slices.SortStableFunc(groups, func(a, b placementGroup) int {
		x, y := p.need(a), p.need(b)
		return cmp.Or(cmp.Compare(y.memory, x.memory), cmp.Compare(y.cpu, x.cpu))
	})
	var found []*graph.Machine
	if len(groups) <= maxSearch {
		found = p.search(groups)
	}
	for i, pg := range groups {
		if found != nil {
			p.choose(pg, found[i])
		} else {
			p.choose(pg, nil)
		}
	}
}

// search returns a machine for each group such that all constraints hold, or nil if it finds none. At
// each step it tries machines in the order of leastLoaded, so its first attempt is the assignment that
// choosing one by one would make. It leaves p unchanged.
func (p *placer) search(groups []placementGroup) []*graph.Machine {
	found := make([]*graph.Machine, len(groups))
	used, load := slices.Clone(p.used), slices.Clone(p.load)
	on := make([][]placementGroup, len(p.g.Machines)) // machine → groups that the search put there
	steps := 0
	var try func(n int) bool
	try = func(n int) bool {
		if n == len(groups) {
			return true
		}
		pg := groups[n]
		need, replicas := p.need(pg), map[int]int{}
		var machines []int
		for _, i := range p.candidates(pg[0].Place) {
			m := p.g.Machines[i]
			if need.lacking(used[i], p.capacity[i]) != "" || p.refuseIgnoringCapacity(pg, m) != "" || slices.ContainsFunc(on[i], func(o placementGroup) bool { return p.conflict(pg, o) }) {
				continue
			}
			replicas[i] = p.replicasOn(pg, m)
			for _, o := range on[i] {
				if pg[0].Address.Replica != "" && o[0].Address.Functionality() == pg[0].Address.Functionality() {
					replicas[i]++
				}
			}
			machines = append(machines, i)
		}
		slices.SortStableFunc(machines, func(a, b int) int {
			return cmp.Or(cmp.Compare(replicas[a], replicas[b]), cmp.Compare(load[a], load[b]))
		})
		for _, i := range machines {
			if steps++; steps > maxSteps {
				return false
			}
			before := used[i]
			found[n], used[i], load[i], on[i] = p.g.Machines[i], before.add(need), load[i]+len(pg), append(on[i], pg)
			if try(n + 1) {
				return true
			}
			used[i], load[i], on[i] = before, load[i]-len(pg), on[i][:len(on[i])-1]
		}
		return false
	}
	if !try(0) {
		return nil
	}
	return found
}

// conflict reports whether two groups cannot run on the same machine.
func (p *placer) conflict(a, b placementGroup) bool {
	if a[0].Place.Spread == "machine" && a[0].Address.Replica != "" && a[0].Address.Functionality() == b[0].Address.Functionality() {
		return true
	}
	others := p.wantedPorts(b)
	return slices.ContainsFunc(p.wantedPorts(a), func(w wantedPort) bool {
		return slices.ContainsFunc(others, func(o wantedPort) bool { return o.key == w.key })
	})
}
