package lang

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/token"
	"github.com/defx-dev/defx/lang/native"
	"github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
)

// newVM returns a VM with the native functions of defx. A fast VM may fail where
// a strict one does not, or with another message, so a query that fails in a
// fast VM has to be repeated in a strict one.
func newVM(i jsonnet.Importer, fast bool) *jsonnet.VM {
	vm := jsonnet.MakeVM()
	native.Install(vm, fast)
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

// stringArgs returns arguments of a native function that must be strings without tokens.
func stringArgs(args []any) ([]string, error) {
	out := make([]string, len(args))
	for i, a := range args {
		s, ok := a.(string)
		if !ok {
			return nil, fmt.Errorf("a name must be a string, not %v", a)
		}
		if token.Reserved(s) {
			return nil, errors.New("a token cannot be named by another token")
		}
		out[i] = s
	}
	return out, nil
}

// nativeToken returns an encoded token of a kind and a name.
func nativeToken(args []any) (any, error) {
	a, err := stringArgs(args)
	if err != nil {
		return nil, err
	}
	return token.Encode(token.Token{Kind: token.Kind(a[0]), Name: a[1]}), nil
}

// nativeRead returns an encoded token that reads a field of a reference. The
// first argument describes the reference: its kind, its name, and whether only
// replicas on the reader's machine count.
func nativeRead(args []any) (any, error) {
	of, _ := args[0].([]any)
	if len(of) != 3 {
		return nil, errors.New("the reference must be [kind, name, here]")
	}
	a, err := stringArgs([]any{of[0], of[1], args[1], args[2]})
	if err != nil {
		return nil, err
	}
	t := token.Token{Kind: token.Ref, Of: a[0], Name: a[1], Field: a[2], Arg: a[3]}
	t.Here, _ = of[2].(bool)
	if body := args[3]; body != nil {
		if _, isText := body.(string); t.Field == "join" && !isText {
			return nil, errors.New("join: the function must return a string; each accepts any value" + hintMark + "function(r) r.host + ':' + r.port('name') returns a string")
		}
		var bad error
		doc := token.NewDoc(body, nil, func(path []string, err error) { bad = err })
		if bad != nil {
			return nil, bad
		}
		t = t.WithBody(doc)
	} else if t.Set() {
		return nil, fmt.Errorf("%s: the function returned null", t.Field)
	}
	return token.Encode(t), nil
}

// nativeArtifact returns an artifact token. A relative path is resolved against
// the file that names it: the first argument is the place of the embedded
// library as imported by that file, see embeddedPrefix. A URL is kept as it is
// and needs the SHA-256 sum of its content.
func nativeArtifact(args []any) (any, error) {
	a, err := stringArgs(args[:2])
	if err != nil {
		return nil, err
	}
	t := token.Token{Kind: token.Artifact, Name: a[1]}
	if scheme, _, ok := strings.Cut(a[1], "://"); ok {
		u, err := url.Parse(a[1])
		if err != nil || scheme != "https" && scheme != "http" || u.Host == "" || u.User != nil {
			return nil, fmt.Errorf("defx.artifact: %q is not a URL that can be fetched"+hintMark+"https://HOST/PATH, without a password", diag.Redact(a[1]))
		}
		if name := path.Base(u.Path); name == "." || name == "/" {
			return nil, fmt.Errorf("defx.artifact: %q does not name a file"+hintMark+"the last part of the path becomes the file's name", a[1])
		}
		sum, _ := args[2].(string)
		if t.Arg = strings.TrimPrefix(sum, "sha256:"); !sha256RE.MatchString(t.Arg) {
			return nil, fmt.Errorf("defx.artifact: %q needs the SHA-256 sum of its content"+hintMark+"defx.artifact('%s', sha256='…'): the 64 hexadecimal digits that sha256sum prints", a[1], a[1])
		}
		return token.Encode(t), nil
	}
	if args[2] != nil {
		return nil, fmt.Errorf("defx.artifact: %q is a local path, so sha256 is not allowed"+hintMark+"remove sha256; defx lock records the digest", a[1])
	}
	if !path.IsAbs(t.Name) {
		t.Name = path.Join(path.Dir(strings.TrimPrefix(a[0], embeddedPrefix)), t.Name)
	}
	t.Name = path.Clean(t.Name)
	return token.Encode(t), nil
}

// sha256RE matches a SHA-256 sum in hexadecimal digits.
var sha256RE = regexp.MustCompile(`^[0-9a-f]{64}$`)
