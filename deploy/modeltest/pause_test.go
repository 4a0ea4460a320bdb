package modeltest

import (
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/defx-dev/defx/internal/failpoint"
)

// gate is a network that stops to carry anything to the machines.
type gate struct {
	once    sync.Once
	closed  atomic.Bool
	reached chan struct{} // closed when something waits
	opened  chan struct{} // closed when it goes on
}

// gated is a connection through a gate.
type gated struct {
	net.Conn
	gate *gate
}

func (c gated) Write(p []byte) (int, error) {
	if c.gate != nil && c.gate.closed.Load() {
		c.gate.once.Do(func() { close(c.gate.reached) })
		<-c.gate.opened
	}
	return c.Conn.Write(p)
}

// paused runs slow, and stops it after it has announced itself and before it changes a
// machine. Then it runs other, and lets slow go on. It reports whether slow came so far.
func paused(slow func(*gate), other func()) bool {
	g := &gate{reached: make(chan struct{}), opened: make(chan struct{})}
	ended := make(chan struct{})
	stop := failpoint.Watch(func(name string) {
		if name == "state head.json written" {
			g.closed.Store(true)
		}
	})
	go func() {
		defer close(ended)
		slow(g)
	}()
	reached := false
	select {
	case <-g.reached:
		reached = true
		stop()
		other()
	case <-ended:
		stop()
	}
	close(g.opened)
	<-ended
	return reached
}

// pauseStep lets the process of one operator stand still for so long that the other one
// takes over its lease and applies something else. When it goes on it must change
// nothing any more.
func (w *world) pauseStep(s *scope) { w.suspend(s, false) }

// forkStep is pauseStep with a copy of the state that the other operator has: its lease
// has the same token.
func (w *world) forkStep(s *scope) { w.suspend(s, true) }

func (w *world) suspend(s *scope, fork bool) {
	if len(s.past) == 0 {
		return
	}
	w.edit(s)
	w.number++
	o := w.consent(s)
	first := *s
	first.want = s.want.clone()
	before := w.disks.observe()
	if w.judge(s, before) != mustAccept {
		return
	}
	state := w.disks.state
	if fork {
		state = w.newFolder()
		must(copyTree(w.stateDir(s), filepath.Join(state, s.deployment, s.environment)))
	}
	var slow, fast *outcome
	var middle *sight
	consent := options{by: 1 - o.by, state: state, repair: true, allowDelete: o.allowDelete, allowMove: o.allowMove, giveUp: o.giveUp, allowEmpty: o.allowEmpty}
	was := len(w.log)
	happened := paused(func(g *gate) {
		o.gate = g
		slow = w.execute(&first, o)
	}, func() {
		w.expireLeases(w.disks)
		w.edit(s)
		fast = w.execute(s, consent)
		middle = w.disks.observe()
	})
	after := w.disks.observe()
	w.note("%s: an apply stands still (fork %v, %s): %s", s.name(), fork, o, slow)
	if !happened {
		w.checkEvents(s, o)
		w.checkAlways(before, after)
		w.mark(s, before, after, slow)
		w.remember(s, after)
		return
	}
	w.log = append(w.log[:was], append([]string{w.log[len(w.log)-1]}, w.log[was:len(w.log)-1]...)...)
	w.note("%s: meanwhile (%s): %s", s.name(), consent, fast)
	w.checkEvents(s, consent)
	w.checkAlways(before, after)
	if fast.err != nil {
		w.violate("%s: the apply that took over failed: %v", s.name(), fast.err)
		return
	}
	w.mark(s, before, middle, fast)
	if took := fast.clean() && fast.result.Wrote; took {
		for _, name := range machineNames {
			there := !fork || len(changed(before, middle, s.name(), name)) > 0 // a copy of the state cannot know of the other apply elsewhere
			if list := changed(middle, after, s.name(), name); there && len(list) > 0 {
				w.violate("%s: an apply that lost its lease changed %v on %s", s.name(), sortedKeys(list), name)
			}
		}
	}
	w.number++
	w.mark(s, middle, after, slow)
	if !fork {
		if fast.result != nil && fast.result.Wrote {
			w.checkResult(s, consent, before, after, fast)
		}
		return
	}
	if fast.result != nil && fast.result.Wrote { // its copy of the state is the one that is used
		dir := w.newFolder()
		must(copyTree(filepath.Join(state, s.deployment, s.environment), dir))
		w.replaceState(s, dir)
		delete(s.known, w.number)
		if fast.clean() {
			s.forget(consent, after)
		}
	}
	w.remember(s, after)
}
