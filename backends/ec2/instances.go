package ec2

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/size"
	"github.com/defx-dev/defx/internal/token"
)

// serviceOptions is the field "ec2" of a functionality.
type serviceOptions struct {
	Run          string `json:"run"`          // systemd or docker
	Class        string `json:"class"`        // shared, exclusive or autoscale
	InstanceType string `json:"instanceType"` // instead of the default
	Image        string `json:"image"`        // instead of the default
	Min          int    `json:"min"`          // autoscale: minimum number of instances
	Max          int    `json:"max"`          // autoscale: maximum number of instances
	CPU          int    `json:"cpu"`          // autoscale: target CPU utilization in per cent
	Profile      string `json:"profile"`      // autoscale: instance profile, instead of one that defx creates
	Allow        string `json:"allow"`        // public or ipsec: how other networks may connect
}

// instanceSize is the capacity of an instance type.
type instanceSize struct {
	cpu    float64 // cores
	memory int64   // bytes
}

const gi = int64(1) << 30

// instanceSizes has common instance types. defaults.ec2.capacity sets others.
var instanceSizes = map[string]instanceSize{
	"t3.nano": {2, gi / 2}, "t3.micro": {2, gi}, "t3.small": {2, 2 * gi}, "t3.medium": {2, 4 * gi}, "t3.large": {2, 8 * gi}, "t3.xlarge": {4, 16 * gi}, "t3.2xlarge": {8, 32 * gi},
	"t4g.nano": {2, gi / 2}, "t4g.micro": {2, gi}, "t4g.small": {2, 2 * gi}, "t4g.medium": {2, 4 * gi}, "t4g.large": {2, 8 * gi}, "t4g.xlarge": {4, 16 * gi}, "t4g.2xlarge": {8, 32 * gi},
	"m5.large": {2, 8 * gi}, "m5.xlarge": {4, 16 * gi}, "m5.2xlarge": {8, 32 * gi}, "m5.4xlarge": {16, 64 * gi},
	"m6i.large": {2, 8 * gi}, "m6i.xlarge": {4, 16 * gi}, "m6i.2xlarge": {8, 32 * gi}, "m6i.4xlarge": {16, 64 * gi},
	"m7g.medium": {1, 4 * gi}, "m7g.large": {2, 8 * gi}, "m7g.xlarge": {4, 16 * gi}, "m7g.2xlarge": {8, 32 * gi},
	"c5.large": {2, 4 * gi}, "c5.xlarge": {4, 8 * gi}, "c5.2xlarge": {8, 16 * gi}, "c6i.large": {2, 4 * gi}, "c6i.xlarge": {4, 8 * gi}, "c6i.2xlarge": {8, 16 * gi},
	"r5.large": {2, 16 * gi}, "r5.xlarge": {4, 32 * gi}, "r5.2xlarge": {8, 64 * gi}, "r6i.large": {2, 16 * gi}, "r6i.xlarge": {4, 32 * gi},
}

// placementGroup is a unit of placement: a service, or the members of one group replica.
type placementGroup struct {
	services []*graph.Service
	options  serviceOptions
	cpu      float64
	memory   int64
	ports    map[string]bool
}

// instance is an instance while services are assigned to it.
type instance struct {
	name   string
	groups []*placementGroup
	cpu    float64
	memory int64
	ports  map[string]bool
	sets   map[string]bool
	roles  []string // of all its services
	count  int
}

// first returns the service that is the subject of errors about the instance, or a placeholder if the
// instance is empty.
func (b *instance) first() *graph.Service {
	if len(b.groups) == 0 {
		return &graph.Service{Address: graph.Address{Name: b.name}, Path: []string{"defaults", "ec2"}}
	}
	return b.groups[0].services[0]
}

// instanceClass is what the instances that can share services have in common.
type instanceClass struct {
	pool, location, instanceType, image, labels string
}

// packer assigns services to instances.
type packer struct {
	graph        *graph.Graph
	prev         map[string]string
	instances    map[instanceClass][]*instance
	byName       map[string]*instance
	errs         diag.List
	reasons      map[string]string
	allow        map[string]string // address → how other networks may connect
	accessGroups map[string]string // instance → its security group
	dnsOwner     map[string]string // DNS name → address that has it
	state        ModuleState
}

// ModuleState is what is known about modules before this plan.
type ModuleState struct {
	Output   func(key string) string  // recorded value of an output; "" if unknown
	Deployed func(module string) bool // reports whether the module exists
	Attach   map[string]bool          // attachments that this run adds (true) or removes (false), by module
}

// Pack assigns services of the backend ec2 to instances. It adds the machines and resources to the
// graph and gives the services the backend that runs them there. A service stays on its previous
// instance as long as it fits. Pack returns the reason for each placement.
func Pack(g *graph.Graph, prev map[string]string, state ModuleState) (map[string]string, diag.List) {
	p := &packer{graph: g, prev: prev, instances: map[instanceClass][]*instance{}, byName: map[string]*instance{}, reasons: map[string]string{}, allow: map[string]string{}, accessGroups: map[string]string{}, dnsOwner: map[string]string{}, state: state}
	groups := p.placementGroups()
	if len(g.Scaled) > 0 {
		g.Services = slices.DeleteFunc(g.Services, func(s *graph.Service) bool { return slices.Contains(g.Scaled, s) })
	}
	if len(p.errs) > 0 {
		return p.reasons, p.errs.Sort()
	}
	// Services that were on an instance come first, so that new ones cannot displace them.
	slices.SortStableFunc(groups, func(a, b *placementGroup) int {
		return compareBool(p.previous(a) == "", p.previous(b) == "")
	})
	var with []*placementGroup
	for _, k := range groups {
		if k.services[0].Place.With != "" {
			with = append(with, k)
			continue
		}
		p.place(k)
	}
	for _, k := range with {
		p.colocate(k)
	}
	p.keepOccupied()
	p.emit()
	return p.reasons, p.errs.Sort()
}

// compareBool orders false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// placementGroups returns the services to place, grouped. It adds scaled services to the graph
// instead.
func (p *packer) placementGroups() []*placementGroup {
	var out []*placementGroup
	at := map[string]*placementGroup{}
	for _, s := range p.graph.Services {
		if s.Backend != Name || s.Fact != nil {
			continue
		}
		var w serviceOptions
		if len(s.EC2) > 0 && string(s.EC2) != "null" {
			dec := json.NewDecoder(bytes.NewReader(s.EC2))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&w); err != nil {
				p.fail(s, append(slices.Clone(s.Path), "ec2"), "%s", strings.TrimPrefix(err.Error(), "json: ")).WithHint("options are run, class, instanceType, image, allow, min, max, cpu, profile")
				continue
			}
		}
		if w.Class == "" {
			w.Class = p.graph.EC2.Class
		}
		if w.Run == "" {
			w.Run = "systemd"
		}
		if w.InstanceType == "" {
			w.InstanceType = p.graph.EC2.InstanceType
		}
		if w.Image == "" {
			w.Image = p.graph.EC2.Image
		}
		path := append(slices.Clone(s.Path), "ec2")
		switch {
		case w.Class != "" && w.Class != "shared" && w.Class != "exclusive" && w.Class != "autoscale":
			p.fail(s, append(path, "class"), "unknown class %q", w.Class).WithHint("use shared, exclusive or autoscale")
			continue
		case w.Run != "systemd" && w.Run != "docker":
			p.fail(s, append(path, "run"), "backend %q cannot run services on instances", w.Run).WithHint("use systemd or docker")
			continue
		case w.InstanceType == "":
			p.fail(s, s.Path, "no instance type is set").WithHint("set ec2: { instanceType: 't3.small' }, or defaults: { ec2: { instanceType: 't3.small' } }")
			continue
		case w.Image == "":
			p.fail(s, s.Path, "no image is set").WithHint("set ec2: { image: 'ami-…' } to an image with systemd, or defaults: { ec2: { image: 'ami-…' } }")
			continue
		case w.Allow != "" && w.Allow != "public" && w.Allow != "ipsec":
			p.fail(s, append(path, "allow"), "unknown value %q of allow", w.Allow).WithHint("use public or ipsec")
			continue
		case s.Place.Every != "":
			p.fail(s, append(slices.Clone(s.Path), "place", "every"), "place.every cannot be used with backend ec2, which creates machines for the services on them").WithHint("use place: { with: 'another-service' }")
			continue
		}
		s.Backend = w.Run
		if w.Class == "autoscale" {
			p.scale(s, w)
			continue
		}
		p.allow[s.Address.String()] = w.Allow
		if s.Place.Machine != "" { // placed explicitly
			continue
		}
		a := s.Address
		key := graph.Address{Lib: a.Lib, Name: a.Name, Replica: a.Replica}.String()
		k := at[key]
		if k == nil {
			k = &placementGroup{options: w, ports: map[string]bool{}}
			at[key] = k
			out = append(out, k)
		}
		k.services = append(k.services, s)
		if l := s.Spec.Limits; l != nil {
			cpu, memory, err := amounts(l.CPU, l.Memory)
			if err != nil {
				p.fail(s, append(slices.Clone(s.SpecPath), "limits"), "%v", err)
			}
			k.cpu += cpu
			k.memory += memory
		}
		for _, port := range s.Spec.Ports {
			k.ports[fmt.Sprintf("%s/%d", port.Protocol, port.Port)] = true
		}
	}
	return out
}

// namePrefix returns the prefix of the names of everything that is made for a functionality.
func namePrefix(a graph.Address) string { return a.Lib + "-" + a.Name }

// amounts returns the cores and the bytes of memory of a limit or a capacity; 0 means none is given.
func amounts(cpu, memory string) (cores float64, bytes int64, err error) {
	if cpu != "" {
		var milli int64
		milli, err = size.ParseCores(cpu)
		cores = float64(milli) / 1000
	}
	if memory != "" && err == nil {
		bytes, err = size.ParseMemory(memory)
	}
	return cores, bytes, err
}

// fail adds an error about a service.
func (p *packer) fail(s *graph.Service, path []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(s.String(), format, args...).At(path...)
	p.errs = append(p.errs, e)
	return e
}

// previous returns the machine that the group was on, or "".
func (p *packer) previous(k *placementGroup) string {
	for _, s := range k.services {
		if m := p.prev[s.Address.String()]; m != "" {
			return m
		}
	}
	return ""
}

// class returns the class of instances for a group.
func (p *packer) class(k *placementGroup) instanceClass {
	pl := k.services[0].Place
	pool := pl.Pool
	if pool == "" {
		pool = p.graph.EC2.Pool
	}
	var labels []string
	for _, n := range sets.Keys(pl.Labels) {
		labels = append(labels, n+"="+pl.Labels[n])
	}
	return instanceClass{pool, pl.Location, k.options.InstanceType, k.options.Image, strings.Join(labels, " ")}
}

// capacity returns the capacity of an instance of a class. The system's own share is not subtracted.
func (p *packer) capacity(class instanceClass) instanceSize {
	r := instanceSizes[class.instanceType]
	cpu, memory, err := amounts(p.graph.EC2.Capacity.CPU, p.graph.EC2.Capacity.Memory)
	if err != nil {
		panic(err) // the decoder has checked it
	}
	if cpu > 0 {
		r.cpu = cpu
	}
	if memory > 0 {
		r.memory = memory
	}
	return r
}

// fits returns the reason why a group cannot be on an instance, or "".
func (p *packer) fits(k *placementGroup, b *instance, class instanceClass) string {
	r := p.capacity(class)
	switch {
	case p.graph.EC2.ServicesPerInstance > 0 && b.count+len(k.services) > p.graph.EC2.ServicesPerInstance:
		return "already has the maximum number of services"
	case r.cpu > 0 && b.cpu+k.cpu > r.cpu:
		return "has not enough CPU left"
	case r.memory > 0 && b.memory+k.memory > r.memory*9/10:
		return "has not enough memory left"
	case k.services[0].Place.Spread == "machine" && b.sets[k.services[0].Address.Functionality()]:
		return "already has a replica"
	case slices.Contains(k.services[0].Place.Except, b.name):
		return "is excluded by place.except"
	}
	for port := range k.ports {
		if b.ports[port] {
			return "already uses port " + port
		}
	}
	return ""
}

// place assigns a group to its previous instance, to one with enough room, or to a new one.
func (p *packer) place(k *placementGroup) {
	class := p.class(k)
	s := k.services[0]
	if k.options.Class == "exclusive" {
		name := s.Address.Lib + "-" + s.Address.Name + "-" + s.Address.Replica
		b := &instance{name: name, ports: map[string]bool{}, sets: map[string]bool{}}
		if why := p.fits(k, b, class); why != "" {
			p.fail(s, append(slices.Clone(s.SpecPath), "limits"), "an instance of type %s %s for it", class.instanceType, why).WithHint("use a larger instanceType")
			return
		}
		class.pool += "\x00" + name // a class that no other group has
		p.instances[class] = append(p.instances[class], b)
		p.assign(k, b, "exclusive: an instance of its own")
		return
	}
	before := p.previous(k)
	prefix := strings.Join(slices.DeleteFunc([]string{"ec2", class.pool, class.location}, func(s string) bool { return s == "" }), "-")
	if n, ok := strings.CutPrefix(before, prefix+"-"); ok {
		if _, err := strconv.Atoi(n); err == nil {
			b := p.byName[before]
			if b == nil {
				b = &instance{name: before, ports: map[string]bool{}, sets: map[string]bool{}}
			}
			if (p.byName[before] == nil || slices.Contains(p.instances[class], b)) && p.fits(k, b, class) == "" {
				if p.byName[before] == nil {
					p.instances[class] = append(p.instances[class], b)
				}
				p.assign(k, b, before+" kept")
				return
			}
		}
	}
	for _, b := range p.instances[class] {
		if p.fits(k, b, class) == "" {
			p.assign(k, b, "packed onto the first instance with room for it")
			return
		}
	}
	taken := func(name string) bool { return p.byName[name] != nil || p.graph.Machine(name) != nil }
	for i := 0; ; i++ {
		name := prefix + "-" + strconv.Itoa(i)
		if taken(name) {
			continue
		}
		b := &instance{name: name, ports: map[string]bool{}, sets: map[string]bool{}}
		if why := p.fits(k, b, class); why != "" {
			p.fail(s, append(slices.Clone(s.SpecPath), "limits"), "an empty instance of type %s %s for it", class.instanceType, why).WithHint("use a larger instanceType, or reduce limits")
			return
		}
		p.instances[class] = append(p.instances[class], b)
		p.assign(k, b, "packed onto a new instance: no other has room for it")
		return
	}
}

// keepOccupied keeps an instance as long as a deployed unit is on it: services that move away must
// be ready elsewhere first, and protected ones stay. A later plan removes the instance when it is
// empty.
func (p *packer) keepOccupied() {
	for _, m := range p.graph.PreviousMachines {
		if m.Module == "" || p.byName[m.Name] != nil || p.graph.Machine(m.Name) != nil {
			continue
		}
		occupied := false
		for _, on := range p.prev {
			occupied = occupied || on == m.Name
		}
		typ, image, _ := strings.Cut(m.Kind, " ")
		if !occupied || image == "" {
			continue
		}
		var labels []string
		for _, n := range sets.Keys(m.Labels) {
			labels = append(labels, n+"="+m.Labels[n])
		}
		b := &instance{name: m.Name, roles: m.Roles}
		p.byName[m.Name] = b
		class := instanceClass{m.Pool, m.Location, typ, image, strings.Join(labels, " ")}
		p.instances[class] = append(p.instances[class], b)
	}
}

// colocate assigns a group to the instance of the service in place.with.
func (p *packer) colocate(k *placementGroup) {
	set := k.services[0].Place.With
	for _, name := range sets.Keys(p.byName) {
		b := p.byName[name]
		for _, o := range b.groups {
			if a := o.services[0].Address; a.Set() == set || a.Functionality() == set {
				p.assign(k, b, "with "+set)
				return
			}
		}
	}
	p.fail(k.services[0], append(slices.Clone(k.services[0].Path), "place", "with"), "place.with names %s, which is on no instance", set).WithHint("name a service that has backend: 'ec2', too")
}

// assign puts a group on an instance and records the reason.
func (p *packer) assign(k *placementGroup, b *instance, why string) {
	p.byName[b.name] = b
	b.groups = append(b.groups, k)
	b.cpu += k.cpu
	b.memory += k.memory
	b.count += len(k.services)
	b.roles = sets.Union(b.roles, k.services[0].Place.Roles)
	b.sets[k.services[0].Address.Functionality()] = true
	maps.Copy(b.ports, k.ports)
	for _, s := range k.services {
		s.Place.Machine = b.name
		p.reasons[s.Address.String()] = why
	}
}

// emit adds the instances to the graph, as machines and resources, and then everything that is
// derived from them.
func (p *packer) emit() {
	names := map[string]bool{}
	for _, r := range p.graph.Resources {
		names[r.Address.String()] = true
	}
	for class, list := range p.instances {
		class.pool, _, _ = strings.Cut(class.pool, "\x00")
		for _, b := range list {
			if p.graph.Machine(b.name) != nil || names[b.name] || !graph.ValidName(b.name) {
				s := b.first()
				p.fail(s, append(slices.Clone(s.Path), "place"), "its instance would have the name %q, which is already used or too long", b.name).WithHint("use another pool, or rename the machine or resource")
				continue
			}
			p.emitInstance(class, b)
		}
	}
	p.graph.Sort()
	if len(p.errs) == 0 {
		p.addSecurityGroups()
		p.addBalancers()
		p.addDNSRecords()
		p.graph.Sort()
	}
}

// moduleOf returns the module of the instances of a class.
func moduleOf(class instanceClass) string {
	return strings.Join(slices.DeleteFunc([]string{"pool", class.pool, class.location}, func(s string) bool { return s == "" }), "-")
}

// emitInstance adds one instance as a machine and a resource.
func (p *packer) emitInstance(class instanceClass, b *instance) {
	e := p.graph.EC2
	loc, known := e.Locations[class.location]
	s := b.first()
	if class.location != "" && !known {
		p.fail(s, append(slices.Clone(s.Path), "place", "location"), "unknown location %q", class.location).
			WithHint("set defaults: { ec2: { locations: { %s: { region: 'eu-central-1' } } } }", class.location)
		return
	}
	if loc.Region == "" {
		loc.Region = e.Region
	}
	if len(loc.Subnet) == 0 {
		loc.Subnet = e.Subnet
	}
	if loc.Region == "" {
		p.fail(s, s.Path, "no region is set").WithHint("set defaults: { ec2: { region: 'eu-central-1' } }")
		return
	}
	user := e.User
	if user == "" {
		user = "admin"
	}
	address := "private_ip"
	if e.Address == "public" {
		address = "public_ip"
	}
	module := moduleOf(class)
	f := map[string]any{
		"module": token.Lit(module), "region": token.Lit(loc.Region), "image": token.Lit(class.image), "instanceType": token.Lit(class.instanceType),
		"userData": token.Lit(UserData(user, e.AuthorizedKeys)), "userDataReplaceOnChange": false, "ignoreChanges": []any{token.Lit("userData")},
		"metadataOptions": map[string]any{"httpTokens": token.Lit("required"), "httpPutResponseHopLimit": 1.0},
		"tags":            map[string]any{"Name": token.Lit(p.graph.Environment + "-" + p.graph.Name + "-" + b.name)},
	}
	if len(loc.Subnet) > 0 {
		f["subnet"] = loc.Subnet
	}
	if loc.Zone != "" {
		f["zone"] = token.Lit(loc.Zone)
	}
	if len(e.KeyName) > 0 {
		f["keyName"] = e.KeyName
	}
	if e.Address == "public" {
		f["associatePublicIpAddress"] = true
	}
	hasData := slices.ContainsFunc(b.groups, func(k *placementGroup) bool {
		return slices.ContainsFunc(k.services, func(s *graph.Service) bool { return s.Spec.Dirs.State.Own() })
	})
	p.graph.Resources = append(p.graph.Resources, &graph.Resource{Address: graph.Address{Name: b.name}, Type: "aws.instance", Fields: f, Path: []string{"defaults", "ec2"}, Retained: hasData})
	var labels map[string]string
	for _, l := range strings.Fields(class.labels) {
		if labels == nil {
			labels = map[string]string{}
		}
		n, v, _ := strings.Cut(l, "=")
		labels[n] = v
	}
	m := &graph.Machine{Name: b.name, Pool: class.pool, Location: class.location, Roles: b.roles, Labels: labels, Capacity: e.Capacity, Via: e.Via, Kind: class.instanceType + " " + class.image,
		Connect: "ssh://" + user + "@", Module: graph.Address{Lib: graph.ModuleLib, Name: module}.String(),
		Output:   plan.Key(token.Token{Kind: token.Ref, Name: b.name, Field: "output", Arg: address}),
		Identity: plan.Key(token.Token{Kind: token.Ref, Name: b.name, Field: "output", Arg: "id"})}
	if at := p.state.Output(m.Output); at != "" {
		m.Address = at
		m.Connect += token.URLHost(at)
		for _, old := range p.graph.PreviousMachines {
			if old.Name == m.Name && old.Address == at {
				m.HostKey, m.Instance = old.HostKey, old.Instance
			}
		}
	}
	p.graph.Machines = append(p.graph.Machines, m)
}

// keyRE matches a line of authorized_keys, with options in front of the key if need be.
var keyRE = regexp.MustCompile(`^[^\x00-\x1f\x7f]+ [^\x00-\x1f\x7f]+$`)

// checkAccess refuses a user and keys that cannot be part of a script.
func checkAccess(e graph.Instances) *diag.Error {
	if e.User != "" && !graph.ValidUser(e.User) {
		return diag.Errorf("", "%q is not a valid user name", e.User).At("defaults", "ec2", "user").WithHint("%s", graph.UserHint)
	}
	for i, k := range e.AuthorizedKeys {
		if !keyRE.MatchString(k) {
			return diag.Errorf("", "%q is not a public key", k).At("defaults", "ec2", "authorizedKeys", strconv.Itoa(i)).WithHint("one line of authorized_keys: 'ssh-ed25519 AAAA… NAME'")
		}
	}
	return nil
}

// UserData returns the script that prepares an instance at its first boot. It contains no secret
// and nothing of any service, so changing a service never changes its instance. The host key is
// generated on the instance and pinned at the first connection; the agent is installed over ssh.
func UserData(user string, keys []string) string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n# Made by defx: runs once, at the first boot.\nset -eu\n")
	b.WriteString("ssh-keygen -A\n")
	b.WriteString("mkdir -p -m 0755 /var/lib/defx\n")
	if len(keys) > 0 {
		home := "/home/" + user
		if user == "root" {
			home = "/root"
		}
		fmt.Fprintf(&b, "id -u %s >/dev/null 2>&1 || useradd -m -s /bin/sh %s\n", user, user)
		fmt.Fprintf(&b, "mkdir -p -m 0700 %s/.ssh\ncat >>%s/.ssh/authorized_keys <<'EOF'\n%s\nEOF\n", home, home, strings.Join(keys, "\n"))
		fmt.Fprintf(&b, "chmod 0600 %s/.ssh/authorized_keys\nchown -R %s: %s/.ssh\n", home, user, home)
		if user != "root" {
			fmt.Fprintf(&b, "printf '%%s ALL=(ALL) NOPASSWD:ALL\\n' %s >/etc/sudoers.d/defx\nchmod 0440 /etc/sudoers.d/defx\n", user)
		}
	}
	return b.String()
}
