// Package native gives faster bodies to interpreted functions of Jsonnet's
// standard library.
//
// It knows go-jsonnet's tree of the standard library and what each function in
// std.libsonnet means. It refuses to know defx. Invariant: it changes speed and
// nothing else. A call gives the same bytes, forces the same values in the same
// order, and fails with the same words at the same place of the user's file;
// alone what fails for the depth of the stack may succeed.
//
// How that is kept: a new body takes the road it is sure of, and every other
// call goes to the old body, which stands where std.libsonnet says "original".
// Of a careful VM this is all: a value that may fail is never handed to Go
// before all that the old body would have looked at first was found right. An
// eager VM hands over whole values. What succeeds there succeeds everywhere,
// with the same bytes, since values are pure and every one that it forces is
// part of the result; what fails there has to be asked again of a careful one.
//
// One thing is told apart from before: a program that replaces functions of
// std (std + { … }) and calls others that used to call those.
package native

import (
	_ "embed"
	"fmt"
	"slices"
	"sync"

	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
	"github.com/google/go-jsonnet/astgen"
	"github.com/google/go-jsonnet/toolutils"
)

//go:embed std.libsonnet
var source string

var once sync.Once

// Install makes a VM fast. The tree of the standard library belongs to the
// whole process: the first call replaces the bodies, before anything evaluates.
// Errors of an eager VM are not the user's: a careful one has to be asked.
func Install(vm *jsonnet.VM, isEager bool) {
	once.Do(replace)
	for _, f := range functions {
		vm.NativeFunction(f)
	}
	if isEager {
		for _, f := range eagerFunctions {
			vm.NativeFunction(f)
		}
	}
}

// functions are what the new bodies call.
var functions, eagerFunctions []*jsonnet.NativeFunction

// eager registers a function that only eager VMs have. If it gives nil, the
// careful road is taken.
func eager(name string, f func([]any) any, params ...ast.Identifier) {
	eagerFunctions = append(eagerFunctions, &jsonnet.NativeFunction{Name: "defx.std.eager." + name, Params: params,
		Func: func(a []any) (any, error) { return f(a), nil }})
}

func register(name string, f func([]any) (any, error), params ...ast.Identifier) {
	functions = append(functions, &jsonnet.NativeFunction{Name: "defx.std." + name, Params: params, Func: f})
}

// Names lists the functions whose bodies are replaced.
func Names() []string {
	var names []string
	for _, f := range parse().Fields {
		names = append(names, f.Name.(*ast.LiteralString).Value)
	}
	slices.Sort(names)
	return names
}

func parse() *ast.DesugaredObject {
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

func replace() {
	at := map[string]*ast.Node{}
	std := astgen.StdAst.Fields
	for i := range std {
		at[std[i].Name.(*ast.LiteralString).Value] = &std[i].Body
	}
	for _, f := range parse().Fields {
		name := f.Name.(*ast.LiteralString).Value
		old, ok := (*at[name]).(*ast.Function)
		if !ok {
			panic("std." + name + " is no interpreted function in this version of go-jsonnet")
		}
		graft(&f.Body, old, name)
		*at[name] = f.Body
	}
}

// graft puts the old function's parameters and body into a new one, which may
// stand behind locals.
func graft(at *ast.Node, old *ast.Function, name string) {
	switch n := (*at).(type) {
	case *ast.Local:
		graft(&n.Body, old, name)
		n.SetFreeVariables(union(n.FreeVariables(), n.Body.FreeVariables(), bound(n)))
	case *ast.Function:
		if !slices.EqualFunc(old.Parameters, n.Parameters, func(a, b ast.Parameter) bool { return a.Name == b.Name }) {
			panic("std." + name + " has other parameters in this version of go-jsonnet")
		}
		n.Parameters = old.Parameters // with their defaults
		splice(&n.Body, old.Body, nil)
		n.SetFreeVariables(union(n.Body.FreeVariables(), old.FreeVariables(), bound(n)))
	default:
		panic("std.libsonnet: " + name + " is no function")
	}
}

// bound gives the variables that a node declares.
func bound(n ast.Node) (out []ast.Identifier) {
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

const original = "original"

// splice puts the old body wherever the new one says original, and tells all
// nodes around it which variables it needs. around is what the new one declares
// in between: it must not hide what the old one reads.
func splice(at *ast.Node, old ast.Node, around []ast.Identifier) bool {
	if v, ok := (*at).(*ast.Var); ok {
		if v.Id != original {
			return false
		}
		*at = old
		return true
	}
	inside := slices.Concat(around, bound(*at))
	found := false
	for _, child := range slots(*at) {
		if splice(child, old, inside) {
			found = true
		}
	}
	if found {
		for _, v := range inside[len(around):] {
			if slices.Contains(old.FreeVariables(), v) {
				panic(fmt.Sprintf("std.libsonnet: %s hides what original reads", v))
			}
		}
		(*at).SetFreeVariables(union((*at).FreeVariables(), old.FreeVariables(), inside[len(around):]))
	}
	return found
}

// slots gives where the children of a node stand. Kinds of nodes that
// std.libsonnet does not use around an original are refused.
func slots(n ast.Node) []*ast.Node {
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

// union joins lists of variables without those that are bound, and without the
// mark of the old body.
func union(a, b, without []ast.Identifier) ast.Identifiers {
	out := ast.Identifiers{}
	for _, list := range [][]ast.Identifier{a, b} {
		for _, v := range list {
			if v != original && !slices.Contains(out, v) && !slices.Contains(without, v) {
				out = append(out, v)
			}
		}
	}
	slices.Sort(out)
	return out
}
