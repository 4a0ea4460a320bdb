package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/backendtest"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/token"
)

// unit renders a service of the fake backend and returns the unit's canonical bytes.
func unit(t *testing.T, f *backendtest.Fake, address, command string) json.RawMessage {
	t.Helper()
	a, err := graph.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	p, _, errs := f.Render(backends.Input{Service: &graph.Service{Address: a, Spec: graph.Spec{Command: []token.Text{token.Lit(command)}}}})
	if errs != nil {
		t.Fatal(errs)
	}
	raw, err := digest.Canonical(&plan.Unit{Address: address, Backend: f.Name(), Encoding: f.Encoding(), Payload: p, Spec: json.RawMessage("{}")})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

const scope = "dev/test"

// caller returns an apply with a token.
func caller(token int64) agent.Caller {
	return agent.Caller{Lineage: "lineage", Apply: fmt.Sprint("apply ", token), Token: token}
}

func host(t *testing.T, f *backendtest.Fake) (*agent.Host, string) {
	dir := t.TempDir()
	h := agent.OpenHost(dir, backends.NewSet(f))
	t.Cleanup(func() { h.Close() })
	return h, dir
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestFence_LowerToken(t *testing.T) {
	f := &backendtest.Fake{}
	h, dir := host(t, f)
	if err := h.Fence(t.Context(), scope, caller(7), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(7), unit(t, f, "a/b", "new"), nil, 0); err != nil {
		t.Fatal(err)
	}
	var fenced *agent.ErrStaleToken
	if _, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(6), unit(t, f, "a/b", "old"), nil, 0); !errors.As(err, &fenced) || fenced.Token != 7 {
		t.Errorf("%v", err)
	}
	if err := h.Fence(t.Context(), scope, caller(6), nil); !errors.As(err, &fenced) {
		t.Errorf("%v", err)
	}
	h.Close()
	again := agent.OpenHost(dir, backends.NewSet(f)) // after a restart of the agent too
	defer again.Close()
	if err := again.Fence(t.Context(), scope, caller(6), []string{"a/b"}); !errors.As(err, &fenced) {
		t.Errorf("%v", err)
	}
	if got := read(t, dir, "etc/defx-test/a/b"); !strings.Contains(got, "new") {
		t.Errorf("%s", got)
	}
}

func TestFence_TokensPerUnit(t *testing.T) {
	f := &backendtest.Fake{}
	h, _ := host(t, f)
	for _, step := range []struct {
		token     int64
		addresses []string
		refused   bool
	}{{3, []string{"a/x"}, false}, {2, []string{"a/y"}, false}, {2, []string{"a/x"}, true}, {2, nil, true}, {4, nil, false}, {3, []string{"a/z"}, true}} {
		if err := h.Fence(t.Context(), scope, caller(step.token), step.addresses); (err != nil) != step.refused {
			t.Errorf("token %d for %v: %v", step.token, step.addresses, err)
		}
	}
}

func TestApplyUnit_ForeignFile(t *testing.T) {
	f := &backendtest.Fake{}
	h, dir := host(t, f)
	foreign := filepath.Join(dir, "etc/defx-test/a/b")
	if err := os.MkdirAll(filepath.Dir(foreign), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := h.Fence(t.Context(), scope, caller(1), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(1), unit(t, f, "a/b", "x"), nil, 0); err == nil || !strings.Contains(err.Error(), "is not managed by defx") {
		t.Errorf("%v", err)
	}
	if got := read(t, foreign); got != "mine" {
		t.Errorf("%q", got)
	}
}

func TestApplyUnit_FailureKeepsPrevious(t *testing.T) {
	f := &backendtest.Fake{}
	h, dir := host(t, f)
	if err := h.Fence(t.Context(), scope, caller(1), nil); err != nil {
		t.Fatal(err)
	}
	before, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(1), unit(t, f, "a/b", "good"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.OnRealize = func(string) error { return errors.New("refused") }
	after, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(1), unit(t, f, "a/b", "bad"), nil, 0)
	if err == nil || after.Digest != before.Digest {
		t.Errorf("%+v, %v", after, err)
	}
	if got := read(t, dir, "etc/defx-test/a/b"); !strings.Contains(got, "good") {
		t.Errorf("%s", got)
	}
}

func TestApplyUnit_AfterInterruptedAction(t *testing.T) {
	f := &backendtest.Fake{}
	h, dir := host(t, f)
	if err := h.Fence(t.Context(), scope, caller(1), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(1), unit(t, f, "a/b", "one"), nil, 0); err != nil {
		t.Fatal(err)
	}
	h.Close()
	// What a crash leaves: a begin record without its end, and a torn line after it.
	journal := filepath.Join(dir, "var/lib/defx/journal")
	was := read(t, journal)
	if err := os.WriteFile(journal, []byte(was+`{"scope":"dev/test","address":"a/b","begin":{"files":["/etc/defx-test/leftover"]}}`+"\n"+`{"scope":"de`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/defx-test/leftover"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	h = agent.OpenHost(dir, backends.NewSet(f))
	defer h.Close()
	units, err := h.Units(scope)
	if err != nil || units["a/b"] == nil || units["a/b"].Digest != "" {
		t.Fatalf("%+v, %v", units, err)
	}
	if err := h.Fence(t.Context(), scope, caller(2), nil); err != nil {
		t.Fatal(err)
	}
	if e, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(2), unit(t, f, "a/b", "two"), nil, 0); err != nil || e.Digest == "" {
		t.Fatalf("%+v, %v", e, err)
	}
	if err := h.FlushManifest(t.Context(), scope, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "etc/defx-test/leftover")); err == nil {
		t.Error("a file of the interrupted action is left")
	}
	if got := read(t, journal); got != "" {
		t.Errorf("the journal contains %q after FlushManifest", got)
	}
}

func TestApplyUnit_DeleteRemovesFolders(t *testing.T) {
	f := &backendtest.Fake{}
	h, dir := host(t, f)
	if err := h.Fence(t.Context(), scope, caller(1), nil); err != nil {
		t.Fatal(err)
	}
	for _, raw := range []json.RawMessage{unit(t, f, "a/b", "x"), nil} {
		if _, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(1), raw, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "etc")); err == nil {
		t.Error("etc, which was created for the unit, still exists")
	}
}

// cutter is a connection that breaks after left bytes.
type cutter struct {
	net.Conn
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if c.left < len(p) {
		n, _ := c.Conn.Write(p[:c.left])
		c.left = 0
		c.Conn.Close()
		return n, errors.New("cut")
	}
	c.left -= len(p)
	return c.Conn.Write(p)
}

func TestServe_ConnectionCutAnywhere(t *testing.T) {
	f := &backendtest.Fake{}
	raw := unit(t, f, "a/b", "x")
	for cut := 0; cut < 2500; cut += 37 {
		dir := t.TempDir()
		here, there := net.Pipe()
		served := make(chan error, 1)
		go func() {
			served <- agent.Serve(t.Context(), there, agent.OpenHost(dir, backends.NewSet(f)))
			there.Close()
		}()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err := talk(ctx, &cutter{here, cut}, raw)
		cancel()
		here.Close()
		if errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("cut after %d bytes: the client hangs", cut)
		}
		select {
		case <-served:
		case <-time.After(20 * time.Second):
			t.Fatalf("cut after %d bytes: the agent hangs", cut)
		}
	}
}

func talk(ctx context.Context, c net.Conn, raw json.RawMessage) error {
	client, err := agent.NewClient(ctx, c)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Fence(ctx, scope, caller(1), nil, 1); err != nil {
		return err
	}
	if _, _, err := client.ApplyUnit(ctx, scope, "a/b", caller(1), raw, nil, 0); err != nil {
		return err
	}
	return client.FlushManifest(ctx, scope, 1)
}

func TestApplyUnit_ByteForByte(t *testing.T) {
	f := &backendtest.Fake{}
	raw := unit(t, f, "a/b", "a > b && c < d \u2028 \" \\")
	here, there := net.Pipe()
	go agent.Serve(t.Context(), there, agent.OpenHost(t.TempDir(), backends.NewSet(f)))
	client, err := agent.NewClient(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Fence(t.Context(), scope, caller(1), nil, 1); err != nil {
		t.Fatal(err)
	}
	e, _, err := client.ApplyUnit(t.Context(), scope, "a/b", caller(1), raw, nil, 0)
	if err != nil || e.Object != digest.Bytes(raw) {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestServe_OtherProtocol(t *testing.T) {
	here, there := net.Pipe()
	go agent.Serve(t.Context(), there, agent.OpenHost(t.TempDir(), nil))
	defer here.Close()
	body := `{"kind":"hello","id":1,"protocol":99}`
	go fmt.Fprintf(here, "\x00\x00\x00%c%s", len(body), body)
	buf := make([]byte, 4096)
	here.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := here.Read(buf)
	if n <= 4 && err == nil {
		var more int
		more, err = here.Read(buf[n:])
		n += more
	}
	if err != nil || !strings.Contains(string(buf[:n]), "protocol 3, defx 99") {
		t.Errorf("%q, %v", buf[:n], err)
	}
}
