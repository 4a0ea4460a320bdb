package agent

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Progress is what a request waits for at the moment.
type Progress struct {
	What    string        `json:"what"`            // with its last answer: GET /health: 503
	Elapsed time.Duration `json:"elapsed"`         // since the wait began
	Limit   time.Duration `json:"limit,omitempty"` // after which the wait ends; 0: unknown
}

// String describes the wait: GET /health: 503, 12 s of 30 s.
func (p Progress) String() string {
	out := p.What + ", " + shortDuration(p.Elapsed)
	if p.Limit > 0 {
		out += " of " + shortDuration(p.Limit)
	}
	return out
}

// shortDuration writes a duration in seconds, or in minutes if it is long.
func shortDuration(d time.Duration) string {
	s := int(d.Round(time.Second).Seconds())
	switch {
	case s < 120:
		return fmt.Sprintf("%d s", s)
	case s%60 == 0:
		return fmt.Sprintf("%d min", s/60)
	}
	return fmt.Sprintf("%d min %d s", s/60, s%60)
}

type progressKey struct{}

// WithProgress returns a context in which waits of requests are reported to f. It is called
// from several goroutines, but not concurrently.
func WithProgress(ctx context.Context, f func(Progress)) context.Context {
	return context.WithValue(ctx, progressKey{}, f)
}

// progressOf returns the function of WithProgress, or nil.
func progressOf(ctx context.Context) func(Progress) {
	f, _ := ctx.Value(progressKey{}).(func(Progress))
	return f
}

// Short waits are not reported, and long ones not more often than reportEvery. Tests set both
// to shorter times.
var (
	reportAfter = 2 * time.Second
	reportEvery = time.Second
)

// report reports a wait that began some time ago.
func report(ctx context.Context, begin time.Time, limit time.Duration, what string) {
	if f := progressOf(ctx); f != nil && time.Since(begin) >= reportAfter {
		f(Progress{What: what, Elapsed: time.Since(begin), Limit: limit})
	}
}

// limitRate returns f without calls that come too soon after another one.
func limitRate(f func(Progress)) func(Progress) {
	var mu sync.Mutex
	var last time.Time
	return func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last) >= reportEvery-reportEvery/10 {
			last = time.Now()
			f(p)
		}
	}
}

// whileWaiting runs f and meanwhile reports what it waits for. describe returns that, and how
// long it may last; it is not called if nobody listens.
func whileWaiting(ctx context.Context, describe func(context.Context) (what string, limit time.Duration), f func(context.Context) error) error {
	if progressOf(ctx) == nil {
		return f(ctx)
	}
	begin := time.Now()
	watched, stop := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		timer := time.NewTimer(reportAfter)
		defer timer.Stop()
		for {
			select {
			case <-watched.Done():
				return
			case <-timer.C:
			}
			if what, limit := describe(watched); what != "" && watched.Err() == nil {
				report(ctx, begin, limit, what)
			}
			timer.Reset(reportEvery)
		}
	}()
	err := f(ctx)
	stop()
	<-over // no report after the return
	return err
}
