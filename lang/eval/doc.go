// Package eval evaluates Jsonnet: it prints what go-jsonnet prints, in a
// fraction of its time and memory, within limits that are counted.
//
// It knows the language and its standard library. It refuses to know the rest
// of this program; it imports only go-jsonnet and Go's library. Its invariant:
// whatever go-jsonnet accepts gives the same bytes, and what fails there fails
// with the same first line and the same stack frames at the user's code.
//
// # How it works
//
// go-jsonnet parses, desugars and analyses a file. Its parser recurses on Go's
// stack and cannot be stopped: scan.go bounds how deeply a source is nested
// before the parser sees it, and a cancelled evaluation leaves the parser
// behind in a goroutine of its own. The tree is compiled to Go closures when
// it first runs, a unit (the body of a function, a field, a delayed value) at a
// time. Closures rather than bytecode: a closure specialized for its operands
// needs no decoding and no operand stack, and Go keeps its results in
// registers. Programs are cached by content, for the whole process.
//
//	compile.go, lazy.go, literal.go, function.go, index.go, operator.go, sum.go
//	                 the compiler: from syntax to closures
//	value.go, text.go, object.go
//	                 values: two words; strings; objects as layers of shapes
//	machine.go       the state of an evaluation: forcing, fields, failing
//	limits.go, live.go
//	                 counting steps and bytes, and tracing what is live
//	builtin.go, std_….go, format.go
//	                 the standard library
//	manifest.go      printing JSON
//	loader.go, scan.go
//	                 imports, and the cache of programs
//	eval.go, locate.go
//	                 the interface
//
// Variables are slots of frames, found at compile time. A value may be delayed
// (a thunk) wherever the language is lazy; what is as cheap as a thunk and
// cannot fail is evaluated at once. The fields of objects that come from one
// literal share a shape, and objects that are concatenated alike share the table
// of their fields.
//
// # Errors
//
// An evaluation that fails is repeated in precise mode, which delays all that
// go-jsonnet delays and uses go-jsonnet's own definitions of the functions of
// std that it writes in Jsonnet. Thus its words and frames are go-jsonnet's, and
// the fast mode need not know them. Nothing is repeated after a limit was
// reached.
//
// # Limits
//
// Limits count steps, bytes by this package's own account, sizes and
// activations, never time, so that a verdict is the same on every machine.
// Memory is traced at points that the count of allocated bytes fixes. The
// nesting of Go functions is counted too, by a bound on what each unit needs:
// no program overflows Go's stack.
//
// # Differences from go-jsonnet
//
//   - A program that go-jsonnet stops for the depth of its stack may succeed:
//     functions of std in Go take no activations, and values that are known take
//     none either.
//   - A local of an object is evaluated once, not once for each field that uses
//     it; this shows only in the output of std.trace.
//   - Where go-jsonnet evaluates several arguments of a tail-strict call and more
//     than one fails, it picks one at random.
//   - Functions of std do not use the replacements of others in std + { … }.
//   - std.removeAt with an index out of range fails; go-jsonnet crashes.
//   - Strings, arrays and sources beyond the limits are refused.
package eval
