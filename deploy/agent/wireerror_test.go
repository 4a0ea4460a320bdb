package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/defx-dev/defx/deploy/engine"
	"github.com/defx-dev/defx/internal/diag"
)

func TestError_RoundTrip(t *testing.T) {
	systemd := &systemdUnavailableError{fs.ErrNotExist}
	for _, c := range []struct {
		name       string
		err        error
		code, hint string
	}{
		{"plain", errors.New("no"), "", ""},
		{"stale token", fmt.Errorf("while it ran: %w", &ErrStaleToken{Address: "a/b", Token: 7}), CodeStaleToken, ""},
		{"unhealthy", fmt.Errorf("%w\nunchanged", &Unhealthy{errors.New("sick")}), CodeUnhealthy, ""},
		{"no systemd", systemd, CodeUnavailable, "dir:PATH"},
		{"no engine", fmt.Errorf("x: %w", &engine.ErrEngineUnavailable{Socket: "/s", Err: syscall.ECONNREFUSED}), CodeUnavailable, "start docker"},
		{"no permission", &engine.ErrEngineUnavailable{Socket: "/s", Err: fs.ErrPermission}, CodeUnavailable, "group docker"},
		{"neither", &noSupervisorError{systemd: systemd, engine: &engine.ErrEngineUnavailable{Socket: "/s", Err: fs.ErrNotExist}}, CodeUnavailable, "or both"},
		{"full disk", &fs.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}, "", "disk is full"},
		{"full disk of an engine", errors.New("write /y: no space left on device"), "", "disk is full"},
		{"own hint", diag.Errorf("a/b", "bad").WithHint("do this"), "", "do this"},
		{"retire", &Error{Code: CodeRetire, Summary: "not deleted", Hint: "retire: null"}, CodeRetire, "retire: null"},
	} {
		raw, err := json.Marshal(&Message{Kind: "apply", Error: newError(c.err)})
		if err != nil {
			t.Fatal(err)
		}
		m := &Message{}
		if err := json.Unmarshal(raw, m); err != nil {
			t.Fatal(err)
		}
		got := m.Error
		if got.Code != c.code || !strings.Contains(got.Hint, c.hint) || (got.Hint == "") != (c.hint == "") {
			t.Errorf("%s: %+v", c.name, got)
		}
		if !strings.HasPrefix(got.Error(), strings.Split(c.err.Error(), "\n    hint: ")[0]) || strings.Count(got.Error(), "hint:") > 1 {
			t.Errorf("%s: %q became %q", c.name, c.err, got)
		}
		if stale, ok := errors.AsType[*ErrStaleToken](error(got)); ok != (c.code == CodeStaleToken) || ok && *stale != (ErrStaleToken{Address: "a/b", Token: 7}) {
			t.Errorf("%s: %v", c.name, stale)
		}
		if _, ok := errors.AsType[*Unhealthy](error(got)); ok != (c.code == CodeUnhealthy) {
			t.Errorf("%s: unhealthy: %v", c.name, ok)
		}
	}
}

// A client gets typed errors from a real agent at the other end.
func TestClient_TypedErrors(t *testing.T) {
	here, there := net.Pipe()
	go Serve(t.Context(), there, OpenHost(t.TempDir(), nil))
	client, err := NewClient(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Fence(t.Context(), "dev/test", caller(5), nil, 1); err != nil {
		t.Fatal(err)
	}
	err = client.Fence(t.Context(), "dev/test", caller(4), []string{"a/b"}, 1)
	if stale, ok := errors.AsType[*ErrStaleToken](err); !ok || stale.Token != 5 || stale.Address != "dev/test" {
		t.Errorf("%v", err)
	}
	if _, err := client.Status(t.Context(), "dev/test"); err != nil {
		t.Error(err)
	}
	if err := client.Restart(t.Context(), "dev/test", "a/b"); err == nil || err.Error() != "a dir: folder runs nothing, so nothing can be restarted" {
		t.Errorf("%v", err)
	}
}

// An agent before protocol 2 answers hello with an error that is a string.
func TestNewClient_AgentWithOlderProtocol(t *testing.T) {
	here, there := net.Pipe()
	go func() {
		c := newConn(there)
		if m, err := c.receive(); err == nil {
			c.writeFrame(fmt.Appendf(nil, `{"kind":"hello","id":%d,"error":"the agent speaks protocol 1, defx 2"}`, m.ID))
			c.w.Flush()
		}
	}()
	if _, err := NewClient(t.Context(), here); err == nil || err.Error() != "the agent speaks protocol 1, defx 2" {
		t.Errorf("%v", err)
	}
}

// caller returns an apply with a token.
func caller(token int64) Caller {
	return Caller{Lineage: "lineage", Apply: fmt.Sprint("apply ", token), Token: token}
}
