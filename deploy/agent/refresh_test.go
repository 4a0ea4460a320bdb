package agent_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/systemd"
	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/agent"
	"github.com/defx-dev/defx/internal/token"
)

// watched is a service with files of all kinds.
func watched() graph.Spec {
	spec := command("run one")
	spec.User = "root"
	spec.Files = map[string]graph.File{"/etc/stored": {Text: token.Lit("stored")}}
	spec.HostFiles = map[string]graph.File{"/etc/shop.conf": {Text: token.Lit("host")}}
	return spec
}

// differences returns what a refresh reports of the unit a/b: "FIELD: CAUSE".
func differences(t *testing.T, h *agent.Host) []string {
	t.Helper()
	r, err := h.Refresh(t.Context(), agent.RefreshRequest{Scope: scope})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, u := range r.Units {
		for _, d := range u.Differences {
			out = append(out, d.Field+": "+string(d.Cause))
		}
	}
	slices.Sort(out)
	return out
}

func TestRefresh_ReportsWhatDiffers(t *testing.T) {
	const units = "/etc/systemd/system/"
	for name, c := range map[string]struct {
		change func(root, unit string, s *fakeSupervisor) error
		want   func(unit string) string
	}{
		"edited": {func(root, unit string, _ *fakeSupervisor) error {
			return os.WriteFile(filepath.Join(root, units, unit), []byte("mine"), 0o644)
		}, func(unit string) string { return units + unit + ": " + string(plan.CauseUnitEdited) }},
		"removed": {func(root, unit string, _ *fakeSupervisor) error { return os.Remove(filepath.Join(root, units, unit)) },
			func(unit string) string { return units + unit + ": " + string(plan.CauseUnitMissing) }},
		"mode": {func(root, unit string, _ *fakeSupervisor) error {
			return os.Chmod(filepath.Join(root, units, unit), 0o600)
		}, func(unit string) string { return units + unit + ": " + string(plan.CauseUnitMode) }},
		"masked": {func(root, unit string, _ *fakeSupervisor) error {
			os.Remove(filepath.Join(root, units, unit))
			return os.Symlink("/dev/null", filepath.Join(root, units, unit))
		}, func(unit string) string { return units + unit + ": " + string(plan.CauseMasked) }},
		"disabled": {func(root, _ string, _ *fakeSupervisor) error {
			return os.Remove(filepath.Join(root, units, "defx-dev-test.target.wants/defx-dev-test-a-b.service"))
		}, func(string) string {
			return units + "defx-dev-test.target.wants/defx-dev-test-a-b.service: " + string(plan.CauseNotEnabled)
		}},
		"drop-in": {func(root, unit string, _ *fakeSupervisor) error {
			return writeFile(filepath.Join(root, "run/systemd/system", unit+".d", "x.conf"))
		}, func(unit string) string {
			return "/run/systemd/system/" + unit + ".d/x.conf: " + string(plan.CauseDropIn)
		}},
		"drop-in of a prefix": {func(root, _ string, _ *fakeSupervisor) error {
			return writeFile(filepath.Join(root, units, "defx-dev-.service.d", "x.conf"))
		}, func(string) string { return units + "defx-dev-.service.d/x.conf: " + string(plan.CauseDropIn) }},
		"drop-in of all services": {func(root, _ string, _ *fakeSupervisor) error {
			return writeFile(filepath.Join(root, units, "service.d", "x.conf"))
		}, func(string) string { return "" }},
		"host file": {func(root, _ string, _ *fakeSupervisor) error {
			return edit(filepath.Join(root, "etc/shop.conf"), "tsoh")
		}, func(string) string { return "/etc/shop.conf: " + string(plan.CauseHostEdited) }},
		"a folder": {func(root, _ string, _ *fakeSupervisor) error {
			os.Remove(filepath.Join(root, "etc/shop.conf"))
			return os.Mkdir(filepath.Join(root, "etc/shop.conf"), 0o755)
		}, func(string) string { return "/etc/shop.conf: " + string(plan.CauseHostEdited) }},
		"stopped": {func(_, unit string, s *fakeSupervisor) error { delete(s.active, unit); return nil },
			func(unit string) string { return unit + ": " + string(plan.CauseStopped) }},
		"failed": {func(_, unit string, s *fakeSupervisor) error {
			s.state = func(_ string, st *agent.SupervisorState) { st.Active = "failed" }
			return nil
		}, func(unit string) string { return unit + ": " + string(plan.CauseFailed) }},
		"restarting": {func(_, unit string, s *fakeSupervisor) error {
			s.state = func(_ string, st *agent.SupervisorState) { st.Active, st.Sub = "activating", "auto-restart" }
			return nil
		}, func(unit string) string { return unit + ": " + string(plan.CauseRestarting) }},
		"starting": {func(_, _ string, s *fakeSupervisor) error {
			s.state = func(_ string, st *agent.SupervisorState) { st.Active, st.Sub = "activating", "start" }
			return nil
		}, func(string) string { return "" }},
	} {
		t.Run(name, func(t *testing.T) {
			h, s, _ := machine(t)
			raw, unit := service(t, watched())
			if _, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(1), raw, nil, 0); err != nil {
				t.Fatal(err)
			}
			if err := h.FlushManifest(t.Context(), scope, 1); err != nil {
				t.Fatal(err)
			}
			h.Close()
			before := files(t, s.root)
			if got := differences(t, reopened(s)); len(got) > 0 {
				t.Fatalf("before any change: %v", got)
			}
			if after := files(t, s.root); before != after {
				t.Errorf("a refresh writes:\n%s\nbefore:\n%s", after, before)
			}
			if err := c.change(s.root, unit, s); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(differences(t, reopened(s)), "\n"); got != c.want(unit) {
				t.Errorf("%q, want %q", got, c.want(unit))
			}
		})
	}
}

// TestRefresh_DataOfDynamicUserWithoutLink removes the agent's folder, and with it the symbolic link
// by which systemd shows the data of a dynamic user.
func TestRefresh_DataOfDynamicUserWithoutLink(t *testing.T) {
	const dir = "/var/lib/defx/dev/test/a-b.0/d"
	h, s, _ := machine(t)
	h.Close()
	ask := func() map[string][]string {
		r, err := reopened(s).Refresh(t.Context(), agent.RefreshRequest{Scope: scope, Data: map[string][]string{"a/b": {dir}}})
		if err != nil {
			t.Fatal(err)
		}
		return r.Data
	}
	if got := ask(); len(got) > 0 {
		t.Errorf("without data: %v", got)
	}
	if err := writeFile(filepath.Join(s.root, "/var/lib/private/defx/dev/test/a-b.0/d/f")); err != nil {
		t.Fatal(err)
	}
	if got := ask()["a/b"]; !slices.Equal(got, []string{dir}) {
		t.Errorf("the data is found as %q", got)
	}
}

// TestRefresh_SocketWaitsForConnection stops a service that its socket starts on demand, as a boot
// does, and then the socket.
func TestRefresh_SocketWaitsForConnection(t *testing.T) {
	h, s, _ := machine(t)
	spec := command("run one")
	spec.Ports = map[string]graph.Port{"talk": {Port: 7100}}
	spec.Sockets = map[string]graph.Socket{"talk": {Port: "talk"}}
	raw, unit := service(t, spec)
	if _, err := applyUnit(h, raw); err != nil {
		t.Fatal(err)
	}
	if err := h.FlushManifest(t.Context(), scope, 1); err != nil {
		t.Fatal(err)
	}
	h.Close()
	delete(s.active, unit)
	if got := differences(t, reopened(s)); len(got) > 0 {
		t.Errorf("while its socket waits: %v", got)
	}
	socket := "defx-dev-test-a-b.socket"
	delete(s.active, socket)
	want := []string{unit + ": " + string(plan.CauseStopped), socket + ": " + string(plan.CauseStopped)}
	if got := differences(t, reopened(s)); !slices.Equal(got, want) {
		t.Errorf("without its socket: %v, want %v", got, want)
	}
}

// reopened returns the machine as another process sees it.
func reopened(s *fakeSupervisor) *agent.Host {
	return agent.OpenHost(s.root, backends.NewSet(systemd.New())).WithSupervisor(s)
}

func writeFile(p string) error {
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	return os.WriteFile(p, []byte("[Service]\nNice=3\n"), 0o644)
}

// files lists all files below a folder with their sizes and times.
func files(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		b.WriteString(p + " " + info.ModTime().String() + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPrepareRepair_KeepsCopiesAndRestartsWhatWasEdited(t *testing.T) {
	h, s, _ := machine(t)
	raw, unit := service(t, watched())
	if _, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(1), raw, nil, 0); err != nil {
		t.Fatal(err)
	}
	s.takeCalls()
	if err := edit(filepath.Join(s.root, "etc/shop.conf"), "mine"); err != nil {
		t.Fatal(err)
	}
	kept, err := h.PrepareRepair(t.Context(), scope, "a/b", caller(1), false, false)
	if err != nil || len(kept) != 1 || !strings.HasPrefix(kept[0], "/var/lib/defx/edited/etc/shop.conf.") || read(t, s.root, kept[0]) != "mine" {
		t.Fatalf("%v %v", kept, err)
	}
	if got := s.takeCalls(); got != "" {
		t.Errorf("an edited host file: %s", got)
	}
	if err := writeFile(filepath.Join(s.root, "etc/systemd/system", unit+".d/mine.conf")); err != nil {
		t.Fatal(err)
	}
	if kept, err = h.PrepareRepair(t.Context(), scope, "a/b", caller(1), false, false); err != nil || len(kept) != 2 {
		t.Fatalf("%v %v", kept, err)
	}
	if _, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(1), raw, nil, 0); err != nil {
		t.Fatal(err)
	}
	if got := s.takeCalls(); got != "stop "+unit+", start "+unit {
		t.Errorf("a drop-in: %s", got)
	}
	if got := differences(t, h); len(got) > 0 {
		t.Errorf("%v", got)
	}
	if got := read(t, s.root, "etc/shop.conf"); got != "host" {
		t.Errorf("%q", got)
	}
}

func TestSetStopped_StaysAcrossVersions(t *testing.T) {
	h, s, _ := machine(t)
	raw, unit := service(t, command("run one"))
	if _, err := h.ApplyUnit(t.Context(), scope, "a/b", caller(1), raw, nil, 0); err != nil {
		t.Fatal(err)
	}
	if e, err := h.SetStopped(t.Context(), scope, "a/b", caller(1), true, 0); err != nil || !e.Stopped || s.active[unit] {
		t.Fatalf("%+v %v", e, err)
	}
	stop := filepath.Join(s.root, "etc/systemd/system", unit+".d", "zz-defx-stopped.conf")
	if _, err := os.Stat(stop); err != nil {
		t.Error(err)
	}
	if got := differences(t, h); len(got) > 0 {
		t.Errorf("a unit that was stopped on purpose: %v", got)
	}
	s.active[unit] = true
	if got := differences(t, h); len(got) != 1 || !strings.Contains(got[0], string(plan.CauseStarted)) {
		t.Errorf("it runs nevertheless: %v", got)
	}
	delete(s.active, unit)
	if e, err := h.SetStopped(t.Context(), scope, "a/b", caller(1), false, 0); err != nil || e.Stopped || !s.active[unit] {
		t.Fatalf("%+v %v", e, err)
	}
	if _, err := os.Stat(filepath.Dir(stop)); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}

// edit changes a file as its owner does, who may not write it at first.
func edit(path, content string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, info.Mode().Perm()))
}
