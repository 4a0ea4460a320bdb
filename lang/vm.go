package lang

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang/native"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
)

// newVM makes every VM that there is. What fails in an eager one has to be
// asked of a careful one, which alone fails as the user's program does.
func newVM(i jsonnet.Importer, eager bool) *jsonnet.VM {
	vm := jsonnet.MakeVM()
	native.Install(vm, eager)
	vm.Importer(i)
	vm.NativeFunction(&jsonnet.NativeFunction{
		Name: "defx.token", Params: ast.Identifiers{"kind", "name"}, Func: nativeToken,
	})
	vm.NativeFunction(&jsonnet.NativeFunction{
		Name: "defx.read", Params: ast.Identifiers{"of", "field", "arg", "body"}, Func: nativeRead,
	})
	vm.NativeFunction(&jsonnet.NativeFunction{
		Name: "defx.artifact", Params: ast.Identifiers{"from", "path", "sha256"}, Func: nativeArtifact,
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

// nativeToken makes a token that is a kind and a name.
func nativeToken(args []any) (any, error) {
	a, err := texts(args)
	if err != nil {
		return nil, err
	}
	return token.Encode(token.Token{Kind: token.Kind(a[0]), Name: a[1]}), nil
}

// nativeRead makes a token that reads a field of what the library calls of: its
// kind, its name, and whether only the reader's machine counts.
func nativeRead(args []any) (any, error) {
	of, _ := args[0].([]any)
	if len(of) != 3 {
		return nil, errors.New("nothing is known of what is read")
	}
	a, err := texts([]any{of[0], of[1], args[1], args[2]})
	if err != nil {
		return nil, err
	}
	t := token.Token{Kind: token.Ref, Of: a[0], Name: a[1], Field: a[2], Arg: a[3]}
	t.Here, _ = of[2].(bool)
	if body := args[3]; body != nil {
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
// relative to the root: from is the embedded library's place for that file's
// folder. An address is taken as it is, with the sum of what lies there.
func nativeArtifact(args []any) (any, error) {
	a, err := texts(args[:2])
	if err != nil {
		return nil, err
	}
	t := token.Token{Kind: token.Artifact, Name: a[1]}
	if scheme, _, ok := strings.Cut(a[1], "://"); ok {
		u, err := url.Parse(a[1])
		if err != nil || scheme != "https" && scheme != "http" || u.Host == "" || u.User != nil {
			return nil, fmt.Errorf("defx.artifact: %q is no address that content can be fetched from"+hintMark+"https://HOST/PATH, without a password", a[1])
		}
		if name := path.Base(u.Path); name == "." || name == "/" {
			return nil, fmt.Errorf("defx.artifact: %q names no file"+hintMark+"the last part of the path becomes the file's name", a[1])
		}
		sum, _ := args[2].(string)
		if t.Arg = strings.TrimPrefix(sum, "sha256:"); !sumRE.MatchString(t.Arg) {
			return nil, fmt.Errorf("defx.artifact: what lies at %q is known by its sum alone"+hintMark+"defx.artifact('%s', sha256='…'): the 64 hexadecimal digits that sha256sum prints", a[1], a[1])
		}
		return token.Encode(t), nil
	}
	if args[2] != nil {
		return nil, fmt.Errorf("defx.artifact: %q lies here, and its sum is known without being said"+hintMark+"leave sha256 out; defx lock keeps it", a[1])
	}
	if !path.IsAbs(t.Name) {
		t.Name = path.Join(path.Dir(strings.TrimPrefix(a[0], embedded)), t.Name)
	}
	t.Name = path.Clean(t.Name)
	return token.Encode(t), nil
}

var sumRE = regexp.MustCompile(`^[0-9a-f]{64}$`)
