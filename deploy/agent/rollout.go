package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/defx-dev/defx/backends"
	"github.com/defx-dev/defx/backends/docker"
)

// Where units lie. What defx writes elsewhere, systemd does not read.
const unitDir = "/etc/systemd/system"

// unitsOf lists the units among files: those that can be stopped.
func unitsOf(files []string) []string {
	out := systemdUnits(files)
	for _, f := range files {
		if path.Dir(f) == docker.Dir && docker.Kind(f) != "" {
			out = append(out, path.Base(f))
		}
	}
	return out
}

// systemdUnits lists those that systemd runs.
func systemdUnits(files []string) []string {
	var out []string
	for _, f := range files {
		if path.Dir(f) == unitDir && path.Ext(f) != "" {
			out = append(out, path.Base(f))
		}
	}
	return out
}

// contained tells whether a unit is an engine's and not systemd's.
func contained(unit string) bool { return docker.Kind(unit) != "" }

// stopOrder: what could start others goes first, groups last.
func stopOrder(units []string) {
	order := slices.Concat([]string{".timer", ".socket", ".service"}, docker.Kinds, []string{".target"})
	rank := func(u string) int { return slices.Index(order, path.Ext(u)) }
	slices.SortStableFunc(units, func(a, b string) int { return rank(a) - rank(b) })
}

// running is what happens on the machine for one action.
type running struct {
	h        *Host
	next     *Entry
	standing *Entry // what it takes the place of; nil = nothing
	layout   backends.Layout
	stop     []string // units of other versions, and what is not needed any more
	changed  []string // paths that were written
	before   *undo    // what they held
	begun    time.Time
	stopped  bool // something was stopped for it
}

// start makes the new version run and waits until it is ready.
func (r *running) start(ctx context.Context) error {
	sys, l := r.h.system, r.layout
	if r.readAgain() {
		if err := sys.Reload(ctx); err != nil {
			return err
		}
	} else if contained(l.Unit) { // there is nothing that would have to look
	} else if st, err := sys.State(ctx, l.Unit); err != nil {
		return err
	} else if st.Load != "loaded" || st.Path != unitDir+"/"+l.Unit { // it looked while the file was written, or took it for what had the alias before
		if err := sys.Reload(ctx); err != nil {
			return err
		}
	}
	if err := r.wellBefore(ctx); err != nil {
		return err
	}
	for _, u := range l.Start {
		if err := sys.Prepare(ctx, u, r.stop); err != nil {
			return err
		}
	}
	graceful := r.graceful()
	r.stopped = true
	if err := stopAll(ctx, sys, r.early()); err != nil {
		return err
	}
	if !graceful {
		if err := stopAll(ctx, sys, r.stop); err != nil {
			return err
		}
	}
	was, err := sys.State(ctx, l.Unit)
	if err != nil {
		return err
	}
	if l.Group != "" {
		if err := sys.ActivateTarget(ctx, l.Group); err != nil {
			return fmt.Errorf("%s: %w", l.Group, err)
		}
	}
	for _, u := range l.Start {
		switch {
		case strings.HasSuffix(u, ".timer") && r.rewrote(u):
			err = sys.Restart(ctx, u)
		case strings.HasSuffix(u, ".socket") && r.listensElsewhere(u):
			if err = sys.Stop(ctx, l.Unit); err == nil { // a listener does not change under a service that has it
				err = sys.Restart(ctx, u)
			}
		case u == l.Unit && !strings.Contains(u, r.next.Instance) && was.Active == "active" && len(r.changed) > 0:
			err = sys.Restart(ctx, u) // its name does not tell versions apart
		default:
			err = sys.Start(ctx, u)
		}
		if err != nil {
			return r.why(ctx, u, err)
		}
	}
	if was.Active == "active" && r.touchedCopies() {
		if err := sys.ReloadUnit(ctx, l.Unit); err != nil {
			return r.why(ctx, l.Unit, fmt.Errorf("it does not reload: %w", err))
		}
	}
	if !slices.Contains(l.Start, l.Unit) {
		return nil // its time comes later
	}
	if err := r.ready(ctx); err != nil {
		return err
	}
	if graceful {
		if err := r.calmly(ctx); err != nil {
			return err
		}
		if err := stopAll(ctx, sys, r.stop); err != nil {
			return err
		}
		// On a listener that both have it may have been the old one that answered.
		if err := r.ready(ctx); err != nil {
			return err
		}
	}
	return r.wellAfter(ctx)
}

// early lists what would start the new version of a job before it is made: its
// timer, which both versions have, and the run that this may have started since
// its file tells of the new one. What came due is made up for, or not, once the
// timer starts again.
func (r *running) early() []string {
	if !contained(r.layout.Unit) || !slices.ContainsFunc(r.layout.Start, func(u string) bool { return path.Ext(u) == ".timer" && r.rewrote(u) }) {
		return nil
	}
	var out []string
	for _, f := range r.changed {
		if ext := path.Ext(f); path.Dir(f) == unitDir && (ext == ".timer" || ext == ".service" && r.before.absent(rel(f))) {
			out = append(out, path.Base(f))
		}
	}
	return out
}

// calmBeside is how long a version must have run beside the old one: what asks
// from outside may have had its answer from the old one.
const calmBeside = time.Second

// calmly waits until the new version has lived for calmBeside, unless it told
// by itself that it is ready.
func (r *running) calmly(ctx context.Context) error {
	if d := r.layout.Ready; d != nil && d.HTTP == "" && !d.TCP && d.Exec == "" {
		return nil
	}
	for {
		st, err := r.h.system.State(ctx, r.layout.Unit)
		switch {
		case err != nil:
			return err
		case st.Active != "active" && st.Active != "reloading" || st.Restarts > 0:
			return r.why(ctx, r.layout.Unit, errors.New(outcome(st, errors.New("it does not stay"))))
		case time.Since(st.Since) >= calmBeside:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// graceful tells whether the new version can start beside the one that stands:
// both must know how, in the same way, and the listeners must be the same.
func (r *running) graceful() bool {
	return r.layout.Graceful != "" && r.standing != nil && r.standing.Graceful == r.layout.Graceful && r.standing.Unit != r.next.Unit &&
		!slices.ContainsFunc(r.layout.Start, func(u string) bool { return strings.HasSuffix(u, ".socket") && r.listensElsewhere(u) })
}

// wellBefore tells whether this replica may change: while its set is not
// healthy, only if it is not ready itself.
func (r *running) wellBefore(ctx context.Context) error {
	if r.standing == nil || r.layout.Healthy == "" || r.standing.Unit == r.next.Unit {
		return nil
	}
	err := r.healthy(ctx, 10*time.Second)
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	st, serr := r.h.system.State(ctx, r.standing.Unit)
	if serr != nil || st.Active != "active" {
		return nil
	}
	if d := r.layout.Ready; d != nil && (d.TCP || d.HTTP != "" || d.Exec != "") && r.look(ctx, d) != nil {
		return nil
	}
	return &Unhealthy{r.why(ctx, r.layout.Healthy, fmt.Errorf("it is left as it is, because its set is not healthy: %w", err))}
}

// Unhealthy means that a replica, which is ready itself, was not touched
// because its set is not healthy.
type Unhealthy struct{ err error }

func (u *Unhealthy) Error() string { return u.err.Error() }

// wellAfter waits until a changed replica has run well for as long as it should, and its set is healthy.
func (r *running) wellAfter(ctx context.Context) error {
	if r.standing == nil || r.standing.Unit == r.next.Unit {
		return nil
	}
	for until := time.Now().Add(r.layout.Soak); time.Now().Before(until); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(time.Second, time.Until(until))):
		}
		if err := r.alive(ctx); err != nil {
			return err
		}
	}
	if r.layout.Healthy == "" {
		return nil
	}
	limit := 30 * time.Second
	if r.layout.Ready != nil {
		limit = r.layout.Ready.Timeout
	}
	if err := r.healthy(ctx, limit); err != nil {
		return r.why(ctx, r.layout.Healthy, fmt.Errorf("its set is not healthy with it: %w", err))
	}
	return nil
}

// healthy asks until the answer is yes or there is no time left.
func (r *running) healthy(ctx context.Context, limit time.Duration) error {
	until := time.Now().Add(limit)
	for {
		err := r.h.system.Start(ctx, r.layout.Healthy)
		if _, is := errors.AsType[*failedJob](err); !is {
			return err
		}
		st, _ := r.h.system.State(ctx, r.layout.Healthy)
		if time.Now().After(until) {
			return errors.New(outcome(st, err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// readAgain tells whether systemd must look at its files now. It finds units
// that it never saw by itself, and what else is new to it is read when all is
// settled; but where a name led elsewhere, others would follow it to the old place.
func (r *running) readAgain() bool {
	return slices.ContainsFunc(r.changed, func(p string) bool { return strings.HasPrefix(p, unitDir+"/") && !r.before.absent(rel(p)) })
}

// rewrote tells whether a unit's file was there and has other content now.
func (r *running) rewrote(unit string) bool {
	_, had := r.before.content(rel(unitDir + "/" + unit))
	return had
}

// listensElsewhere tells whether a socket that was there has other listeners
// now: which version it leads to makes no difference to it.
func (r *running) listensElsewhere(unit string) bool {
	old, had := r.before.content(rel(unitDir + "/" + unit))
	if !had {
		return false
	}
	i := slices.IndexFunc(r.layout.Files, func(f backends.File) bool { return f.Path == unitDir+"/"+unit })
	return i >= 0 && !bytes.Equal(withoutService(old), withoutService(r.layout.Files[i].Content))
}

func withoutService(raw []byte) []byte {
	var out []byte
	for line := range bytes.Lines(raw) {
		if !bytes.HasPrefix(line, []byte("Service=")) {
			out = append(out, line...)
		}
	}
	return out
}

// touchedCopies tells whether files changed that a running process reads when told to.
func (r *running) touchedCopies() bool {
	return slices.ContainsFunc(r.layout.Files, func(f backends.File) bool { return f.InPlace && slices.Contains(r.changed, f.Path) })
}

func stopAll(ctx context.Context, sys Supervisor, units []string) error {
	units = slices.Clone(units)
	stopOrder(units)
	for _, u := range units {
		if err := sys.Stop(ctx, u); err != nil {
			return fmt.Errorf("%s does not stop: %w", u, err)
		}
	}
	return nil
}

// why adds to an error what a person needs to see: what failed, and its last words.
func (r *running) why(ctx context.Context, unit string, err error) error {
	l := r.layout
	units := append([]string{l.Unit, unit}, l.Scripts...)
	if unit == l.Healthy && unit != "" {
		units = []string{unit}
	}
	if l.Ready != nil && l.Ready.Exec != "" {
		units = append(units, l.Ready.Exec)
	}
	if _, is := errors.AsType[*failedJob](err); is {
		st, _ := r.h.system.State(ctx, unit)
		err = fmt.Errorf("it does not start: %s", outcome(st, err))
		for _, s := range l.Scripts {
			if st, serr := r.h.system.State(ctx, s); serr == nil && st.Active == "failed" {
				err = fmt.Errorf("%s, which runs before it, fails: %s", s, outcome(st, err))
				units = []string{s}
			}
		}
	}
	slices.Sort(units)
	lines := r.h.system.Journal(slices.Compact(units), r.begun, 20)
	if len(lines) == 0 {
		return err
	}
	return fmt.Errorf("%w\n%s", err, strings.Join(lines, "\n"))
}

// outcome says in words how a service ended.
func outcome(st SupervisorState, err error) string {
	switch st.Result {
	case "exit-code":
		return "it ended with exit code " + strconv.Itoa(st.Code)
	case "signal", "core-dump":
		return "it was ended by signal " + strconv.Itoa(st.Code)
	case "oom-kill":
		return "it was ended because it took more memory than it may"
	case "timeout":
		return "it was not ready in time"
	case "", "success":
		if f, is := errors.AsType[*failedJob](err); is && f.result == "dependency" {
			return "something that it needs does not start"
		}
		return err.Error()
	}
	return st.Result
}

// calm is how long a service must have run to count as started if it does not say itself when it is ready.
const calm = 300 * time.Millisecond

// ready waits until the new version is ready.
func (r *running) ready(ctx context.Context) error {
	d := r.layout.Ready
	if d == nil || !d.TCP && d.HTTP == "" && d.Exec == "" {
		st, err := r.h.system.State(ctx, r.layout.Unit)
		if err != nil {
			return err
		}
		for st.Active == "activating" && st.Sub == "health" { // its image looks by itself, and knows how often
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(200 * time.Millisecond):
			}
			if st, err = r.h.system.State(ctx, r.layout.Unit); err != nil {
				return err
			}
		}
		if d != nil || time.Since(st.Since) > calm { // it told by itself, or it has long been running
			return r.alive(ctx)
		}
		rest := calm // what is left of it
		if since := time.Since(st.Since); since > 0 {
			rest -= since
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rest):
		}
		return r.alive(ctx)
	}
	limited, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	pause, looks := 5*time.Millisecond, 0
	if d.Exec != "" { // a process each time
		pause = 50 * time.Millisecond
	}
	if d.Retries > 0 {
		pause = d.Interval
	}
	for {
		err := r.look(limited, d)
		if err == nil {
			return r.alive(ctx)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if st, serr := r.h.system.State(ctx, r.layout.Unit); serr == nil && st.Active == "failed" {
			return r.why(ctx, r.layout.Unit, errors.New(outcome(st, err)))
		}
		if looks++; d.Retries > 0 && looks > d.Retries {
			return r.why(ctx, r.layout.Unit, fmt.Errorf("it is not ready after %d looks: %w", looks, err))
		}
		select {
		case <-limited.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return r.why(ctx, r.layout.Unit, fmt.Errorf("it is not ready after %s: %w", d.Timeout, err))
		case <-time.After(pause):
		}
		pause = min(2*pause, d.Interval)
	}
}

// alive tells whether the new version runs, and has not died meanwhile.
func (r *running) alive(ctx context.Context) error {
	st, err := r.h.system.State(ctx, r.layout.Unit)
	if err != nil {
		return err
	}
	switch {
	case st.Sub == "unhealthy":
		return r.why(ctx, r.layout.Unit, errors.New(strings.TrimSuffix("it is unhealthy, as its image tells: "+st.LastOutput, ": ")))
	case st.Active == "active" || st.Active == "reloading":
		return nil
	case st.Sub == "restarted":
		return r.why(ctx, r.layout.Unit, errors.New("it ended, and was started again"))
	case st.Active == "inactive" && st.Result == "success":
		return r.why(ctx, r.layout.Unit, errors.New("it ended at once"))
	}
	return r.why(ctx, r.layout.Unit, errors.New(outcome(st, fmt.Errorf("it is %s", st.Active))))
}

// look tries once whether the service is ready.
func (r *running) look(ctx context.Context, d *backends.Ready) error {
	one, cancel := context.WithTimeout(ctx, max(d.Interval, 5*time.Second))
	defer cancel()
	if d.Exec != "" {
		err := r.h.system.Start(one, d.Exec)
		if _, is := errors.AsType[*failedJob](err); is {
			st, _ := r.h.system.State(ctx, d.Exec)
			return fmt.Errorf("its command: %s", outcome(st, err))
		}
		return err
	}
	hosts, first := r.h.system.Hosts(one, r.layout.Unit)
	for _, host := range hosts {
		err := visit(one, d, net.JoinHostPort(host, strconv.Itoa(d.Port)))
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
		if answered, is := errors.AsType[*answer](err); is {
			return answered
		}
	}
	return first
}

// answer is one that is not the right one.
type answer struct{ status string }

func (a *answer) Error() string { return "it answers " + a.status }

func visit(ctx context.Context, d *backends.Ready, address string) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	if d.TCP {
		return c.Close()
	}
	defer c.Close()
	if until, ok := ctx.Deadline(); ok {
		c.SetDeadline(until)
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
	if err != nil {
		return err
	}
	req.URL.Path, req.URL.RawQuery, _ = strings.Cut(d.HTTP, "?")
	req.Header.Set("User-Agent", "defx")
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 399 {
		return &answer{res.Status}
	}
	return nil
}

// hereabouts lists the addresses on which a service of this machine may listen, loopback first.
func hereabouts() []string {
	out := []string{"127.0.0.1", "::1"}
	list, _ := net.InterfaceAddrs()
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	return out
}
