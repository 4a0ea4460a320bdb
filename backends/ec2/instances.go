package ec2

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/size"
	"github.com/defx-dev/defx/internal/token"
)

// wish is what a functionality says in the namespace ec2.
type wish struct {
	Run          string `json:"run"`          // systemd or docker
	Class        string `json:"class"`        // shared or exclusive
	InstanceType string `json:"instanceType"` // instead of the default
	Image        string `json:"image"`        // instead of the default
	Min          int    `json:"min"`          // of a group, at least
	Max          int    `json:"max"`          // of a group, at most
	CPU          int    `json:"cpu"`          // of a group: per cent that the cloud aims at by changing the count
	Profile      string `json:"profile"`      // of a group: the instance profile of its instances, instead of one that defx makes
	Allow        string `json:"allow"`        // public or ipsec: how it may be reached from other networks
}

// room is what an instance of a type has.
type room struct {
	cpu    float64 // cores
	memory int64   // bytes
}

const gi = int64(1) << 30

// rooms are customary types; others are said by defaults.ec2.capacity.
var rooms = map[string]room{
	"t3.nano": {2, gi / 2}, "t3.micro": {2, gi}, "t3.small": {2, 2 * gi}, "t3.medium": {2, 4 * gi}, "t3.large": {2, 8 * gi}, "t3.xlarge": {4, 16 * gi}, "t3.2xlarge": {8, 32 * gi},
	"t4g.nano": {2, gi / 2}, "t4g.micro": {2, gi}, "t4g.small": {2, 2 * gi}, "t4g.medium": {2, 4 * gi}, "t4g.large": {2, 8 * gi}, "t4g.xlarge": {4, 16 * gi}, "t4g.2xlarge": {8, 32 * gi},
	"m5.large": {2, 8 * gi}, "m5.xlarge": {4, 16 * gi}, "m5.2xlarge": {8, 32 * gi}, "m5.4xlarge": {16, 64 * gi},
	"m6i.large": {2, 8 * gi}, "m6i.xlarge": {4, 16 * gi}, "m6i.2xlarge": {8, 32 * gi}, "m6i.4xlarge": {16, 64 * gi},
	"m7g.medium": {1, 4 * gi}, "m7g.large": {2, 8 * gi}, "m7g.xlarge": {4, 16 * gi}, "m7g.2xlarge": {8, 32 * gi},
	"c5.large": {2, 4 * gi}, "c5.xlarge": {4, 8 * gi}, "c5.2xlarge": {8, 16 * gi}, "c6i.large": {2, 4 * gi}, "c6i.xlarge": {4, 8 * gi}, "c6i.2xlarge": {8, 16 * gi},
	"r5.large": {2, 16 * gi}, "r5.xlarge": {4, 32 * gi}, "r5.2xlarge": {8, 64 * gi}, "r6i.large": {2, 16 * gi}, "r6i.xlarge": {4, 32 * gi},
}

// pack is what must share an instance: a service, or the members of one group replica.
type pack struct {
	list   []*graph.Service
	wish   wish
	cpu    float64
	memory int64
	ports  map[string]bool
}

// box is an instance in the making.
type box struct {
	name   string
	packs  []*pack
	cpu    float64
	memory int64
	ports  map[string]bool
	sets   map[string]bool
	roles  []string // all that its services ask for
	n      int
}

// first is the service that errors about the instance are told of; one of nobody if it is empty.
func (b *box) first() *graph.Service {
	if len(b.packs) == 0 {
		return &graph.Service{Address: graph.Address{Name: b.name}, Path: []string{"defaults", "ec2"}}
	}
	return b.packs[0].list[0]
}

// kindOf is what instances that may share services have in common.
type kindOf struct {
	pool, location, instanceType, image, labels string
}

type packer struct {
	g     *graph.Graph
	prev  map[string]string
	boxes map[kindOf][]*box
	at    map[string]*box // name → box
	errs  diag.List
	whys  map[string]string
	allow map[string]string // address → how it may be reached from other networks
	group map[string]string // instance → its security group
	named map[string]string // name in DNS → whose it is
	known Context
}

// Context is what earlier applies and this run tell of modules.
type Context struct {
	Output   func(key string) string  // what modules are known to give; "" = not known
	Deployed func(module string) bool // it was made
	Attach   map[string]bool          // modules of attachments that this run was asked for, or to do without
}

// Pack gives services of the backend ec2 instances to run on: machines and
// resources are added to the graph, and the services belong to the backend that
// runs them there. Where a service was before, it stays as long as it fits.
// The reasons say why each is where it is.
func Pack(g *graph.Graph, prev map[string]string, known Context) (map[string]string, diag.List) {
	p := &packer{g: g, prev: prev, boxes: map[kindOf][]*box{}, at: map[string]*box{}, whys: map[string]string{}, allow: map[string]string{}, group: map[string]string{}, named: map[string]string{}, known: known}
	packs := p.packs()
	if len(g.Scaled) > 0 {
		g.Services = slices.DeleteFunc(g.Services, func(s *graph.Service) bool { return slices.Contains(g.Scaled, s) })
	}
	if len(p.errs) > 0 {
		return p.whys, p.errs.Sort()
	}
	// Who was on an instance goes first, so that nobody is pushed off by what is new.
	slices.SortStableFunc(packs, func(a, b *pack) int {
		return order(p.was(a) == "", p.was(b) == "")
	})
	var with []*pack
	for _, k := range packs {
		if k.list[0].Place.With != "" {
			with = append(with, k)
			continue
		}
		p.place(k)
	}
	for _, k := range with {
		p.follow(k)
	}
	p.keep()
	p.make()
	return p.whys, p.errs.Sort()
}

func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (p *packer) packs() []*pack {
	var out []*pack
	at := map[string]*pack{}
	for _, s := range p.g.Services {
		if s.Backend != Name || s.Fact != nil {
			continue
		}
		var w wish
		if len(s.EC2) > 0 && string(s.EC2) != "null" {
			dec := json.NewDecoder(bytes.NewReader(s.EC2))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&w); err != nil {
				p.fail(s, append(slices.Clone(s.Path), "ec2"), "%s", strings.TrimPrefix(err.Error(), "json: ")).WithHint("there is run, class, instanceType, image, allow, min, max, cpu, profile")
				continue
			}
		}
		if w.Class == "" {
			w.Class = p.g.EC2.Class
		}
		if w.Run == "" {
			w.Run = "systemd"
		}
		if w.InstanceType == "" {
			w.InstanceType = p.g.EC2.InstanceType
		}
		if w.Image == "" {
			w.Image = p.g.EC2.Image
		}
		said := append(slices.Clone(s.Path), "ec2")
		switch {
		case w.Class != "" && w.Class != "shared" && w.Class != "exclusive" && w.Class != "autoscale":
			p.fail(s, append(said, "class"), "%q is no class", w.Class).WithHint("shared, exclusive or autoscale")
			continue
		case w.Run != "systemd" && w.Run != "docker":
			p.fail(s, append(said, "run"), "%q runs nothing on instances", w.Run).WithHint("systemd or docker")
			continue
		case w.InstanceType == "":
			p.fail(s, s.Path, "on which type of instances does it run?").WithHint("defaults: { ec2: { instanceType: 't3.small' } }")
			continue
		case w.Image == "":
			p.fail(s, s.Path, "of which image are its instances?").WithHint("defaults: { ec2: { image: 'ami-…' } }, of a system with systemd")
			continue
		case w.Allow != "" && w.Allow != "public" && w.Allow != "ipsec":
			p.fail(s, append(said, "allow"), "%q is no way between networks", w.Allow).WithHint("public or ipsec")
			continue
		case s.Place.Every != "":
			p.fail(s, append(slices.Clone(s.Path), "place", "every"), "instances come from what runs on them: one for every machine has no place to begin").WithHint("place: { with: 'another' }")
			continue
		}
		s.Backend = w.Run
		if w.Class == "autoscale" {
			p.scale(s, w)
			continue
		}
		p.allow[s.Address.String()] = w.Allow
		if s.Place.Machine != "" { // it has its place
			continue
		}
		a := s.Address
		key := graph.Address{Lib: a.Lib, Name: a.Name, Replica: a.Replica}.String()
		k := at[key]
		if k == nil {
			k = &pack{wish: w, ports: map[string]bool{}}
			at[key] = k
			out = append(out, k)
		}
		k.list = append(k.list, s)
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

// stem begins the names of what is made for a functionality.
func stem(a graph.Address) string { return a.Lib + "-" + a.Name }

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

func (p *packer) fail(s *graph.Service, path []string, format string, args ...any) *diag.Error {
	e := diag.Errorf(s.Address.String(), format, args...).At(path...)
	p.errs = append(p.errs, e)
	return e
}

func (p *packer) was(k *pack) string {
	for _, s := range k.list {
		if m := p.prev[s.Address.String()]; m != "" {
			return m
		}
	}
	return ""
}

func (p *packer) kind(k *pack) kindOf {
	pl := k.list[0].Place
	pool := pl.Pool
	if pool == "" {
		pool = p.g.EC2.Pool
	}
	var labels []string
	for _, n := range slices.Sorted(maps.Keys(pl.Labels)) {
		labels = append(labels, n+"="+pl.Labels[n])
	}
	return kindOf{pool, pl.Location, k.wish.InstanceType, k.wish.Image, strings.Join(labels, " ")}
}

// room is what an instance of a kind has, without what the system itself takes.
func (p *packer) room(kind kindOf) room {
	r := rooms[kind.instanceType]
	cpu, memory, err := amounts(p.g.EC2.Capacity.CPU, p.g.EC2.Capacity.Memory)
	if err != nil {
		panic(err) // it was decoded
	}
	if cpu > 0 {
		r.cpu = cpu
	}
	if memory > 0 {
		r.memory = memory
	}
	return r
}

// fits gives the reason why a pack cannot go into a box, or "".
func (p *packer) fits(k *pack, b *box, kind kindOf) string {
	r := p.room(kind)
	switch {
	case p.g.EC2.ServicesPerInstance > 0 && b.n+len(k.list) > p.g.EC2.ServicesPerInstance:
		return "has its services already"
	case r.cpu > 0 && b.cpu+k.cpu > r.cpu:
		return "has too little cpu left"
	case r.memory > 0 && b.memory+k.memory > r.memory*9/10:
		return "has too little memory left"
	case k.list[0].Place.Spread == "machine" && b.sets[k.list[0].Address.Functionality()]:
		return "has a replica already"
	case slices.Contains(k.list[0].Place.Except, b.name):
		return "is excepted"
	}
	for port := range k.ports {
		if b.ports[port] {
			return "has port " + port + " taken"
		}
	}
	return ""
}

func (p *packer) place(k *pack) {
	kind := p.kind(k)
	s := k.list[0]
	if k.wish.Class == "exclusive" {
		name := s.Address.Lib + "-" + s.Address.Name
		if s.Address.Replica != "" {
			name += "-" + s.Address.Replica
		}
		b := &box{name: name, ports: map[string]bool{}, sets: map[string]bool{}}
		if why := p.fits(k, b, kind); why != "" {
			p.fail(s, append(slices.Clone(s.SpecPath), "limits"), "an instance of type %s %s for it", kind.instanceType, why).WithHint("a larger instanceType")
			return
		}
		kind.pool += "\x00" + name // nobody else goes there
		p.boxes[kind] = append(p.boxes[kind], b)
		p.put(k, b, "exclusive: an instance of its own")
		return
	}
	was := p.was(k)
	stem := strings.Join(slices.DeleteFunc([]string{"ec2", kind.pool, kind.location}, func(s string) bool { return s == "" }), "-")
	if n, ok := strings.CutPrefix(was, stem+"-"); ok {
		if _, err := strconv.Atoi(n); err == nil {
			b := p.at[was]
			if b == nil {
				b = &box{name: was, ports: map[string]bool{}, sets: map[string]bool{}}
			}
			if (p.at[was] == nil || slices.Contains(p.boxes[kind], b)) && p.fits(k, b, kind) == "" {
				if p.at[was] == nil {
					p.boxes[kind] = append(p.boxes[kind], b)
				}
				p.put(k, b, was+" kept")
				return
			}
		}
	}
	for _, b := range p.boxes[kind] {
		if p.fits(k, b, kind) == "" {
			p.put(k, b, "packed onto the first instance with room for it")
			return
		}
	}
	taken := func(name string) bool { return p.at[name] != nil || p.g.Machine(name) != nil }
	for i := 0; ; i++ {
		name := stem + "-" + strconv.Itoa(i)
		if taken(name) {
			continue
		}
		b := &box{name: name, ports: map[string]bool{}, sets: map[string]bool{}}
		if why := p.fits(k, b, kind); why != "" {
			p.fail(s, append(slices.Clone(s.SpecPath), "limits"), "an empty instance of type %s %s for it", kind.instanceType, why).WithHint("a larger instanceType, or smaller limits")
			return
		}
		p.boxes[kind] = append(p.boxes[kind], b)
		p.put(k, b, "packed onto a new instance: no other has room for it")
		return
	}
}

// keep lets an instance be as long as something stands on it: what moves away
// is ready elsewhere first, and what is protected stays. When it is empty, the
// next plan lets it go.
func (p *packer) keep() {
	for _, m := range p.g.PreviousMachines {
		if m.Module == "" || p.at[m.Name] != nil || p.g.Machine(m.Name) != nil {
			continue
		}
		stands := false
		for _, on := range p.prev {
			stands = stands || on == m.Name
		}
		typ, image, _ := strings.Cut(m.Kind, " ")
		if !stands || image == "" {
			continue
		}
		var labels []string
		for _, n := range slices.Sorted(maps.Keys(m.Labels)) {
			labels = append(labels, n+"="+m.Labels[n])
		}
		b := &box{name: m.Name, roles: m.Roles}
		p.at[m.Name] = b
		kind := kindOf{m.Pool, m.Location, typ, image, strings.Join(labels, " ")}
		p.boxes[kind] = append(p.boxes[kind], b)
	}
}

// follow puts a pack where what it runs with is.
func (p *packer) follow(k *pack) {
	set := k.list[0].Place.With
	for _, name := range slices.Sorted(maps.Keys(p.at)) {
		b := p.at[name]
		for _, o := range b.packs {
			if a := o.list[0].Address; a.Set() == set || a.Functionality() == set {
				p.put(k, b, "with "+set)
				return
			}
		}
	}
	p.fail(k.list[0], append(slices.Clone(k.list[0].Path), "place", "with"), "runs with %s, which is on no instance", set).WithHint("name what has the backend ec2 too")
}

func (p *packer) put(k *pack, b *box, why string) {
	p.at[b.name] = b
	b.packs = append(b.packs, k)
	b.cpu += k.cpu
	b.memory += k.memory
	b.n += len(k.list)
	b.roles = append(b.roles, k.list[0].Place.Roles...)
	slices.Sort(b.roles)
	b.roles = slices.Compact(b.roles)
	b.sets[k.list[0].Address.Functionality()] = true
	maps.Copy(b.ports, k.ports)
	for _, s := range k.list {
		s.Place.Machine = b.name
		p.whys[s.Address.String()] = why
	}
}

// make adds machines and resources to the graph.
func (p *packer) make() {
	names := map[string]bool{}
	for _, r := range p.g.Resources {
		names[r.Address.String()] = true
	}
	for kind, boxes := range p.boxes {
		kind.pool, _, _ = strings.Cut(kind.pool, "\x00")
		for _, b := range boxes {
			if p.g.Machine(b.name) != nil || names[b.name] || !graph.ValidName(b.name) {
				s := b.first()
				p.fail(s, append(slices.Clone(s.Path), "place"), "its instance would be called %q, which is taken or too long", b.name).WithHint("another pool, or another name of the machine or resource")
				continue
			}
			p.instance(kind, b)
		}
	}
	p.g.Sort()
	if len(p.errs) == 0 {
		p.reach()
		p.balance()
		p.names()
		p.g.Sort()
	}
}

// Module is the module of the instances of a pool.
func moduleOf(kind kindOf) string {
	return strings.Join(slices.DeleteFunc([]string{"pool", kind.pool, kind.location}, func(s string) bool { return s == "" }), "-")
}

func (p *packer) instance(kind kindOf, b *box) {
	e := p.g.EC2
	loc, known := e.Locations[kind.location]
	s := b.first()
	if kind.location != "" && !known {
		p.fail(s, append(slices.Clone(s.Path), "place", "location"), "where is location %q?", kind.location).
			WithHint("defaults: { ec2: { locations: { %s: { region: 'eu-central-1' } } } }", kind.location)
		return
	}
	if loc.Region == "" {
		loc.Region = e.Region
	}
	if len(loc.Subnet) == 0 {
		loc.Subnet = e.Subnet
	}
	if loc.Region == "" {
		p.fail(s, s.Path, "in which region does it run?").WithHint("defaults: { ec2: { region: 'eu-central-1' } }")
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
	module := moduleOf(kind)
	f := map[string]any{
		"module": token.Lit(module), "region": token.Lit(loc.Region), "image": token.Lit(kind.image), "instanceType": token.Lit(kind.instanceType),
		"userData": token.Lit(UserData(user, e.AuthorizedKeys)), "userDataReplaceOnChange": false, "ignoreChanges": []any{token.Lit("userData")},
		"metadataOptions": map[string]any{"httpTokens": token.Lit("required"), "httpPutResponseHopLimit": 1.0},
		"tags":            map[string]any{"Name": token.Lit(p.g.Environment + "-" + p.g.Name + "-" + b.name)},
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
	keeps := slices.ContainsFunc(b.packs, func(k *pack) bool {
		return slices.ContainsFunc(k.list, func(s *graph.Service) bool { return s.Spec.Dirs.State != "" })
	})
	p.g.Resources = append(p.g.Resources, &graph.Resource{Address: graph.Address{Name: b.name}, Type: "aws.instance", Fields: f, Path: []string{"defaults", "ec2"}, Retained: keeps})
	var labels map[string]string
	for _, l := range strings.Fields(kind.labels) {
		if labels == nil {
			labels = map[string]string{}
		}
		n, v, _ := strings.Cut(l, "=")
		labels[n] = v
	}
	m := &graph.Machine{Name: b.name, Pool: kind.pool, Location: kind.location, Roles: b.roles, Labels: labels, Capacity: e.Capacity, Via: e.Via, Kind: kind.instanceType + " " + kind.image,
		Connect: "ssh://" + user + "@", Module: graph.Address{Lib: graph.ModuleLib, Name: module}.String(),
		Output:   plan.Key(token.Token{Kind: token.Ref, Name: b.name, Field: "output", Arg: address}),
		Identity: plan.Key(token.Token{Kind: token.Ref, Name: b.name, Field: "output", Arg: "id"})}
	if at := p.known.Output(m.Output); at != "" {
		m.Address = at
		m.Connect += at
		for _, old := range p.g.PreviousMachines {
			if old.Name == m.Name && old.Address == at {
				m.HostKey, m.Instance = old.HostKey, old.Instance
			}
		}
	}
	p.g.Machines = append(p.g.Machines, m)
}

// UserData prepares an instance at its first boot. It holds no secret and
// nothing of any service: a changed service never changes its instance. The
// host key is made on the instance, as its image does, and pinned at the first
// contact; the agent comes over ssh.
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
