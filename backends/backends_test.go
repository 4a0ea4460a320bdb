package backends_test

import (
	"path"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
)

// FuzzSecretPath checks that different names have different files and that no file is outside its
// directory.
func FuzzSecretPath(f *testing.F) {
	f.Add("hydra/db-password", "hydra_2fdb-password")
	f.Add(".", "..")
	f.Add("a_b", "a/b")
	f.Add("A", "a")
	f.Fuzz(func(t *testing.T, a, b string) {
		pa, pb := backends.SecretPath("dev", "zalora", a), backends.SecretPath("dev", "zalora", b)
		if (pa == pb) != (a == b) {
			t.Fatalf("%q and %q have the paths %s and %s", a, b, pa, pb)
		}
		if a != "" && (path.Dir(pa) != backends.SecretsPath+"/dev/zalora" || strings.HasPrefix(path.Base(pa), ".")) {
			t.Fatalf("the path of %q is %s", a, pa)
		}
	})
}
