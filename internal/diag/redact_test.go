package diag

import "testing"

func TestRedact_HidesUserinfo(t *testing.T) {
	for in, want := range map[string]string{
		"ssh://u:p@h":                      "ssh://…@h",
		"ssh://u:p@ss@h:22 and //x:y@z":    "ssh://…@h:22 and //…@z",
		"https://token@host/path@v1?a=b@c": "https://…@host/path@v1?a=b@c",
		"ssh://host:22":                    "ssh://host:22",
		"mail to a@b":                      "mail to a@b",
		"git+ssh://u:p@h/x":                "git+ssh://…@h/x",
	} {
		if got := Redact(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
