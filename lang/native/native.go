// Package native replaces interpreted functions of Jsonnet's standard library
// with faster implementations.
//
// It knows go-jsonnet's syntax tree of the standard library, and what each
// function in std.libsonnet does. It refuses to know defx. Invariant: it changes
// nothing but speed. A call returns the same bytes, forces the same values in the
// same order, and fails with the same message at the same position of the user's
// file. The only exception: a call that exceeds the stack depth may succeed.
//
// How this works: a new body handles the calls for which it is known to be
// equivalent, and passes every other call to the old body, which std.libsonnet
// refers to as "original". In a strict VM, a value that may fail is passed to Go
// only after everything that the old body would have checked before it was
// checked. A fast VM passes whole values to Go. What succeeds there has the same
// result everywhere, since values are pure and each one that it forces is part of
// the result. What fails there has to be repeated in a strict VM.
//
// Limitation: a program that replaces functions of std (std + { … }) and calls
// other functions that used to call the replaced ones may notice a difference.
package native

import (
	_ "embed"
	"fmt"
	"slices"
	"sync"

	"github.com/defx-dev/defx/internal/sets"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
	"github.com/google/go-jsonnet/astgen"
	"github.com/google/go-jsonnet/toolutils"
)

//go:embed std.libsonnet
var source string

var once sync.Once

// Install installs the new bodies in a VM. The syntax tree of the standard
// library is shared by the whole process: the first call replaces the bodies,
// before anything is evaluated. An error in a fast VM is not the user's error; the
// program has to be repeated in a strict VM.
func Install(vm *jsonnet.VM, fast bool) {
	once.Do(replaceBodies)
	for _, f := range functions {
		vm.NativeFunction(f)
	}
	if fast {
		for _, f := range fastFunctions {
			vm.NativeFunction(f)
		}
	}
}

// functions and fastFunctions are the native functions that the new bodies call.
var functions, fastFunctions []*jsonnet.NativeFunction

// registerFast registers a native function for fast VMs only. If it returns nil,
// the new body does what it does in a strict VM.
func registerFast(name string, f func([]any) any, params ...ast.Identifier) {
	fastFunctions = append(fastFunctions, &jsonnet.NativeFunction{Name: "defx.std.fast." + name, Params: params,
		Func: func(a []any) (any, error) { return f(a), nil }})
}

// register registers a native function for all VMs.
func register(name string, f func([]any) (any, error), params ...ast.Identifier) {
	functions = append(functions, &jsonnet.NativeFunction{Name: "defx.std." + name, Params: params, Func: f})
}

// Names returns the names of the functions whose bodies are replaced, sorted.
func Names() []string {
	var names []string
	for _, f := range parseLibrary().Fields {
		names = append(names, f.Name.(*ast.LiteralString).Value)
	}
	slices.Sort(names)
	return names
}

// parseLibrary parses std.libsonnet.
func parseLibrary() *ast.DesugaredObject {
	node, err := jsonnet.SnippetToAST("<std>", source)
	if err != nil {
		panic(fmt.Sprintf("std.libsonnet: %v", err)) // it is embedded, and tested
	}
	for {
		switch n := node.(type) {
		case *ast.Local:
			node = n.Body
		case *ast.DesugaredObject:
			return n
		}
	}
}

// replaceBodies replaces the bodies in the syntax tree of the standard library.
func replaceBodies() {
	bodies := map[string]*ast.Node{}
	std := astgen.StdAst.Fields
	for i := range std {
		bodies[std[i].Name.(*ast.LiteralString).Value] = &std[i].Body
	}
	for _, f := range parseLibrary().Fields {
		name := f.Name.(*ast.LiteralString).Value
		old, ok := (*bodies[name]).(*ast.Function)
		if !ok {
			panic("std." + name + " is not an interpreted function in this version of go-jsonnet")
		}
		wrapOriginal(&f.Body, old, name)
		*bodies[name] = f.Body
	}
}

// wrapOriginal inserts the old function's parameters and body into a new
// function, which may be inside local expressions.
func wrapOriginal(at *ast.Node, old *ast.Function, name string) {
	switch n := (*at).(type) {
	case *ast.Local:
		wrapOriginal(&n.Body, old, name)
		n.SetFreeVariables(unionVariables(n.FreeVariables(), n.Body.FreeVariables(), boundVariables(n)))
	case *ast.Function:
		if !slices.EqualFunc(old.Parameters, n.Parameters, func(a, b ast.Parameter) bool { return a.Name == b.Name }) {
			panic("std." + name + " has other parameters in this version of go-jsonnet")
		}
		n.Parameters = old.Parameters // with their defaults
		insertOriginal(&n.Body, old.Body, nil)
		n.SetFreeVariables(unionVariables(n.Body.FreeVariables(), old.FreeVariables(), boundVariables(n)))
	default:
		panic("std.libsonnet: " + name + " is not a function")
	}
}

// boundVariables returns the variables that a node declares.
func boundVariables(n ast.Node) (out []ast.Identifier) {
	switch n := n.(type) {
	case *ast.Function:
		for _, p := range n.Parameters {
			out = append(out, p.Name)
		}
	case *ast.Local:
		for _, b := range n.Binds {
			out = append(out, b.Variable)
		}
	}
	return out
}

// original is the variable in std.libsonnet that stands for the old body.
const original = "original"

// insertOriginal replaces each reference to original with the old body, and
// updates the free variables of all nodes around it. around is what the new body
// declares between: it must not shadow what the old body reads.
func insertOriginal(at *ast.Node, old ast.Node, around []ast.Identifier) bool {
	if v, ok := (*at).(*ast.Var); ok {
		if v.Id != original {
			return false
		}
		*at = old
		return true
	}
	inside := slices.Concat(around, boundVariables(*at))
	found := false
	for _, child := range childSlots(*at) {
		if insertOriginal(child, old, inside) {
			found = true
		}
	}
	if found {
		for _, v := range inside[len(around):] {
			if slices.Contains(old.FreeVariables(), v) {
				panic(fmt.Sprintf("std.libsonnet: %s shadows a variable that original reads", v))
			}
		}
		(*at).SetFreeVariables(unionVariables((*at).FreeVariables(), old.FreeVariables(), inside[len(around):]))
	}
	return found
}

// childSlots returns pointers to the children of a node. It panics for kinds of
// nodes that std.libsonnet does not use around original.
func childSlots(n ast.Node) []*ast.Node {
	var out []*ast.Node
	switch n := n.(type) {
	case *ast.Function:
		out = append(out, &n.Body)
	case *ast.Conditional:
		out = append(out, &n.Cond, &n.BranchTrue, &n.BranchFalse)
	case *ast.Local:
		for i := range n.Binds {
			out = append(out, &n.Binds[i].Body)
		}
		out = append(out, &n.Body)
	case *ast.Apply:
		out = append(out, &n.Target)
		for i := range n.Arguments.Positional {
			out = append(out, &n.Arguments.Positional[i].Expr)
		}
	case *ast.Array:
		for i := range n.Elements {
			out = append(out, &n.Elements[i].Expr)
		}
	default:
		for _, child := range toolutils.Children(n) {
			if slices.Contains(child.FreeVariables(), original) {
				panic(fmt.Sprintf("std.libsonnet: original inside a %T", n))
			}
		}
	}
	return out
}

// unionVariables returns the variables in a and b, sorted, without those in
// without and without original.
func unionVariables(a, b, without []ast.Identifier) ast.Identifiers {
	return sets.Minus(sets.Union(a, b), append([]ast.Identifier{original}, without...))
}
