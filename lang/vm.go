package lang

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/defx-dev/defx/lang/token"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
)

// newVM makes every VM that there is.
func newVM(i jsonnet.Importer) *jsonnet.VM {
	vm := jsonnet.MakeVM()
	vm.Importer(i)
	vm.NativeFunction(&jsonnet.NativeFunction{
		Name: "defx.token", Params: ast.Identifiers{"kind", "of", "name", "field", "arg", "here", "body"}, Func: nativeToken,
	})
	vm.NativeFunction(&jsonnet.NativeFunction{
		Name: "defx.artifact", Params: ast.Identifiers{"from", "path"}, Func: nativeArtifact,
	})
	return vm
}

func texts(args []any) ([]string, error) {
	out := make([]string, len(args))
	for i, a := range args {
		s, ok := a.(string)
		if !ok {
			return nil, fmt.Errorf("a name is needed as text, not %v", a)
		}
		if token.Reserved(s) {
			return nil, errors.New("a token cannot be named by another token")
		}
		out[i] = s
	}
	return out, nil
}

func nativeToken(args []any) (any, error) {
	a, err := texts(args[:5])
	if err != nil {
		return nil, err
	}
	t := token.Token{Kind: token.Kind(a[0]), Of: a[1], Name: a[2], Field: a[3], Arg: a[4]}
	t.Here, _ = args[5].(bool)
	if body := args[6]; body != nil {
		if _, isText := body.(string); t.Field == "join" && !isText {
			return nil, errors.New("join: the function must give a text; each takes any value")
		}
		var bad error
		doc := token.NewDoc(body, nil, func(path []string, err error) { bad = err })
		if bad != nil {
			return nil, bad
		}
		t = t.WithBody(doc)
	} else if t.Set() {
		return nil, fmt.Errorf("%s: the function gave null", t.Field)
	}
	return token.Encode(t), nil
}

// nativeArtifact makes a path that is relative to the file that names it
// relative to the root: from is the embedded library's place for that file's folder.
func nativeArtifact(args []any) (any, error) {
	a, err := texts(args)
	if err != nil {
		return nil, err
	}
	if strings.Contains(a[1], "://") {
		return nil, fmt.Errorf("defx.artifact: %q is no path: content from elsewhere must lie in a file first", a[1])
	}
	name := a[1]
	if !path.IsAbs(name) {
		name = path.Join(path.Dir(strings.TrimPrefix(a[0], embedded)), name)
	}
	return token.Encode(token.Token{Kind: token.Artifact, Name: path.Clean(name)}), nil
}
