package apply_test

import "testing"

// A machine that is still to be created is not asked, and that is no failure: nothing runs there. If
// the state has units on it, what runs there is unknown.
func TestRefreshMachines_MachineToBeCreated(t *testing.T) {
	s := newSite(t)
	refreshed := func() map[string]error {
		t.Helper()
		req := s.request("a x")
		req.Machines[0].Module = "module/pool"
		if err := req.RefreshMachines(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(req.Refreshed.Answers) > 0 {
			t.Errorf("asked without an address: %v", req.Refreshed.Answers)
		}
		return req.Refreshed.NotAsked
	}
	if got := refreshed(); len(got) > 0 {
		t.Errorf("a new machine: %v", got)
	}
	s.run(s.request("a x"))
	if got := refreshed(); got["m"] == nil {
		t.Error("a machine with units and without an address is not reported")
	}
}
