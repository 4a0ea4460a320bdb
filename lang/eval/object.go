package eval

import (
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/google/go-jsonnet/ast"
)

// shape is what the objects of one literal share: the names of its fields, who
// sees them, and their code. Shapes are immutable but for the lazily computed
// order, and may be shared by goroutines.
type shape struct {
	fields  []field
	index   map[string]int32 // if there are many fields
	locals  []*unit          // object locals, for slots 1… of the frame of a layer
	asserts []*unit
	framed  bool               // the code needs a frame with self
	loc     *ast.LocationRange // of the literal
	each    bool               // each field has a frame of its own to run in: slot i of the layer's frame
	dynamic bool               // made for one object, by computed names
	order   atomic.Pointer[[]int32]
	table   atomic.Pointer[table]
	retain  map[string]ast.ObjectFieldHide // of a restriction, see restrict
	skip    int                            // the number of layers that are restricted
}

// field is one field of a shape.
type field struct {
	name  string
	hide  ast.ObjectFieldHide
	plus  bool // field +: value
	unit  *unit
	site  *site              // of the value, for +:
	ready value              // if unit is nil
	loc   *ast.LocationRange // where the field is written; nil for what Go code makes
}

// smallShape is the number of fields up to which a search by comparing beats a map.
const smallShape = 8

// index fills in what find needs.
func (s *shape) seal() {
	if len(s.fields) > smallShape {
		s.index = make(map[string]int32, len(s.fields))
		for i := range s.fields {
			s.index[s.fields[i].name] = int32(i)
		}
	}
}

// find returns the index of a field, or -1.
func (s *shape) find(name string) int {
	if s.index != nil {
		if i, ok := s.index[name]; ok {
			return int(i)
		}
		return -1
	}
	for i := range s.fields {
		if s.fields[i].name == name {
			return i
		}
	}
	return -1
}

// visible returns the indices of the fields that are not hidden, sorted by name.
func (s *shape) visible() []int32 {
	if p := s.order.Load(); p != nil {
		return *p
	}
	order := make([]int32, 0, len(s.fields))
	for i := range s.fields {
		if s.fields[i].hide != ast.ObjectFieldHidden {
			order = append(order, int32(i))
		}
	}
	slices.SortFunc(order, func(a, b int32) int { return compareStrings(s.fields[a].name, s.fields[b].name) })
	s.order.Store(&order)
	return order
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// object is an object value: one layer, or the concatenation of two objects.
//
// The depth of a layer is the number of layers to its right: the one that is
// searched first has depth 0.
type object struct {
	header
	layer
	comp *composite // if there is more than one layer; then layer is unused, or one of them
}

// flags of an object's header.
const (
	flagAsserts = 1 << iota // there are assertions that were not checked yet
)

// layer is one object literal within an object, with what was evaluated of it.
type layer struct {
	shape *shape
	env   *frame         // the frame that the literal was evaluated in
	self  *frame         // the frame of its fields, if framed and once needed
	vals  unsafe.Pointer // the values of its fields, once needed: see cell
}

// composite is a concatenation. It stays a pair until a field is looked up.
type composite struct {
	size        int
	left, right *object  // until flattened; right is nil if it is the object's own layer
	layers      []*layer // by depth
	lookups     int
	restricted  bool // a layer is a restriction
	table       *table
}

// chunk is the number of values that are allocated at once for a large layer.
const chunk = 16

// cell returns the place of the value of field i.
func (l *layer) cell(m *machine, i int) *value {
	n := len(l.shape.fields)
	if n <= 2*chunk {
		if l.vals == nil {
			m.charge(n * valueCost)
			l.vals = unsafe.Pointer(allocFrame(n - 1))
		}
		return (*value)(unsafe.Add(l.vals, slotSize*uintptr(i)))
	}
	if l.vals == nil {
		chunks := make([]*[chunk]value, (n+chunk-1)/chunk)
		m.charge(len(chunks) * wordCost)
		l.vals = unsafe.Pointer(unsafe.SliceData(chunks))
	}
	at := (**[chunk]value)(unsafe.Add(l.vals, unsafe.Sizeof(uintptr(0))*uintptr(i/chunk)))
	if *at == nil {
		m.charge(chunk * valueCost)
		*at = new([chunk]value)
	}
	return &(*at)[i%chunk]
}

func (m *machine) newObject(s *shape, env *frame) *object {
	m.charge(objectCost)
	o := &object{header: header{kind: kindObject}, layer: layer{shape: s, env: env}}
	if len(s.asserts) > 0 {
		o.flags = flagAsserts
	}
	return o
}

func (o *object) size() int {
	if o.comp == nil {
		return 1
	}
	return o.comp.size
}

// join returns left + right.
func (m *machine) join(left, right *object) value {
	m.charge(objectCost + compositeCost)
	o := &object{
		header: header{kind: kindObject},
		comp:   &composite{size: left.size() + right.size(), left: left, right: right},
	}
	if left.hasAsserts() || right.hasAsserts() {
		o.flags = flagAsserts
	}
	return o.value()
}

// extend returns left + { … }, without an object for the literal: its layer is
// that of the result.
func (m *machine) extend(left *object, s *shape, env *frame) value {
	m.charge(objectCost + compositeCost)
	o := &object{
		header: header{kind: kindObject},
		layer:  layer{shape: s, env: env},
		comp:   &composite{size: left.size() + 1, left: left},
	}
	if len(s.asserts) > 0 || left.hasAsserts() {
		o.flags = flagAsserts
	}
	return o.value()
}

// hasAsserts reports whether any layer has assertions, checked or not.
func (o *object) hasAsserts() bool {
	if o.flags&flagAsserts != 0 {
		return true
	}
	if o.comp == nil {
		return len(o.shape.asserts) > 0
	}
	if o.comp.left != nil {
		return false // nothing was asked of it, so its flag is still right
	}
	for _, l := range o.comp.layers {
		if len(l.shape.asserts) > 0 {
			return true
		}
	}
	return false
}

// layers returns the layers of a composite by depth.
func (o *object) layers(m *machine) []*layer {
	c := o.comp
	if c.left == nil {
		return c.layers
	}
	m.charge(c.size * (layerCost + wordCost))
	layers := make([]*layer, 0, c.size)
	stack := make([]*object, 0, 8)
	stack = append(stack, c.left)
	var store []layer
	if c.right == nil {
		c.restricted = o.shape.retain != nil
		layers = append(layers, &o.layer)
		store = make([]layer, 0, c.size-1)
	} else {
		stack = append(stack, c.right)
		store = make([]layer, 0, c.size)
	}
	add := func(l *layer) {
		store = append(store, layer{shape: l.shape, env: l.env})
		layers = append(layers, &store[len(store)-1])
		c.restricted = c.restricted || l.shape.retain != nil
	}
	for len(stack) > 0 {
		o := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		switch {
		case o.comp == nil:
			add(&o.layer)
		case o.comp.left == nil:
			for _, l := range o.comp.layers {
				add(l)
			}
		case o.comp.right == nil:
			add(&o.layer)
			stack = append(stack, o.comp.left)
		default:
			stack = append(stack, o.comp.left, o.comp.right)
		}
	}
	m.step(len(layers))
	c.layers, c.left, c.right = layers, nil, nil
	return layers
}

// restrict returns o without a field. Like go-jsonnet it keeps the layers of o,
// below one that has no fields and lets only some names pass; and like there it
// does so only for searches that begin at that layer, so that a field may
// reappear, hidden from listings, when something is added to the object.
func (m *machine) restrict(o *object, name string) value {
	names := map[string]ast.ObjectFieldHide{}
	for _, e := range m.fieldsOf(o).all {
		if e.name != name {
			names[e.name] = e.hide
		}
	}
	m.charge(len(names) * (valueCost + wordCost))
	s := &shape{retain: names, skip: o.size(), dynamic: true}
	top := &object{header: header{kind: kindObject}, layer: layer{shape: s}}
	return m.join(o, top)
}

// find looks for a field in the layers of o from depth start on.
func (m *machine) find(o *object, start int, name string) (l *layer, depth, i int) {
	if o.comp == nil {
		if start <= 0 {
			if i := o.shape.find(name); i >= 0 {
				return &o.layer, 0, i
			}
		}
		return nil, 0, -1
	}
	layers := o.layers(m)
	if start == 0 && len(layers) > 4 {
		if o.comp.lookups++; o.comp.lookups > 4 {
			t := m.fieldsOf(o)
			if i, ok := t.find(name); ok && t.all[i].depth >= 0 {
				e := &t.all[i]
				return layers[e.depth], int(e.depth), int(e.field)
			}
			if layers[0].shape.retain == nil && !o.comp.restricted {
				return nil, 0, -1
			}
		}
	}
	for d := max(start, 0); d < len(layers); d++ {
		l := layers[d]
		if l.shape.retain != nil {
			if _, ok := l.shape.retain[name]; !ok && d == start {
				d += l.shape.skip
			}
			continue
		}
		if i := l.shape.find(name); i >= 0 {
			return l, d, i
		}
	}
	return nil, 0, -1
}

// entry is a field of an object as a whole.
type entry struct {
	name  string
	hide  ast.ObjectFieldHide
	depth int32 // where a search from the top finds it, or -1 if it does not
	field int32
}

// table lists the fields of an object, sorted by name.
type table struct {
	all     []entry
	visible []entry
}

// fieldsOf returns the table of o.
func (m *machine) fieldsOf(o *object) *table {
	if o.comp == nil {
		t := o.shape.table.Load()
		if t == nil {
			// Goroutines share shapes, so that this counts for no evaluation.
			t = &table{all: m.allFields([]*layer{&o.layer})}
			if o.shape.retain != nil {
				t.all = restrictedFields([]*layer{&o.layer})
			}
			t.show()
			o.shape.table.Store(t)
		}
		return t
	}
	if o.comp.table == nil {
		o.comp.table = m.tableOf(o.layers(m))
	}
	return o.comp.table
}

// tableOf merges the fields of layers, or finds the table of the same sequence
// of shapes.
func (m *machine) tableOf(layers []*layer) *table {
	cached := len(layers) <= maxChain && !slices.ContainsFunc(layers, func(l *layer) bool { return l.shape.dynamic })
	c := &m.chains
	if cached {
		for _, l := range layers {
			c = c.follow(l.shape)
		}
		if c.table != nil {
			return c.table
		}
	}
	t := &table{}
	if slices.ContainsFunc(layers, func(l *layer) bool { return l.shape.retain != nil }) {
		t.all = restrictedFields(layers)
	} else {
		t.all = m.allFields(layers)
	}
	m.step(len(t.all))
	t.show()
	m.charge(len(t.all) * 2 * entryCost)
	if cached {
		c.table = t
	}
	return t
}

// show fills in the visible fields.
func (t *table) show() {
	t.visible = t.all
	if slices.ContainsFunc(t.all, entry.hidden) {
		t.visible = slices.DeleteFunc(slices.Clone(t.all), entry.hidden)
	}
}

func (e entry) hidden() bool { return e.hide == ast.ObjectFieldHidden }

// allFields merges the fields of layers without restrictions: the rightmost
// layer that has a field is where it is found, and the rightmost that does not
// inherit says who sees it.
func (m *machine) allFields(layers []*layer) []entry {
	n := 0
	for _, l := range layers {
		n = max(n, len(l.shape.fields))
	}
	if m.merged == nil {
		m.merged = map[string]int32{}
	}
	all := make([]entry, 0, n)
	for d, l := range layers {
		for i := range l.shape.fields {
			fd := &l.shape.fields[i]
			at, ok := m.merged[fd.name]
			if !ok {
				m.merged[fd.name] = int32(len(all))
				all = append(all, entry{name: fd.name, hide: fd.hide, depth: int32(d), field: int32(i)})
			} else if all[at].hide == ast.ObjectFieldInherit {
				all[at].hide = fd.hide
			}
		}
	}
	if len(all) > 1000 {
		m.merged = nil // clearing takes as long as the largest map that it was
	} else {
		clear(m.merged)
	}
	slices.SortFunc(all, func(a, b entry) int { return compareStrings(a.name, b.name) })
	return all
}

// restrictedFields is allFields for layers with restrictions.
func restrictedFields(layers []*layer) []entry {
	hides := map[string]ast.ObjectFieldHide{}
	mergeHides(hides, layers)
	all := make([]entry, 0, len(hides))
	for name, hide := range hides {
		all = append(all, entry{name: name, hide: hide, depth: -1})
	}
	slices.SortFunc(all, func(a, b entry) int { return compareStrings(a.name, b.name) })
	locate(&table{all: all}, layers)
	return all
}

// find returns the index in all of a field.
func (t *table) find(name string) (int, bool) {
	return slices.BinarySearchFunc(t.all, name, func(e entry, name string) int { return compareStrings(e.name, name) })
}

// mergeHides computes who sees each field: from the leftmost layer to the
// rightmost, and what says nothing inherits. Like go-jsonnet, a restriction
// replaces what is below it.
func mergeHides(hides map[string]ast.ObjectFieldHide, layers []*layer) {
	// restricted[d] is whether a restriction hides layer d.
	for d := len(layers) - 1; d >= 0; d-- {
		s := layers[d].shape
		if s.retain == nil {
			for i := range s.fields {
				merge(hides, s.fields[i].name, s.fields[i].hide)
			}
			continue
		}
		// What was merged of the layers that the restriction covers is not to
		// count: start again with the layers below these.
		clear(hides)
		mergeHides(hides, layers[d+1+s.skip:])
		for name, hide := range s.retain {
			merge(hides, name, hide)
		}
	}
}

func merge(hides map[string]ast.ObjectFieldHide, name string, hide ast.ObjectFieldHide) {
	if hide == ast.ObjectFieldInherit {
		if _, ok := hides[name]; ok {
			return
		}
	}
	hides[name] = hide
}

// locate fills in where a search from the top finds each field.
func locate(t *table, layers []*layer) {
	for d := len(layers) - 1; d >= 0; d-- {
		for i := range layers[d].shape.fields {
			if at, ok := t.find(layers[d].shape.fields[i].name); ok {
				t.all[at].depth, t.all[at].field = int32(d), int32(i)
			}
		}
	}
	if len(layers) == 0 || layers[0].shape.retain == nil {
		return
	}
	// A restriction at the very top: names that it does not retain are found
	// only below what it covers, and those are already the deepest. Names in
	// the table are retained or come from below, so a second search decides.
	s := layers[0].shape
	for i := range t.all {
		e := &t.all[i]
		if _, ok := s.retain[e.name]; ok {
			continue
		}
		e.depth = -1
		for d := 1 + s.skip; d < len(layers); d++ {
			if f := layers[d].shape.find(e.name); f >= 0 {
				e.depth, e.field = int32(d), int32(f)
				break
			}
		}
	}
}

// chain is a node of a tree of sequences of shapes, from the top layer down.
// Objects that are built in the same way share their tables through it.
type chain struct {
	next  map[*shape]*chain
	table *table
}

// maxChain is the number of layers up to which tables are shared: beyond, an
// object is likely to be an accumulator that has no like.
const maxChain = 12

func (c *chain) follow(s *shape) *chain {
	n := c.next[s]
	if n == nil {
		if c.next == nil {
			c.next = map[*shape]*chain{}
		}
		n = &chain{}
		c.next[s] = n
	}
	return n
}
