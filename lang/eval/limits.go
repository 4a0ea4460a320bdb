package eval

import (
	"fmt"
	"math"
)

// Limits bound an evaluation. They count what the program does, so that a
// verdict is the same on every machine. Zero means the default.
type Limits struct {
	MaxSteps  int64 // activations, iterations, and KiB that are read or written
	MaxMemory int64 // bytes that are reachable, by this package's account
	MaxAlloc  int64 // bytes that are allocated in all, by the same account
	MaxString int   // bytes of a string
	MaxArray  int   // elements of an array
	MaxOutput int   // bytes of the result
	MaxStack  int   // activations at a time
	MaxSource int   // bytes of a source file
}

// DefaultLimits are the limits of a VM that says nothing else.
var DefaultLimits = Limits{
	MaxSteps:  1_000_000_000,
	MaxMemory: 2 << 30,
	MaxAlloc:  1 << 42,
	MaxString: 64 << 20,
	MaxArray:  16 << 20,
	MaxOutput: 256 << 20,
	MaxStack:  500,
	MaxSource: 64 << 20,
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits
	set(&d.MaxSteps, l.MaxSteps)
	set(&d.MaxMemory, l.MaxMemory)
	set(&d.MaxAlloc, l.MaxAlloc)
	set(&d.MaxString, min(l.MaxString, math.MaxInt32/2))
	set(&d.MaxArray, l.MaxArray)
	set(&d.MaxOutput, l.MaxOutput)
	set(&d.MaxStack, l.MaxStack)
	set(&d.MaxSource, l.MaxSource)
	return d
}

func set[T int | int64](to *T, v T) {
	if v > 0 {
		*to = v
	}
}

// What things cost, in bytes. These are the sizes on a 64-bit machine, and the
// same on every other one.
const (
	wordCost      = 8
	valueCost     = 16
	thunkCost     = 32
	closureCost   = 32
	textCost      = 48
	treeCost      = 48
	arrayCost     = 32
	objectCost    = 48
	compositeCost = 72
	layerCost     = 32
	fieldCost     = 72
	entryCost     = 32
)

const (
	// stepBatch is the number of steps between two looks at limits and
	// cancellation; allocBatch the number of bytes.
	stepBatch  = 4096
	allocBatch = 1 << 20

	// maxHost bounds the nesting of Go functions, at some 250 bytes of stack
	// each. The stack of a goroutine may have 512 MB: it grows by doubling, and
	// the runtime ends a process whose stack needs 1 GB.
	maxHost = 1_000_000
)

// charge accounts for n bytes. Many bytes count as steps too.
func (m *machine) charge(n int) {
	m.alloc += int64(n)
	m.steps += int64(n >> workShift)
	if m.alloc >= m.allocStop {
		m.account(n)
	}
}

// account looks at the limits of memory, where n bytes are about to be
// allocated. When so much was allocated since the last tracing that the limit
// may be reached, it traces what is live now.
func (m *machine) account(n int) {
	m.cancelled()
	if m.alloc > m.limits.MaxAlloc {
		m.bound(nil, fmt.Sprintf("evaluation allocates more than %d bytes in all", m.limits.MaxAlloc))
	}
	m.allocStop = m.alloc + allocBatch
	if m.alloc < m.traceAt {
		return
	}
	m.live = m.traceLive() + int64(n)
	if m.live > m.limits.MaxMemory {
		m.bound(nil, fmt.Sprintf("evaluation needs more than %d bytes of memory", m.limits.MaxMemory))
	}
	m.traceAt = m.alloc + max(m.limits.MaxMemory-m.live, m.limits.MaxMemory/8)
	m.allocStop = min(m.allocStop, m.traceAt)
}

// workShift is the logarithm of the number of bytes that count as a step.
const workShift = 10

// work accounts for reading n bytes.
func (m *machine) work(n int) {
	if n >>= workShift; n > 0 {
		m.step(n)
	}
}

// loop accounts for one iteration.
func (m *machine) loop(at *site) {
	m.steps++
	if m.steps >= m.stepStop {
		m.checkpoint(at)
	}
}

// compared accounts for a comparison of a sort, which is too short for a step.
func (m *machine) compared() {
	if m.compares++; m.compares&0xffff == 0 {
		m.cancelled()
	}
}

// step accounts for n iterations that were or will be made.
func (m *machine) step(n int) {
	m.steps += int64(n)
	if m.steps >= m.stepStop {
		m.checkpoint(nil)
	}
}

func (m *machine) checkpoint(at *site) {
	m.stepStop = m.steps + stepBatch
	if m.steps > m.limits.MaxSteps {
		m.bound(at, fmt.Sprintf("evaluation takes more than %d steps", m.limits.MaxSteps))
	}
	m.cancelled()
}

func (m *machine) cancelled() {
	select {
	case <-m.done:
		panic(&failure{cancel: m.ctx.Err()})
	default:
	}
}

func (m *machine) checkLength(n int) {
	if n > m.limits.MaxString {
		m.tooLarge(nil, "a string", m.limits.MaxString)
	}
}

func (m *machine) checkElems(n int) {
	if n > m.limits.MaxArray {
		m.tooLarge(nil, "an array", m.limits.MaxArray)
	}
}

func (m *machine) tooLarge(at *site, what string, limit int) {
	m.bound(at, fmt.Sprintf("%s is larger than %d", what, limit))
}

// bound fails because of a limit.
func (m *machine) bound(at *site, msg string) {
	if at == nil && m.sp > 0 {
		at = m.stack[m.sp-1].site
	}
	panic(&failure{msg: msg, frames: m.frames(at), bound: true})
}

// nest begins a level of recursion in Go code.
func (m *machine) nest(at *site) {
	m.host += 3
	m.checkHost(at)
}

func (m *machine) unnest() { m.host -= 3 }

func (m *machine) checkHost(at *site) {
	if m.host > maxHost {
		m.tooDeep(at)
	}
}

// hold keeps a value reachable for the tracing of memory while only a Go
// variable refers to it.
func (m *machine) hold(v value) { m.keep = append(m.keep, v) }

func (m *machine) drop(n int) { m.keep = m.keep[:len(m.keep)-n] }

// start sets the counters.
func (m *machine) start() {
	m.stepStop = stepBatch
	m.allocStop = allocBatch
	m.traceAt = max(m.limits.MaxMemory, 0)
	if m.traceAt > math.MaxInt64/2 {
		m.traceAt = math.MaxInt64 / 2
	}
}
