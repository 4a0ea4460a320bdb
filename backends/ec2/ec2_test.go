package ec2

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/internal/token"
	"pgregory.net/rapid"
)

// readOf returns a text that reads an output of a resource.
func readOf(resource, output string) token.Text {
	return token.Text{{Token: &token.Token{Kind: token.Ref, Of: "set", Name: resource, Field: "output", Arg: output}}}
}

func resource(name, typ string, fields map[string]any) *graph.Resource {
	return &graph.Resource{Address: graph.Address{Name: name}, Type: typ, Fields: fields, Path: []string{"resources", name}}
}

func sample() *graph.Graph {
	g := &graph.Graph{Name: "shop", Environment: "dev", EC2: graph.Instances{Region: "eu-central-1"}, Resources: []*graph.Resource{
		resource("vpc", "aws.vpc", map[string]any{"cidr": token.Lit("10.0.0.0/16"), "protect": true, "tags": map[string]any{"Note": token.Lit("costs ${5} or 5%{")}}),
		resource("a", "aws.subnet", map[string]any{"vpc": readOf("vpc", "id"), "cidr": token.Lit("10.0.1.0/24"), "zone": token.Lit("eu-central-1a")}),
		resource("box", "aws.instance", map[string]any{"image": token.Lit("ami-12345678"), "instanceType": token.Lit("t3.small"), "subnet": readOf("a", "id"),
			"tags": map[string]any{"Name": append(token.Lit("in $"), readOf("a", "id")...)}}),
	}}
	g.Sort()
	return g
}

// TestModules_Golden compares a module that reads another one with the golden files.
func TestModules_Golden(t *testing.T) {
	out, errs := New().Modules(sample())
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, m := range out.List {
		real, err := Realize(m.Payload, func(tok token.Token) (string, bool) { return "subnet-${1}", tok.Name == "a" })
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", m.Address.Name+".tf.json")
		if os.Getenv("UPDATE") == "1" {
			if err := os.WriteFile(file, append(real.JSON, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(real.JSON) + "\n"; got != string(want) {
			t.Errorf("%s differs from %s (UPDATE=1 writes it):\n%s", m.Address, file, got)
		}
	}
	if names := []string{out.List[0].Address.String(), out.List[1].Address.String()}; !slices.Equal(names, []string{"module/instances", "module/network"}) {
		t.Errorf("modules: %v", names)
	}
	if !out.List[1].Protect || !slices.Equal(out.List[0].Requires, []string{"module/network"}) {
		t.Errorf("%+v", out.List)
	}
	if _, err := Realize(out.List[0].Payload, func(token.Token) (string, bool) { return "", false }); err == nil {
		t.Error("a missing value was ignored")
	}
}

// TestModules_OrderIndependent checks that modules do not depend on the order of resources.
func TestModules_OrderIndependent(t *testing.T) {
	a, _ := New().Modules(sample())
	g := sample()
	slices.Reverse(g.Resources)
	g.Sort()
	b, _ := New().Modules(g)
	for i := range a.List {
		if string(a.List[i].Payload.Run) != string(b.List[i].Payload.Run) {
			t.Errorf("%s\n%s", a.List[i].Payload.Run, b.List[i].Payload.Run)
		}
	}
}

// template evaluates a template as Terraform does: $${ and %%{ are escapes, and the only expressions
// are those of escape.
func template(t interface{ Fatalf(string, ...any) }, s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		rest := s[i:]
		switch {
		case strings.HasPrefix(rest, `${"$"}`):
			b.WriteByte('$')
			i += len(`${"$"}`)
		case strings.HasPrefix(rest, `${"%"}`):
			b.WriteByte('%')
			i += len(`${"%"}`)
		case strings.HasPrefix(rest, "$${"), strings.HasPrefix(rest, "%%{"):
			b.WriteString(rest[1:3])
			i += 3
		case strings.HasPrefix(rest, "${"), strings.HasPrefix(rest, "%{"):
			t.Fatalf("%q opens an expression at %d", s, i)
		default:
			b.WriteByte(s[i])
			i++
		}
	}
	return b.String()
}

// TestEscape_NeverAnExpression checks that escaped texts are read literally, next to any other text.
func TestEscape_NeverAnExpression(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringOfN(rapid.SampledFrom([]rune(`$%{}"ax `)), 0, 8, -1)
		list := rapid.SliceOfN(part, 1, 4).Draw(t, "parts")
		var written strings.Builder
		for i, p := range list {
			written.WriteString(escape(p, i+1 < len(list)))
		}
		if got, want := template(t, written.String()), strings.Join(list, ""); got != want {
			t.Fatalf("%q is read as %q, and was %q", written.String(), got, want)
		}
	})
}

// service returns a service of the backend ec2.
func service(name, replica string, edit ...func(*graph.Service)) *graph.Service {
	sole := replica == ""
	if sole {
		replica = graph.FirstReplica
	}
	s := &graph.Service{Address: graph.Address{Lib: "app", Name: name, Replica: replica}, Sole: sole, Backend: Name, Path: []string{"libs", "app", name}, SpecPath: []string{"libs", "app", name, "service"}}
	for _, e := range edit {
		e(s)
	}
	return s
}

func pooled(list ...*graph.Service) *graph.Graph {
	g := &graph.Graph{Name: "shop", Environment: "dev", Services: list,
		EC2: graph.Instances{Region: "eu-central-1", InstanceType: "t3.small", Image: "ami-12345678", ServicesPerInstance: 2}}
	g.Sort()
	return g
}

func places(g *graph.Graph) string {
	var out []string
	for _, s := range g.Services {
		out = append(out, s.String()+"@"+s.Place.Machine)
	}
	return strings.Join(out, " ")
}

var nothingKnown = ModuleState{Output: func(string) string { return "" }, Deployed: func(string) bool { return false }}

// TestPack_Placement has services, where they were, and where they are placed.
func TestPack_Placement(t *testing.T) {
	memory := func(m string) func(*graph.Service) {
		return func(s *graph.Service) { s.Spec.Limits = &graph.Limits{Memory: m} }
	}
	port := func(n int) func(*graph.Service) {
		return func(s *graph.Service) { s.Spec.Ports = map[string]graph.Port{"http": {Port: n, Protocol: "tcp"}} }
	}
	exclusive := func(s *graph.Service) { s.EC2 = json.RawMessage(`{"class":"exclusive"}`) }
	at := func(location string) func(*graph.Service) {
		return func(s *graph.Service) { s.Place.Location = location }
	}
	spread := func(s *graph.Service) { s.Place.Spread = "machine" }
	for name, c := range map[string]struct {
		g    *graph.Graph
		prev map[string]string
		want string
	}{
		"the number of services is limited": {pooled(service("a", ""), service("b", ""), service("c", "")), nil, "app/a@ec2-0 app/b@ec2-0 app/c@ec2-1"},
		"memory is limited":                 {pooled(service("a", "", memory("1Gi")), service("b", "", memory("1Gi")), service("c", "", memory("512Mi"))), nil, "app/a@ec2-0 app/b@ec2-1 app/c@ec2-0"},
		"decimal units count":               {pooled(service("a", "", memory("1500M")), service("b", "", memory("1500M"))), nil, "app/a@ec2-0 app/b@ec2-1"},
		"a port is used once":               {pooled(service("a", "", port(80)), service("b", "", port(80))), nil, "app/a@ec2-0 app/b@ec2-1"},
		"services stay where they were":     {pooled(service("a", ""), service("b", ""), service("c", "")), map[string]string{"app/b#0": "ec2-1", "app/c#0": "ec2-1"}, "app/a@ec2-0 app/b@ec2-1 app/c@ec2-1"},
		"exclusive has its own instance":    {pooled(service("a", "", exclusive), service("b", "")), nil, "app/a@app-a-0 app/b@ec2-0"},
		"replicas are spread":               {pooled(service("a", "0", spread), service("a", "1", spread)), nil, "app/a#0@ec2-0 app/a#1@ec2-1"},
		"a location has its own instances":  {pooled(service("a", "", at("south")), service("b", "")), nil, "app/a@ec2-south-0 app/b@ec2-0"},
	} {
		t.Run(name, func(t *testing.T) {
			c.g.EC2.Locations = map[string]graph.Location{"south": {Region: "eu-south-1"}}
			if _, errs := Pack(c.g, c.prev, nothingKnown); len(errs) > 0 {
				t.Fatal(errs)
			}
			if got := places(c.g); got != c.want {
				t.Errorf("%s\nis not\n%s", got, c.want)
			}
			if _, errs := New().Modules(c.g); len(errs) > 0 {
				t.Error(errs)
			}
		})
	}
}

// TestPack_KeepsOccupiedInstance checks that an instance is kept while a deployed unit is on it.
func TestPack_KeepsOccupiedInstance(t *testing.T) {
	g := pooled(service("a", ""))
	g.PreviousMachines = []*graph.Machine{{Name: "ec2-7", Module: "module/pool", Kind: "t3.small ami-12345678"}, {Name: "ec2-8", Module: "module/pool", Kind: "t3.small ami-12345678"}}
	if _, errs := Pack(g, map[string]string{"app/gone": "ec2-7"}, nothingKnown); len(errs) > 0 {
		t.Fatal(errs)
	}
	if g.Machine("ec2-7") == nil || g.Machine("ec2-8") != nil || g.Resource("ec2-7") == nil {
		t.Errorf("machines: %v", g.Machines)
	}
}

// TestPack_ConnectionsBetweenNetworks checks that a connection to another network needs ec2.allow.
func TestPack_ConnectionsBetweenNetworks(t *testing.T) {
	build := func(allow string) *graph.Graph {
		north := service("north", "", func(s *graph.Service) { s.Place.Location = "north" })
		south := service("south", "", func(s *graph.Service) {
			s.Place.Location = "south"
			s.EC2 = json.RawMessage(`{"allow":"` + allow + `"}`)
			s.Spec.Ports = map[string]graph.Port{"sql": {Port: 5432, Protocol: "tcp"}}
		})
		north.Requires = []graph.Edge{{Alias: "db", Set: "app/south", To: []graph.Address{south.Address}}}
		g := pooled(north, south)
		g.EC2.Locations = map[string]graph.Location{}
		for i, where := range []string{"north", "south"} {
			cidr := token.Lit([]string{"10.1.0.0/16", "10.2.0.0/16"}[i])
			g.Resources = append(g.Resources, resource(where+"-vpc", "aws.vpc", map[string]any{"cidr": cidr}), resource(where+"-a", "aws.subnet", map[string]any{"vpc": readOf(where+"-vpc", "id"), "cidr": cidr}))
			g.EC2.Locations[where] = graph.Location{Subnet: readOf(where+"-a", "id")}
		}
		g.Sort()
		return g
	}
	_, errs := Pack(build(""), nil, nothingKnown)
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "there is no connection between these networks") {
		t.Errorf("%v", errs)
	}
	g := build("public")
	if _, errs := Pack(g, nil, nothingKnown); len(errs) > 0 {
		t.Fatal(errs)
	}
	if r := g.Resource("ec2-south-0-tcp-5432-public"); r == nil || r.Type != "aws.ingressRule" {
		t.Error("there is no ingress rule")
	}
	if _, errs := New().Modules(g); len(errs) > 0 {
		t.Error(errs)
	}
}

// TestModules_ServiceDoesNotChangeInstance checks that an instance does not depend on its services.
func TestModules_ServiceDoesNotChangeInstance(t *testing.T) {
	boot := func(command string) string {
		g := pooled(service("a", "", func(s *graph.Service) { s.Spec.Command = []token.Text{token.Lit(command)} }))
		if _, errs := Pack(g, nil, nothingKnown); len(errs) > 0 {
			t.Fatal(errs)
		}
		out, errs := New().Modules(g)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		return string(out.List[0].Payload.Run)
	}
	if boot("/bin/one") != boot("/bin/two") {
		t.Error("the module of the instances depends on what runs there")
	}
}

// TestModules_InstanceWithDataIsProtected checks that Terraform does not delete an instance, and its
// disk, without consent.
func TestModules_InstanceWithDataIsProtected(t *testing.T) {
	for _, state := range []string{"", "db"} {
		g := pooled(service("db", "", func(s *graph.Service) { s.Spec.Dirs.State.Name = state }))
		if _, errs := Pack(g, nil, nothingKnown); len(errs) > 0 {
			t.Fatal(errs)
		}
		out, errs := New().Modules(g)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		m, err := Realize(out.List[0].Payload, func(token.Token) (string, bool) { return "x", true })
		if err != nil {
			t.Fatal(err)
		}
		if keeps := m.IsProtected("aws_instance.ec2-0"); keeps != (state != "") {
			t.Errorf("state %q: %v", state, m.Protected)
		}
	}
}
