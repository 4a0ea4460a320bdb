package poll

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestUntil_StopsWhenDone(t *testing.T) {
	n := 0
	err := Until(t.Context(), time.Millisecond, func(context.Context) (bool, error) { n++; return n == 3, nil })
	if err != nil || n != 3 {
		t.Fatalf("%d calls, error %v", n, err)
	}
}

func TestUntil_ReturnsErrorAndCause(t *testing.T) {
	want := errors.New("broken")
	if err := Until(t.Context(), time.Hour, func(context.Context) (bool, error) { return false, want }); err != want {
		t.Errorf("error %v, want %v", err, want)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	err := Until(ctx, time.Hour, func(context.Context) (bool, error) { cancel(want); return false, nil })
	if err != want {
		t.Errorf("error %v, want the cause %v", err, want)
	}
}
