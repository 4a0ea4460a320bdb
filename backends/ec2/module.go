package ec2

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/sets"
	"github.com/defx-dev/defx/internal/token"
)

// The supported versions of the AWS provider.
const (
	awsSource  = "hashicorp/aws"
	awsVersion = ">= 5.100.0, < 7.0.0"
)

// MinVersion is the oldest supported version of Terraform.
const MinVersion = "1.5.0"

// payload is a module as data: Terraform's input, with refs to other modules and services as
// symbols.
type payload struct {
	Providers      map[string]provider       `json:"providers"`
	Resources      map[string]map[string]any `json:"resources"`       // type → name → body
	Outputs        map[string]output         `json:"outputs"`         // by name in Terraform
	Addresses      map[string]string         `json:"addresses"`       // Terraform address → address in the graph
	Protected      []string                  `json:"keeps,omitempty"` // Terraform addresses
	OrphanOnDelete []string                  `json:"retains,omitempty"`
}

type provider struct {
	Source  string `json:"source"`
	Version string `json:"version,omitempty"`
	Config  any    `json:"config,omitempty"`
}

type output struct {
	Key   string `json:"key"`   // vpc.output(id)
	Value string `json:"value"` // Terraform expression
}

// Modules returns the modules of the graph's resources.
func (b *Backend) Modules(g *graph.Graph) (backends.Modules, diag.List) {
	c := &checker{g: g, nodes: map[string]*node{}}
	if r := g.EC2.Region; r != "" && !regionRE.MatchString(r) {
		return backends.Modules{}, diag.List{diag.Errorf("", "%q is not a region", r).At("defaults", "ec2", "region").WithHint("for example 'eu-central-1'")}
	}
	if err := checkAccess(g.EC2); err != nil {
		return backends.Modules{}, diag.List{err}
	}
	var all []*node
	for _, r := range g.Resources {
		if !b.MakesType(r.Type) {
			continue
		}
		if m := c.newNode(b, r); m != nil {
			all = append(all, m)
			c.nodes[m.address()] = m
		}
	}
	fields := map[*node]map[string]any{}
	for _, m := range all {
		fields[m] = c.commonFields(m)
	}
	if len(c.errs) > 0 {
		return backends.Modules{}, c.errs.Sort()
	}
	c.assignModules(all, fields)
	for _, m := range all {
		at, arguments := m.resource.Path, fields[m]
		if m.resource.Type == anyType {
			at = m.at("arguments")
			arguments, _ = fields[m]["arguments"].(map[string]any)
		}
		c.fields(m, arguments, at)
	}
	for _, m := range all {
		c.checkRules(m)
	}
	c.checkRelations(all)
	c.checkCycles(all)
	if len(c.errs) > 0 {
		return backends.Modules{}, c.errs.Sort()
	}
	out := backends.Modules{Output: c.lookup}
	outputs := c.requestedOutputs(all)
	for _, name := range sets.Keys(members(all)) {
		m, errs := c.renderModule(name, members(all)[name], outputs)
		c.errs = append(c.errs, errs...)
		out.List = append(out.List, m)
	}
	return out, c.errs.Sort()
}

// members returns the resources of each module.
func members(all []*node) map[string][]*node {
	out := map[string][]*node{}
	for _, m := range all {
		out[m.module] = append(out[m.module], m)
	}
	return out
}

// newNode returns the node of a resource, or nil after an error.
func (c *checker) newNode(b *Backend, r *graph.Resource) *node {
	m := &node{resource: r, name: identifier(r.Address), positions: map[string][]string{}, source: awsSource}
	if r.Type == anyType {
		return c.newAnyNode(b, m)
	}
	w, ok := resourceTypes[r.Type]
	if !ok {
		e := diag.Errorf(m.address(), "unknown resource type %q", r.Type).At(m.at("type")...)
		if strings.HasPrefix(r.Type, "aws_") && builtInSchema().Resources[r.Type] != nil {
			e.WithHint("type: '%s', resource: '%s', arguments: { … }", anyType, r.Type)
		} else {
			e.WithHint("%s", suggest(r.Type, Types()))
		}
		c.errs = append(c.errs, e)
		return nil
	}
	m.typ, m.schema = w, builtInSchema().Resources[w.tfType]
	return m
}

// newAnyNode reads the fields of a terraform.resource: { resource, provider, version, config,
// arguments }.
func (c *checker) newAnyNode(b *Backend, m *node) *node {
	valid := true
	text := func(k string) string {
		v, has := m.resource.Fields[k]
		if !has {
			return ""
		}
		s, ok := literal(v)
		if !ok || s == "" {
			c.errorf(m, m.at(k), "%s must be a string without references", k).WithHint("%s: '…'", k)
			valid = false
		}
		return s
	}
	name, source := text("resource"), text("provider")
	for _, field := range []struct {
		name, value string
		grammar     *regexp.Regexp
		hint        string
	}{{"resource", name, typeRE, "resource: 'aws_sqs_queue'"}, {"provider", source, sourceRE, "provider: 'hashicorp/google'"}, {"version", text("version"), versionRE, "version: '~> 5.0'"}} {
		if field.value != "" && !field.grammar.MatchString(field.value) {
			c.errorf(m, m.at(field.name), "%q is not a valid %s", field.value, field.name).WithHint("%s", field.hint)
			valid = false
		}
	}
	if name == "" && valid {
		c.errorf(m, m.resource.Path, "%q is missing: the resource type in Terraform", "resource").WithHint("resource: 'aws_sqs_queue'")
		valid = false
	}
	if v, has := m.resource.Fields["arguments"]; has {
		if _, ok := v.(map[string]any); !ok {
			c.errorf(m, m.at("arguments"), "arguments must be an object, not %s", describe(v)).WithHint("arguments: { … }")
			valid = false
		}
	}
	for _, k := range sets.Keys(m.resource.Fields) {
		known := append([]string{"resource", "provider", "version", "config", "arguments"}, commonFieldNames...)
		if !slices.Contains(known, k) {
			c.errorf(m, m.at(k), "%s has no field %q", anyType, k).WithHint("%s", suggest(k, known))
			valid = false
		}
	}
	if !valid {
		return nil
	}
	prefix, _, _ := strings.Cut(name, "_")
	if source == "" {
		source = "hashicorp/" + prefix
	}
	m.source = source
	m.typ = resourceType{tfType: name}
	if source == awsSource {
		if m.schema = builtInSchema().Resources[name]; m.schema != nil {
			return m
		}
	}
	if s := b.Schemas[source]; s != nil {
		var known bool
		if m.schema, known = s.Resources[name]; !known {
			c.errorf(m, m.at("resource"), "provider %s has no resource %q", source, name).WithHint("%s", suggest(name, slices.Collect(maps.Keys(s.Resources))))
			return nil
		}
	}
	if m.schema != nil {
		return m
	}
	if source == awsSource && !strings.HasPrefix(name, "aws_") {
		c.errorf(m, m.at("resource"), "%q is not a resource type of %s", name, source).WithHint("%s", suggest(name, slices.Collect(maps.Keys(builtInSchema().Resources))))
		return nil
	}
	if b.Locked {
		c.errorf(m, m.at("resource"), "the schema of %s of provider %s is not locked", name, source).
			WithHint("planning runs no provider: run defx providers lock, which asks it once")
		return nil
	}
	return m
}

// Required is what a deployment asks of a provider.
type Required struct {
	Version string   // constraint
	Types   []string // resource types whose schema is not built in, sorted
}

// RequiredProviders returns the providers of a graph's resources by their source.
func RequiredProviders(g *graph.Graph) map[string]Required {
	out := map[string]Required{}
	for _, r := range g.Resources {
		if _, known := resourceTypes[r.Type]; known {
			out[awsSource] = Required{awsVersion, out[awsSource].Types}
			continue
		}
		name, ok := literal(r.Fields["resource"])
		if r.Type != anyType || !ok {
			continue
		}
		source, _ := literal(r.Fields["provider"])
		if source == "" {
			prefix, _, _ := strings.Cut(name, "_")
			source = "hashicorp/" + prefix
		}
		q := out[source]
		if v, _ := literal(r.Fields["version"]); v != "" {
			q.Version = v
		}
		if source == awsSource {
			q.Version = awsVersion
		}
		if source != awsSource || builtInSchema().Resources[name] == nil {
			q.Types = sets.Union(q.Types, []string{name})
		}
		out[source] = q
	}
	return out
}

// identifier returns the name of a resource in Terraform.
func identifier(a graph.Address) string {
	s := a.Name
	if a.Lib != "" {
		s = a.Lib + "_" + a.Name // names contain no _, so the parts stay separable
	}
	if s[0] >= '0' && s[0] <= '9' {
		s = "_" + s
	}
	return s
}

// assignModules sets the module and region of every resource.
func (c *checker) assignModules(all []*node, fields map[*node]map[string]any) {
	// A listener is in the module of its balancer, and a target group in that of its listener.
	follows := map[*node]*node{}
	for _, m := range all {
		walkTexts(fields[m], func(t token.Text) {
			for _, tok := range t.Tokens() {
				o := c.nodes[tok.Name]
				switch {
				case o == nil:
				case m.typ.tfType == "aws_lb_listener" && o.typ.tfType == "aws_lb":
					follows[m] = o
				case m.typ.tfType == "aws_lb_listener_rule" && o.typ.tfType == "aws_lb_listener":
					follows[m] = o
				case m.typ.tfType == "aws_autoscaling_group" && o.typ.tfType == "aws_launch_template":
					follows[o] = m
				case m.typ.tfType == "aws_autoscaling_policy" && o.typ.tfType == "aws_autoscaling_group":
					follows[m] = o
				}
			}
		})
	}
	for _, m := range all {
		if m.typ.tfType == "aws_lb_listener" || m.typ.tfType == "aws_lb_listener_rule" {
			walkTexts(fields[m], func(t token.Text) {
				for _, tok := range t.Tokens() {
					if o := c.nodes[tok.Name]; o != nil && o.typ.tfType == "aws_lb_target_group" && follows[o] == nil {
						follows[o] = m
					}
				}
			})
		}
	}
	defaultModule := func(m *node) string {
		switch {
		case m.module != "":
			return m.module
		case m.typ.module != "":
			return m.typ.module
		}
		return strings.Trim(strings.ReplaceAll(m.name, "_", "-"), "-")
	}
	for _, m := range all {
		at := m
		for range all { // to the end of the chain
			if at.module != "" || follows[at] == nil {
				break
			}
			at = follows[at]
		}
		name := defaultModule(at)
		if m.module == "" {
			m.module = name
		}
	}
	regions := map[string]*node{}
	for _, m := range all {
		if m.region == "" {
			continue
		}
		if first := regions[m.module]; first != nil && first.region != m.region {
			c.errorf(m, m.at("region"), "region is %q, but %s in the same module %q is in %q", m.region, first.address(), m.module, first.region).
				WithHint("a module has one region; set module: 'another-name'")
			continue
		}
		regions[m.module] = m
	}
	for _, m := range all {
		if m.source != awsSource || m.region != "" {
			continue
		}
		if first := regions[m.module]; first != nil {
			m.region = first.region
		} else if m.region = c.g.EC2.Region; m.region == "" {
			c.errorf(m, m.resource.Path, "no region is set").WithHint("set region: 'eu-central-1', or defaults: { ec2: { region: 'eu-central-1' } }")
		}
	}
}

// walkTexts calls f for every text in a value.
func walkTexts(v any, f func(token.Text)) {
	switch v := v.(type) {
	case token.Text:
		f(v)
	case []any:
		for _, x := range v {
			walkTexts(x, f)
		}
	case map[string]any:
		for _, k := range sets.Keys(v) {
			walkTexts(v[k], f)
		}
	}
}

// checkCycles refuses resources, and modules, that depend on each other in a cycle.
func (c *checker) checkCycles(all []*node) {
	next := map[string][]string{}
	at := map[string]*node{}
	path := map[string][]string{}
	for _, m := range all {
		at[m.address()] = m
		for _, r := range m.refs {
			next[m.address()] = append(next[m.address()], r.target.address())
			path[m.address()+" "+r.target.address()] = r.path
		}
	}
	if cycle := findCycle(next); cycle != nil {
		c.errorf(at[cycle[0]], path[cycle[0]+" "+cycle[1]], "resources depend on each other in a cycle: %s", strings.Join(cycle, " → ")).
			WithHint("remove one reference; a separate rule or attachment resource often breaks the cycle")
		return
	}
	next = map[string][]string{}
	for _, m := range all {
		for _, r := range m.refs {
			if r.target.module != m.module {
				next[m.module] = append(next[m.module], r.target.module)
				key := m.module + " " + r.target.module
				if path[key] == nil {
					path[key], at[key] = r.path, m
				}
			}
		}
	}
	if cycle := findCycle(next); cycle != nil {
		key := cycle[0] + " " + cycle[1]
		c.errorf(at[key], path[key], "modules depend on each other in a cycle: %s", strings.Join(cycle, " → ")).
			WithHint("put their resources into one module: module: '%s'", cycle[0])
	}
}

// findCycle returns a path from a name back to itself, or nil.
func findCycle(next map[string][]string) []string {
	state := map[string]int{} // 1 on the stack, 2 done
	var stack []string
	var visit func(string) []string
	visit = func(n string) []string {
		state[n] = 1
		stack = append(stack, n)
		for _, o := range sets.Union(next[n]) {
			if state[o] == 1 {
				cycle := slices.Clone(stack[slices.Index(stack, o):])
				return append(cycle, o)
			}
			if state[o] == 0 {
				if cycle := visit(o); cycle != nil {
					return cycle
				}
			}
		}
		state[n] = 2
		stack = stack[:len(stack)-1]
		return nil
	}
	for _, n := range sets.Keys(next) {
		if state[n] == 0 {
			if cycle := visit(n); cycle != nil {
				return cycle
			}
		}
	}
	return nil
}

// requestedOutputs lists the outputs of each resource: the usual ones, and those that others read.
func (c *checker) requestedOutputs(all []*node) map[*node][]string {
	set := map[*node]map[string]bool{}
	add := func(m *node, name string) {
		if m.schema == nil && name != "id" && set[m] == nil {
			set[m] = map[string]bool{}
		}
		if m.schema != nil {
			if a := m.schema.Block.Attributes[name]; a == nil || !a.scalar() || a.Sensitive {
				return
			}
		}
		if set[m] == nil {
			set[m] = map[string]bool{}
		}
		set[m][name] = true
	}
	for _, m := range all {
		for _, n := range append([]string{"id", "arn"}, m.typ.outputs...) {
			if m.schema != nil || n == "id" {
				add(m, n)
			}
		}
		for _, r := range m.refs {
			if r.target.module != m.module {
				add(r.target, r.attr)
			}
		}
	}
	for _, s := range c.g.Services {
		s.Spec.Texts(func(t token.Text) {
			for _, tok := range t.Tokens() {
				if m := c.nodes[tok.Name]; m != nil && tok.Kind == token.Ref {
					if n, hint := m.attr(tok); hint == "" {
						add(m, n)
					}
				}
			}
		})
	}
	out := map[*node][]string{}
	for m, names := range set {
		out[m] = sets.Keys(names)
	}
	return out
}

// lookup returns the output and the module that a ref reads.
func (c *checker) lookup(t token.Token) (key, module string, err *diag.Error) {
	m := c.nodes[t.Name]
	if m == nil {
		return "", "", diag.Errorf(t.Name, "unknown resource")
	}
	name, hint := m.attr(t)
	if hint != "" {
		return "", "", diag.Errorf("", "%s of type %s has no output %q", m.address(), m.resource.Type, t.Arg).WithHint("%s", hint)
	}
	if m.schema != nil {
		switch a := m.schema.Block.Attributes[name]; {
		case a.Sensitive:
			return "", "", diag.Errorf("", "%s is a secret, which defx does not pass on", t).WithHint("use it inside the module, or let the service read it from AWS")
		case !a.scalar():
			return "", "", diag.Errorf("", "%s is a list or an object, which only resources in the same module can read", t)
		}
	}
	return outputKey(m, name), m.unit(), nil
}

// outputKey returns the key of an output in plan.Values.
func outputKey(m *node, name string) string {
	return plan.Key(token.Token{Kind: token.Ref, Name: m.address(), Field: "output", Arg: name})
}

// unit returns the address of the node's module.
func (m *node) unit() string { return graph.Address{Lib: graph.ModuleLib, Name: m.module}.String() }

// renderModule returns the module of a list of resources.
func (c *checker) renderModule(name string, list []*node, outputs map[*node][]string) (backends.Module, diag.List) {
	p := payload{Providers: map[string]provider{}, Resources: map[string]map[string]any{}, Outputs: map[string]output{}, Addresses: map[string]string{}}
	out := backends.Module{Address: graph.Address{Lib: graph.ModuleLib, Name: name}, Sources: map[string][]string{}}
	spec := map[string]any{}
	requires := map[string]bool{}
	for _, m := range list {
		prefix, _, _ := strings.Cut(m.typ.tfType, "_")
		pr := provider{Source: m.source}
		if m.source == awsSource {
			pr.Version, pr.Config = awsVersion, map[string]any{"region": m.region}
		} else if m.resource.Type == anyType {
			pr.Version, _ = literal(m.resource.Fields["version"])
			if conf, ok := m.resource.Fields["config"]; ok {
				fields, isObject := conf.(map[string]any)
				if !isObject {
					c.errorf(m, m.at("config"), "config must be an object, not %s", describe(conf)).WithHint("config: { … }")
				}
				c.checkArgumentNames(m, fields, m.at("config"))
				pr.Config = c.anyValue(m, conf, m.at("config"))
			}
		}
		if before, ok := p.Providers[prefix]; ok && (before.Source != pr.Source || pr.Version != "" && before.Version != "" && before.Version != pr.Version) {
			c.errorf(m, m.resource.Path, "module %q already uses provider %s %s, but this resource needs %s %s", name, before.Source, before.Version, pr.Source, pr.Version).
				WithHint("set module: 'another-name'")
		}
		p.Providers[prefix] = pr
		body := maps.Clone(m.body)
		c.applyDefaults(m, body)
		life := map[string]any{}
		if m.protect {
			life["prevent_destroy"] = true
		}
		if m.createFirst {
			life["create_before_destroy"] = true
		}
		if len(m.ignore) > 0 {
			ignored := []any{}
			for _, n := range m.ignore {
				ignored = append(ignored, m.typ.toProvider(n))
			}
			life["ignore_changes"] = ignored
		}
		if len(life) > 0 {
			body["lifecycle"] = life
		}
		if p.Resources[m.typ.tfType] == nil {
			p.Resources[m.typ.tfType] = map[string]any{}
		}
		p.Resources[m.typ.tfType][m.name] = body
		p.Addresses[m.id()] = m.address()
		for _, attr := range outputs[m] {
			p.Outputs[m.name+"__"+attr] = output{Key: outputKey(m, attr), Value: m.id() + "." + attr}
		}
		if m.protect || statefulTypes[m.typ.tfType] || m.resource.Retained {
			p.Protected = append(p.Protected, m.id())
		}
		out.Protect = out.Protect || m.protect
		out.Stateful = out.Stateful || statefulTypes[m.typ.tfType] && !m.orphanOnDelete
		if m.orphanOnDelete {
			p.OrphanOnDelete = append(p.OrphanOnDelete, m.id())
		}
		for _, r := range m.refs {
			if r.target.module != name {
				requires[r.target.unit()] = true
			}
		}
		for _, a := range m.resource.Follows {
			out.Follows = append(out.Follows, a.String())
		}
		out.Uploads = append(out.Uploads, m.resource.Uploads...)
		out.Needs = append(out.Needs, m.needs()...)
		out.Drain = max(out.Drain, int(m.resource.Drain.Seconds()))
		spec[m.address()] = map[string]any{"type": m.resource.Type, "fields": m.resource.Fields}
		out.Sources[m.address()] = m.resource.Path
		for _, k := range sets.Keys(m.positions) {
			field := plan.Pointer(append([]string{m.address()}, m.positions[k][len(m.resource.Path):]...))
			if slices.Contains(m.schema.ForceNew, k) {
				out.Replaces = append(out.Replaces, field)
			}
			if a := m.schema.Block.Attributes[k]; a != nil && a.Sensitive {
				out.Sensitive = append(out.Sensitive, field)
			}
		}
	}
	out.Follows, out.Needs = sets.Union(out.Follows), graph.SortNeeds(out.Needs)
	slices.Sort(p.Protected)
	slices.Sort(p.OrphanOnDelete)
	out.Requires = sets.Keys(requires)
	var errs diag.List
	var err error
	if out.Payload.Run, err = digest.Canonical(p); err == nil {
		flat := map[string]any{}
		for a, s := range spec {
			fields := maps.Clone(s.(map[string]any)["fields"].(map[string]any))
			if fields == nil {
				fields = map[string]any{}
			}
			fields["type"] = s.(map[string]any)["type"]
			flat[a] = fields
		}
		out.Spec, err = digest.Canonical(flat)
	}
	if err != nil {
		errs = append(errs, diag.Errorf(out.Address.String(), "%v", err).At(list[0].resource.Path...))
	}
	return out, errs
}

// applyDefaults adds what users need not write.
func (c *checker) applyDefaults(m *node, body map[string]any) {
	if m.schema == nil {
		return
	}
	label := c.g.Environment + "/" + c.g.Name + "/" + m.address()
	switch m.typ.tfType {
	case "aws_launch_template":
		// A template is never changed in place: a change is a new template, to which the group moves.
		raw, err := json.Marshal(body)
		if err != nil {
			panic(fmt.Sprintf("%s: %v", m.address(), err)) // plain data always encodes
		}
		name, _ := literal(body["name"])
		if name == "" {
			name = c.g.Environment + "-" + c.g.Name + "-" + strings.ReplaceAll(m.name, "_", "-")
		}
		body["name"] = name + "-" + digest.Bytes(raw).Hex()[:12]
		m.createFirst = true
		return
	case "aws_autoscaling_group":
		// AWS changes the number of instances.
		if !slices.Contains(m.ignore, "desired_capacity") && !slices.Contains(m.ignore, "desired") {
			m.ignore = append(m.ignore, "desired_capacity")
		}
		if body["launch_template"] != nil && body["instance_refresh"] == nil {
			body["instance_refresh"] = []any{map[string]any{"strategy": "Rolling"}}
		}
		body["tag"] = append(cloneList(body["tag"]), map[string]any{"key": "defx", "value": label, "propagate_at_launch": true})
		return
	case "aws_route53_zone":
		if body["vpc"] != nil && !slices.Contains(m.ignore, "vpc") {
			m.ignore = append(m.ignore, "vpc")
		}
	}
	if m.schema.Block.Attributes["tags"] != nil && m.source == awsSource {
		tags := map[string]any{"defx": escape(label, false)}
		if requested, ok := body["tags"].(map[string]any); ok {
			maps.Copy(tags, requested)
		}
		body["tags"] = tags
	}
}

// cloneList returns a copy of a list, or nil if v is not a list.
func cloneList(v any) []any {
	l, _ := v.([]any)
	return slices.Clone(l)
}
