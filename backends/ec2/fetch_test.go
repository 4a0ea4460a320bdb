package ec2

import (
	"archive/tar"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"pgregory.net/rapid"
)

// TestFetch_SecretsUnchanged checks that the script decodes JSON strings with any escapes to exactly
// the secret's bytes.
func TestFetch_SecretsUnchanged(t *testing.T) {
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
		var ascii strings.Builder // with all characters escaped
		for _, r := range utf16.Encode([]rune(value)) {
			ascii.WriteString(`\u` + string("0123456789ABCDEF"[r>>12]) + string("0123456789ABCDEF"[r>>8&15]) + string("0123456789abcdef"[r>>4&15]) + string("0123456789abcdef"[r&15]))
		}
		if got := read(t, "SecretString", `{"SecretString" : "`+ascii.String()+`"}`); got != value {
			t.Fatalf("%q, want %q", got, value)
		}
	})
}

// TestFetch_HMAC compares the script's HMAC with Go's.
func TestFetch_HMAC(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 1, 64).Draw(t, "key")
		text := "-" + rapid.StringMatching(`[ -~\n]*[!-~]`).Draw(t, "text")
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		out, err := exec.Command("sh", "-c", "region=x domain=y\n"+fetchScript+`hmac "$1" "$2"`, "sh", hex.EncodeToString(key), text).Output()
		if want := hex.EncodeToString(h.Sum(nil)); err != nil || strings.TrimSpace(string(out)) != want {
			t.Fatalf("%s, %v, want %s", out, err, want)
		}
	})
}

// TestFetch_KeyNotInArguments checks that no program gets the access key as an argument, which all
// users of the machine could read. PATH has only programs that record their arguments.
func TestFetch_KeyNotInArguments(t *testing.T) {
	const key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nprintf '%s\\n' \"$*\" >>'"+dir+"/args'\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sha256sum", "cut", "sed", "tr", "od", "date", "openssl"} {
		if path, err := exec.LookPath(name); err == nil {
			write(name, "exec "+path+" \"$@\"")
		}
	}
	write("curl", `case "$*" in
*/api/token) echo session ;;
*/security-credentials/) echo role ;;
*/security-credentials/role) echo '{"AccessKeyId" : "AKIDTEST", "SecretAccessKey" : "`+key+`", "Token" : "token"}' ;;
*) while read -r line; do echo "$line"; done >'`+dir+`/sent'; echo 200 ;;
esac`)
	cmd := exec.Command("/bin/sh", "-c", "set -eu\nregion=eu-central-1 domain=amazonaws.com\n"+fetchScript+"answer=/dev/null\nask s3 /bucket/key")
	cmd.Env = []string{"PATH=" + dir}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	recorded, err := os.ReadFile(filepath.Join(dir, "args"))
	if err != nil || !bytes.Contains(recorded, []byte("https://s3.eu-central-1.amazonaws.com/bucket/key")) {
		t.Fatalf("%v\n%s", err, recorded)
	}
	for _, k := range []string{key, hex.EncodeToString([]byte(key))} {
		if bytes.Contains(recorded, []byte(k)) {
			t.Errorf("a program got the key as an argument:\n%s", recorded)
		}
	}
	if sent, err := os.ReadFile(filepath.Join(dir, "sent")); err != nil || !strings.Contains(string(sent), "Credential=AKIDTEST/") {
		t.Errorf("%v\n%s", err, sent)
	}
}

// TestFetch_ChecksumMismatch checks that a package is unpacked only if its digest matches.
func TestFetch_ChecksumMismatch(t *testing.T) {
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	if err := w.WriteHeader(&tar.Header{Name: "run", Mode: 0o755, Size: 2}); err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("hi"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(packed.Bytes())
	store := t.TempDir()
	fetch := func(digest string) (string, error) {
		cmd := exec.Command("sh", "-c", "set -eu\nregion=x domain=y\n"+fetchScript+"store="+store+"\nask() { cat >\"$answer\"; }\npackage /bucket/key tar "+digest)
		cmd.Stdin = bytes.NewReader(packed.Bytes())
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	other := strings.Repeat("0", 64)
	if out, err := fetch(other); err == nil || !strings.Contains(out, "has digest "+hex.EncodeToString(sum[:])+", not "+other) {
		t.Errorf("%v\n%s", err, out)
	}
	if found, err := filepath.Glob(filepath.Join(store, "*/run")); err != nil || len(found) > 0 {
		t.Errorf("unpacked: %v %v", found, err)
	}
	if out, err := fetch(hex.EncodeToString(sum[:])); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if got, err := os.ReadFile(filepath.Join(store, hex.EncodeToString(sum[:]), "run")); err != nil || string(got) != "hi" {
		t.Errorf("%q %v", got, err)
	}
}
