package e2e

import (
	"testing"
)

func TestX(t *testing.T) {
	s := newSite(t, 1)
	s.lab.RequireDocker()
	m := s.lab.Machines[0]
	m.StartDocker()
	t.Log(m.Docker("info"))
}
