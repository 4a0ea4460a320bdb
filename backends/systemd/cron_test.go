package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/defx-dev/defx/backends/spec"
)

var crons = []string{
	"* * * * *", "*/5 * * * *", "0 * * * *", "30 4 * * *", "0,30 8-17 * * 1-5", "0 0 1 * *", "15 3 1,15 * *", "0 0 * * 0", "0 0 * * 7",
	"0 0 * * sun", "0 0 * * fri-sat", "0 0 * jan,JUL *", "0 0 29 2 *", "0 0 13 * 5", "*/7 */5 * * *", "5-59/10 0 * * *", "3/20 * * * *",
	"0 12 * * mon-fri", "0 0 1-7 * *", "0 0 */2 * 1", "0 0 1 * */2", "59 23 31 12 *", "0 0 1,8 * mon,wed", "@hourly", "@daily", "@weekly",
	"@monthly", "@yearly", "0 0 * * 5-7", "1,2,3 4,5 6 7 *",
}

// next returns the time after at for which an agent without systemd waits.
func next(t *testing.T, line string, at time.Time) time.Time {
	t.Helper()
	c, err := spec.ParseCron(line)
	if err != nil {
		t.Fatal(err)
	}
	return c.Next(at)
}

// TestCronCalendar_MatchesCron compares the times that systemd computes for the calendar expressions
// with those of Cron.Next, which machines without systemd use.
func TestCronCalendar_MatchesCron(t *testing.T) {
	tool := analyze(t)
	start := time.Date(2027, 12, 28, 22, 30, 0, 0, time.UTC)
	const n = 12
	for _, line := range crons {
		exprs, err := spec.CronCalendar(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		got := map[string]bool{}
		for _, e := range exprs {
			for _, s := range elapses(t, tool, e+" UTC", start, n) {
				got[s] = true
			}
		}
		for at, k := start, 0; k < n; k++ {
			at = next(t, line, at)
			if at.IsZero() || at.After(start.AddDate(4, 0, 0)) {
				break
			}
			if s := at.Format("2006-01-02 15:04:05"); !got[s] {
				t.Errorf("%s: cron runs at %s, %q does not", line, s, exprs)
				break
			} else {
				delete(got, s)
			}
		}
		for s := range got {
			at, _ := time.Parse("2006-01-02 15:04:05", s)
			if !next(t, line, at.Add(-time.Second)).Equal(at) {
				t.Errorf("%s: %q runs at %s, cron does not", line, exprs, s)
			}
		}
	}
}

func elapses(t *testing.T, tool, expr string, start time.Time, n int) []string {
	t.Helper()
	cmd := exec.Command(tool, "calendar", fmt.Sprintf("--iterations=%d", n), "--base-time="+start.Format("2006-01-02 15:04:05 UTC"), expr)
	cmd.Env = append(os.Environ(), "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", expr, err, out)
	}
	var times []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "Next elapse:") || strings.HasPrefix(line, "Iter") || strings.HasPrefix(line, "Iteration") {
			w := strings.Fields(line)
			times = append(times, w[len(w)-3]+" "+w[len(w)-2])
		}
	}
	return times
}

func TestCronCalendar_Invalid(t *testing.T) {
	for _, line := range []string{"", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *", "* * * * 8",
		"5-1 * * * *", "*/0 * * * *", "*/99 * * * *", "a * * * *", "* * * foo *", "@reboot", "0 0 30 2 *", "0 0 31 4,6 *", "1,,2 * * * *",
		"-1 * * * *", "+1 * * * *", "1- * * * *", "1/ * * * *", "0 0 L * *", "0 0 * * 5#2", "* * * * *\n", "\x00 * * * *"} {
		if got, err := spec.CronCalendar(line); err == nil && !strings.HasSuffix(line, "\n") {
			t.Errorf("%q becomes %q", line, got)
		}
	}
}

func TestEveryCalendar_Exact(t *testing.T) {
	tool := analyze(t)
	start := time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, d := range []time.Duration{time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour,
		6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour} {
		expr, ok := spec.EveryCalendar(d)
		if !ok {
			t.Errorf("%s has no calendar", d)
			continue
		}
		var last time.Time
		for _, s := range elapses(t, tool, expr+" UTC", start, 30) {
			at, err := time.Parse("2006-01-02 15:04:05", s)
			if err != nil {
				t.Fatal(err)
			}
			if !last.IsZero() && at.Sub(last) != d {
				t.Errorf("%s: %s then %s", expr, last, at)
			}
			last = at
		}
	}
	for _, d := range []time.Duration{7 * time.Second, 90 * time.Second, 7 * time.Minute, 90 * time.Minute, 5 * time.Hour, 48 * time.Hour, 1500 * time.Millisecond} {
		if expr, ok := spec.EveryCalendar(d); ok {
			t.Errorf("%s becomes %s", d, expr)
		}
	}
}
