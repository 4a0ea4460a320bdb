package ec2

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf16"

	"pgregory.net/rapid"
)

// TestInstancesReadSecretsAsTheyAre: what a store of secrets answers in JSON,
// with whatever escapes, comes out of the script byte for byte.
func TestInstancesReadSecretsAsTheyAre(t *testing.T) {
	read := func(t *rapid.T, key, answer string) string {
		cmd := exec.Command("sh", "-c", "region=x domain=y\n"+fetchScript+"text "+key)
		cmd.Stdin = strings.NewReader(answer)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", answer, err)
		}
		return string(out)
	}
	rapid.Check(t, func(t *rapid.T) {
		value := strings.ReplaceAll(rapid.StringN(0, 40, -1).Draw(t, "value"), "\x00", "")
		value = strings.ToValidUTF8(value, "") + rapid.SampledFrom([]string{"", "\n", "\"", "\\", "é", "€", "😀", "\t\r\b\f", `","Value":"x`}).Draw(t, "end")
		raw, err := json.Marshal(map[string]any{"Parameter": map[string]any{"ARN": "arn:aws:ssm:x", "Value": value, "Version": 1}})
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, "Value", string(raw)); got != value {
			t.Fatalf("%q, want %q", got, value)
		}
		var ascii strings.Builder // as some encoders write it
		for _, r := range utf16.Encode([]rune(value)) {
			ascii.WriteString(`\u` + string("0123456789ABCDEF"[r>>12]) + string("0123456789ABCDEF"[r>>8&15]) + string("0123456789abcdef"[r>>4&15]) + string("0123456789abcdef"[r&15]))
		}
		if got := read(t, "SecretString", `{"SecretString" : "`+ascii.String()+`"}`); got != value {
			t.Fatalf("%q, want %q", got, value)
		}
	})
}
