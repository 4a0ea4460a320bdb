package systemd

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/defx-dev/defx/lang/diag"
)

// This file turns values that have a meaning (durations, sizes, signals) into
// systemd's way of writing them.

var (
	dirRE  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$`)
	sizeRE = regexp.MustCompile(`^([0-9]{1,19})(Ki|Mi|Gi|Ti|k|M|G|T)?$`)
	cpuRE  = regexp.MustCompile(`^([0-9]{1,6})(?:\.([0-9]{1,3}))?$`)
	octRE  = regexp.MustCompile(`^[0-7]{3,4}$`)
)

// text tells whether content survives the way through JSON.
func text(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("is not valid UTF-8")
	}
	return nil
}

func octal(s string) (fs.FileMode, bool) {
	if !octRE.MatchString(s) {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 8, 32)
	return fs.FileMode(n), err == nil
}

// span writes a duration in the largest unit that loses nothing.
func span(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if d%u.unit == 0 {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.name
		}
	}
	return strconv.FormatInt(d.Microseconds(), 10) + "us"
}

var signals = []string{"SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL",
	"SIGUSR1", "SIGSEGV", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT", "SIGSTOP",
	"SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO",
	"SIGPWR", "SIGSYS"}

// signal gives the full name of a signal.
func (b *builder) signal(where []string, s string) string {
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if !slices.Contains(signals, name) {
		b.fail(where, "%q is not a signal", s).WithHint("%s", diag.Suggest(name, signals))
	}
	return name
}

// limits writes the bounds of resources.
func (b *builder) limits(u *unitText) {
	l := b.Run.Limits
	if l == nil {
		return
	}
	if l.CPU != "" {
		m := cpuRE.FindStringSubmatch(l.CPU)
		milli := 0
		if m != nil {
			cores, _ := strconv.Atoi(m[1])
			part, _ := strconv.Atoi((m[2] + "000")[:3])
			milli = cores*1000 + part
		}
		if milli == 0 {
			b.fail(at("limits", "cpu"), "%q is not a number of cores above zero", l.CPU).WithHint("for example '0.5' or '2'")
		}
		percent := strconv.Itoa(milli / 10)
		if milli%10 != 0 {
			percent += "." + strconv.Itoa(milli%10)
		}
		u.set("CPUQuota", percent+"%")
	}
	if l.Memory != "" {
		n, err := size(l.Memory)
		if err != nil {
			b.fail(at("limits", "memory"), "%v", err).WithHint("a number of bytes with Ki, Mi, Gi, Ti, k, M, G or T: 512Mi")
		}
		u.set("MemoryMax", strconv.FormatUint(n, 10))
	}
	if l.Tasks < 0 || l.OpenFiles < 0 {
		b.fail(at("limits"), "a limit is less than zero")
	}
	if l.Tasks > 0 {
		u.set("TasksMax", strconv.Itoa(l.Tasks))
	}
	if l.OpenFiles > 0 {
		u.set("LimitNOFILE", strconv.Itoa(l.OpenFiles))
	}
}

var sizeUnits = map[string]uint64{"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
	"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}

// size reads a number of bytes. It refuses what does not fit.
func size(s string) (uint64, error) {
	m := sizeRE.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	hi, lo := bits.Mul64(n, sizeUnits[m[2]])
	if err != nil || hi != 0 || lo == 0 || lo > 1<<62 {
		return 0, fmt.Errorf("%q is not a possible size", s)
	}
	return lo, nil
}
