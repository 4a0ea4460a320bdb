package backendtest

import (
	"path"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// Literals returns one text without tokens for each string.
func Literals(list ...string) []token.Text {
	out := make([]token.Text, len(list))
	for i, w := range list {
		out[i] = token.Lit(w)
	}
	return out
}

// Token returns a text that consists of one token.
func Token(t token.Token) token.Text { return token.Text{{Token: &t}} }

// Secret returns a text that consists of a secret.
func Secret(name, version string) token.Text {
	return Token(token.Token{Kind: token.Secret, Name: name, Version: version})
}

// Ref returns a text that reads a field of another service.
func Ref(name, field, arg string) token.Text {
	return Token(token.Token{Kind: token.Ref, Of: "set", Name: name, Field: field, Arg: arg})
}

// Artifact returns a text that consists of the artifact at a path.
func Artifact(path string) token.Text {
	return Token(token.Token{Kind: token.Artifact, Name: path})
}

// Artifacts resolves any artifact: *.tar is an archive, *.bin a single file, anything else a
// folder.
func Artifacts(t token.Token) (plan.Artifact, bool) {
	a := plan.Artifact{Digest: digest.Bytes([]byte(t.Name)), Path: t.Name, Kind: "tree"}
	switch path.Ext(t.Name) {
	case ".tar":
		a.Kind = "tar"
	case ".bin":
		a.Kind = "file"
	}
	return a, true
}
