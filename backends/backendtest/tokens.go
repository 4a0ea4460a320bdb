package backendtest

import (
	"path"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// Literals are texts without tokens.
func Literals(words ...string) []token.Text {
	out := make([]token.Text, len(words))
	for i, w := range words {
		out[i] = token.Lit(w)
	}
	return out
}

// Token is a text of one token alone.
func Token(t token.Token) token.Text { return token.Text{{Token: &t}} }

// Secret is a secret as it stands in a text.
func Secret(name, version string) token.Text {
	return Token(token.Token{Kind: token.Secret, Name: name, Version: version})
}

// Ref is a field of another service of the set.
func Ref(name, field, arg string) token.Text {
	return Token(token.Token{Kind: token.Ref, Of: "set", Name: name, Field: field, Arg: arg})
}

// Artifact is what lies at a path.
func Artifact(path string) token.Text {
	return Token(token.Token{Kind: token.Artifact, Name: path})
}

// Artifacts knows every path: *.tar is an archive, *.bin a single file, the rest a folder.
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
