package engine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/defx-dev/defx/backends/docker"
	"github.com/defx-dev/defx/internal/poll"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// Line is one line that a container wrote.
type Line struct {
	Time time.Time
	Text string
}

// Tail returns the last n lines that units wrote since a time.
func (e *Engine) Tail(ctx context.Context, units []string, since time.Time, n int) []string {
	api, err := e.connect()
	if err != nil {
		return nil
	}
	var all []Line
	for _, u := range units {
		have, err := inspect(ctx, api, u)
		if err != nil || have == nil {
			continue
		}
		lines(ctx, api, have.ID, n, since, false, func(l Line) error { all = append(all, l); return nil })
	}
	var out []string
	for _, l := range last(all, n) {
		out = append(out, l.Text)
	}
	return out
}

func last(all []Line, n int) []Line {
	slices.SortStableFunc(all, func(a, b Line) int { return a.Time.Compare(b.Time) })
	return all[max(0, len(all)-n):]
}

// Logs passes the last n lines of all containers with a base, including scripts, to each; if
// follow is set, then new lines until ctx ends.
func (e *Engine) Logs(ctx context.Context, base string, n int, follow bool, each func([]Line) error) error {
	return e.withRetry(ctx, func(api *client.Client) error {
		list, err := labelled(ctx, api, docker.LabelBase, base)
		if err != nil {
			return err
		}
		var all []Line
		since := time.Now()
		for _, c := range list {
			if err := lines(ctx, api, c.ID, n, time.Time{}, false, func(l Line) error { all = append(all, l); return nil }); err != nil {
				return fmt.Errorf("cannot read the logs of %s: %w", strings.TrimPrefix(c.Names[0], "/"), err)
			}
		}
		if all = last(all, n); len(all) > 0 {
			if since = all[len(all)-1].Time.Add(1); n > 0 {
				if err := each(all); err != nil {
					return err
				}
			}
		}
		if !follow {
			return nil
		}
		return followAll(ctx, api, base, since, each)
	})
}

// followAll follows the running containers, and those that replace them.
func followAll(ctx context.Context, api *client.Client, base string, since time.Time, each func([]Line) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var mu sync.Mutex
	var running sync.WaitGroup
	defer running.Wait()
	known := map[string]bool{}
	for {
		list, err := labelled(ctx, api, docker.LabelBase, base)
		if err != nil && ctx.Err() == nil {
			return err
		}
		for _, c := range list {
			if key := c.ID + c.Status[:min(2, len(c.Status))]; c.State != container.StateRunning || known[key] {
				continue
			} else {
				known[key] = true
			}
			running.Go(func() {
				lines(ctx, api, c.ID, -1, since, true, func(l Line) error {
					mu.Lock()
					defer mu.Unlock()
					err := each([]Line{l})
					if err != nil {
						stop(err)
					}
					return err
				})
			})
		}
		if err := poll.Sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

// lines passes the lines that a container wrote to each. n < 0 means all.
func lines(ctx context.Context, api *client.Client, id string, n int, since time.Time, follow bool, each func(Line) error) error {
	o := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: follow}
	if n >= 0 {
		o.Tail = strconv.Itoa(n)
	}
	if !since.IsZero() {
		o.Since = fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond())
	}
	have, err := api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return err
	}
	if have.Container.HostConfig.LogConfig.Type == "none" {
		return nil
	}
	raw, err := api.ContainerLogs(ctx, id, o)
	if err != nil {
		return err
	}
	defer raw.Close()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-ctx.Done():
			raw.Close()
		case <-done:
		}
	}()
	var r io.Reader = raw
	if !have.Container.Config.Tty { // stdout and stderr are multiplexed
		pr, pw := io.Pipe()
		defer pr.Close()
		go func() {
			_, err := stdcopy.StdCopy(pw, pw, raw)
			pw.CloseWithError(err)
		}()
		r = pr
	}
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		text, err := in.ReadString('\n')
		if at, rest, ok := strings.Cut(strings.TrimRight(text, "\r\n"), " "); ok {
			if t, terr := time.Parse(time.RFC3339Nano, at); terr == nil {
				if err := each(Line{t.UTC(), strings.ToValidUTF8(rest, "\uFFFD")}); err != nil {
					return err
				}
			}
		}
		if err != nil {
			if err == io.EOF || ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}
