package lang_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/defx-dev/defx/lang"
)

// link makes a symbolic link, and the folders above it.
func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

// TestResolveFolder: a link may not lead out of the checkout that it is in.
func TestResolveFolder(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"checkout/.git", "checkout/libs/a", "checkout/third/party", "plain/libs/a", "elsewhere/lib"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link(t, "/", filepath.Join(dir, "checkout/libs/root"))
	link(t, dir+"/elsewhere", filepath.Join(dir, "checkout/libs/out"))
	link(t, "out", filepath.Join(dir, "checkout/libs/chain"))
	link(t, "../third/party", filepath.Join(dir, "checkout/libs/inside"))
	link(t, "a", filepath.Join(dir, "plain/libs/near"))
	link(t, "../../elsewhere", filepath.Join(dir, "plain/libs/out"))
	link(t, dir+"/plain", filepath.Join(dir, "home"))
	link(t, dir+"/checkout", filepath.Join(dir, "mine"))
	link(t, "/proc/self/root", filepath.Join(dir, "proc"))
	for name, want := range map[string]string{ // "" = refused
		"checkout/libs/a":                             "checkout/libs/a",
		"checkout/libs/inside":                        "checkout/third/party",
		"checkout/libs/root":                          "",
		"checkout/libs/out":                           "",
		"checkout/libs/chain":                         "",
		"checkout/libs/out/lib":                       "",
		"checkout/libs/root" + dir + "/elsewhere/lib": "",
		"plain/libs/near":                             "plain/libs/a",
		"plain/libs/out":                              "",
		"home/libs/a":                                 "plain/libs/a", // the operator's own link
		"mine/libs/a":                                 "checkout/libs/a",
		"mine/libs/out":                               "",
		"proc":                                        "",
	} {
		t.Chdir(dir)
		for _, typed := range []string{name, filepath.Join(dir, name)} {
			got, err := lang.ResolveFolder("-J", typed)
			if want != "" && (err != nil || got != filepath.Join(dir, want)) {
				t.Errorf("%s: %q, %v, want %s", typed, got, err, want)
			}
			if want == "" && (err == nil || !strings.Contains(err.Error(), "symbolic link")) {
				t.Errorf("%s: %q, %v, want an error about a link", typed, got, err)
			}
		}
	}
	t.Chdir(filepath.Join(dir, "checkout", "libs"))
	if got, err := lang.ResolveFolder("-J", "../libs/a"); err != nil || got != filepath.Join(dir, "checkout/libs/a") {
		t.Errorf("%q, %v", got, err)
	}
	for _, kernel := range []string{"/proc", "/sys", "/dev", "/proc/self/root/etc"} {
		if got, err := lang.ResolveFolder("-J", kernel); err == nil && kernel != "/proc/self/root/etc" {
			t.Errorf("%s: %s", kernel, got)
		}
	}
}

// TestEvaluate_VendorThatLeadsOut: vendor may be a link to another folder of the checkout only.
func TestEvaluate_VendorThatLeadsOut(t *testing.T) {
	const entry = "-- defx.jsonnet --\n{ name: 'v', libs: { a: { f: { x: importstr 'secret' } } } }\n"
	outside := writeTree(t, "-- secret --\ncanary\n")
	dir := writeTree(t, entry)
	link(t, outside, filepath.Join(dir, "vendor"))
	c := lang.Config{Root: dir, Entry: "defx.jsonnet"}
	res, err := lang.Evaluate(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "vendor") || !strings.Contains(err.Error(), outside) {
		t.Errorf("%v, %v", res, err)
	}

	dir = writeTree(t, "-- .git/HEAD --\n-- deploy/"+entry[3:]+"-- third/secret --\nfine\n")
	link(t, "../third", filepath.Join(dir, "deploy", "vendor"))
	res = evaluate(t, lang.Config{Root: filepath.Join(dir, "deploy")})
	if got := string(res.Libraries[0].Functionalities[0].Value); got != `{"x":"fine\n"}` {
		t.Errorf("a link inside of the checkout: %s, %v", got, res.Libraries[0].Functionalities[0].Err)
	}
}

// TestEvaluate_RootReadsNoKernelFiles: an operator may name / as a library folder; what is no
// content stays out of reach. The control is an ordinary file by the same way.
func TestEvaluate_RootReadsNoKernelFiles(t *testing.T) {
	dir := writeTree(t, "-- plain --\nfine\n")
	var libs strings.Builder
	names := []string{"proc/self/environ", "proc/1/cmdline", "sys/kernel/uevent_seqnum", "dev/zero", "proc/self/root" + dir + "/plain"}
	for i, name := range append(names, strings.TrimPrefix(dir, "/")+"/plain") {
		fmt.Fprintf(&libs, "l%d: { f: importstr '%s' },\n", i, name)
	}
	os.WriteFile(filepath.Join(dir, "defx.jsonnet"), []byte("{ name: 'k', libs: { "+libs.String()+" } }"), 0o644)
	res := evaluate(t, lang.Config{Root: dir, JPath: []string{"/"}})
	for i, l := range res.Libraries {
		f := l.Functionalities[0]
		if i < len(names) && f.Err == nil {
			t.Errorf("%s was read: %.80s", names[i], f.Value)
		}
		if i == len(names) && string(f.Value) != `"fine\n"` {
			t.Errorf("the control was not read: %v", f.Err)
		}
	}
}

func TestEvalFile_ReadsRegularFilesOnly(t *testing.T) {
	dir := writeTree(t, "-- plain --\nfine\n")
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]bool{"plain": false, "pipe": true, "/proc/self/environ": true, "/dev/zero": true} {
		file := filepath.Join(dir, "x.jsonnet")
		os.WriteFile(file, []byte("importstr '"+name+"'"), 0o644)
		if out, err := lang.EvalFile(t.Context(), lang.EvalConfig{File: file}); (err != nil) != bad {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	if _, err := lang.EvalFile(t.Context(), lang.EvalConfig{File: filepath.Join(dir, "pipe")}); err == nil {
		t.Error("a FIFO was evaluated")
	}
}

// readParentVerb makes this program report how much of its parent's environment it can read.
const readParentVerb = "__read-parent"

func readParent(into string) {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", os.Getppid()))
	os.WriteFile(into, []byte(strconv.Itoa(len(raw))+"\n"+strings.Join(os.Environ(), "\n")), 0o600)
	os.Exit(1)
}

// TestEvaluate_ChildCannotReadItsParent runs, in place of the evaluating program, one that reads
// the environment of its parent. The control is the same program started in the ordinary way.
func TestEvaluate_ChildCannotReadItsParent(t *testing.T) {
	if _, err := os.Stat("/proc/self/environ"); err != nil {
		t.Skip(err)
	}
	t.Setenv("CANARY", "1")
	dir := writeTree(t, "-- defx.jsonnet --\n{ name: 'x', libs: {} }\n")
	report := filepath.Join(t.TempDir(), "report")
	read := func() (size, environment string) {
		raw, err := os.ReadFile(report)
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(report)
		size, environment, _ = strings.Cut(string(raw), "\n")
		return size, environment
	}
	exec.Command(os.Args[0], readParentVerb, report).Run()
	if size, environment := read(); size == "0" || !strings.Contains(environment, "CANARY") {
		t.Errorf("the control read %s bytes", size)
	}
	lang.Evaluate(t.Context(), lang.Config{Root: dir, Entry: "defx.jsonnet", Command: []string{os.Args[0], readParentVerb, report}})
	if size, environment := read(); size != "0" || strings.Contains(environment, "CANARY") {
		t.Errorf("the child read %s bytes of its parent's environment; its own is %q", size, environment)
	}
	exec.Command(os.Args[0], readParentVerb, report).Run()
	if size, _ := read(); size == "0" {
		t.Error("this process stays concealed afterwards")
	}
}
