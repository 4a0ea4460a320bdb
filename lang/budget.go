package lang

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/internal/diag"
)

// All child processes of a run share one budget. Its time is that during which a child runs, and
// children run one after the other, so that its memory is that of one child. Otherwise a
// deployment with many hostile parts would have the limit many times.

// budgetKey is the key of the budget in a context.
type budgetKey struct{}

// budget is the time that evaluation has left.
type budget struct {
	total time.Duration
	slot  chan struct{} // held by the child that runs

	mu       sync.Mutex
	used     time.Duration
	culprits []string // what used much of it
}

// WithBudget returns a context in which all evaluation together has the limits l. A context that
// has a budget keeps it.
func WithBudget(ctx context.Context, l Limits) context.Context {
	if _, has := ctx.Value(budgetKey{}).(*budget); has {
		return ctx
	}
	return context.WithValue(ctx, budgetKey{}, newBudget(l))
}

func newBudget(l Limits) *budget {
	return &budget{total: l.withDefaults().Time, slot: make(chan struct{}, 1)}
}

// budgetOf returns the budget of a context, or a new one if it has none.
func budgetOf(ctx context.Context, l Limits) *budget {
	if b, has := ctx.Value(budgetKey{}).(*budget); has {
		return b
	}
	return newBudget(l)
}

// left returns the time that is left. A tenth is kept for finding the positions of errors, unless
// last is set.
func (b *budget) left(last bool) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if last {
		return b.total - b.used
	}
	return b.total - b.total/10 - b.used
}

// run calls f with the time that it has: that of the budget, and no more than share unless that
// is 0. It counts the time that f takes. If no time is left it returns a *childLimitError.
func (b *budget) run(ctx context.Context, share time.Duration, last bool, f func(time.Duration) error) error {
	select {
	case b.slot <- struct{}{}:
		defer func() { <-b.slot }()
	case <-ctx.Done():
		return ctx.Err()
	}
	limit := b.left(last)
	if share > 0 {
		limit = min(limit, share)
	}
	if limit <= 0 {
		return b.spent()
	}
	begin := time.Now()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.used += time.Since(begin)
	}()
	return f(limit)
}

// exceeded is the error of a child that did not end within limit.
func (b *budget) exceeded(limit time.Duration) *childLimitError {
	hint := "look for endless recursion, or a list that grows without end; --max-time allows more"
	if limit < b.total-b.total/10 {
		hint = fmt.Sprintf("that is the time for the whole deployment, and this part used %s of it: %s", limit.Round(10*time.Millisecond), hint)
	}
	return &childLimitError{summary: fmt.Sprintf("evaluation took longer than %s", b.total), hint: hint, time: true}
}

// blame records what used much of the time.
func (b *budget) blame(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.culprits, what) {
		b.culprits = append(b.culprits, what)
	}
}

// spent is the error of what is not evaluated because no time is left.
func (b *budget) spent() *childLimitError {
	b.mu.Lock()
	defer b.mu.Unlock()
	summary := fmt.Sprintf("not evaluated: no time is left of the %s that evaluation may take", b.total)
	if n := len(b.culprits); n > 0 {
		summary += ", which " + strings.Join(b.culprits[:min(n, 5)], ", ") + " used up"
	}
	return &childLimitError{summary: summary, hint: "--max-time allows more", spent: true}
}

// errorAbout returns the limit as an error about a subject.
func (d *childLimitError) errorAbout(subject string, path ...string) *diag.Error {
	return diag.Errorf(subject, "%s", d.summary).At(path...).WithHint("%s", d.hint)
}
