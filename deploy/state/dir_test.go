package state_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/deploy/state/statetest"
	"github.com/defx-dev/defx/lang/digest"
)

func TestDir(t *testing.T) {
	statetest.Run(t, func(t *testing.T) func() state.Store {
		dir := filepath.Join(t.TempDir(), "not", "there yet")
		return func() state.Store { return state.OpenDir(dir) }
	})
}

func TestEveryFlippedBitIsSeen(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s := state.OpenDir(dir)
	object := []byte(`{"a":"some content"}`)
	if err := s.Put(ctx, object); err != nil {
		t.Fatal(err)
	}
	packs, _ := filepath.Glob(filepath.Join(dir, "objects", "*.pack"))
	raw, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for bit := range 8 {
			bad := append([]byte(nil), raw...)
			bad[i] ^= 1 << bit
			if err := os.WriteFile(packs[0], bad, 0o644); err != nil {
				t.Fatal(err)
			}
			if got, err := state.OpenDir(dir).Get(ctx, digest.Bytes(object)); err == nil && string(got) != string(object) {
				t.Fatalf("byte %d, bit %d: %q came back", i, bit, got)
			}
		}
	}
}

func TestALeaseOfADeadProcessStandsInNobodysWay(t *testing.T) {
	ctx := context.Background()
	s := state.OpenDir(t.TempDir())
	sleeper := exec.Command("sleep", "600")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	owner := state.Self("apply")
	owner.PID = sleeper.Process.Pid
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(owner.PID) + "/stat")
	if err != nil {
		t.Skip("no /proc here: a dead holder's lease ends with its time")
	}
	owner.Start = strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))[19]
	if _, err := s.Acquire(ctx, nil, owner, time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Acquire(ctx, nil, state.Self("apply"), time.Hour); err == nil {
		t.Fatal("the lease of a living process was taken")
	}
	sleeper.Process.Kill()
	sleeper.Wait()
	if _, err := s.Acquire(ctx, nil, state.Self("apply"), time.Hour); err != nil {
		t.Errorf("the holder is dead: %v", err)
	}
}
