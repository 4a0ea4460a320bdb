package systemd

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cronField is one of the five fields of a cron line.
type cronField struct {
	name     string
	min, max int
	words    []string // names of the values from min on
}

var (
	months   = []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}
	weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

	cronFields = []cronField{
		{"minute", 0, 59, nil}, {"hour", 0, 23, nil}, {"day", 1, 31, nil}, {"month", 1, 12, months}, {"weekday", 0, 7, weekdays},
	}
	cronWords = map[string]string{
		"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
		"@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
	}
)

// cronCalendar gives the calendar expressions of a cron line, without a time
// zone. Where both days are restricted, cron means either, so there are two; a
// day field that begins with "*" does not count as restricted, as in cron.
func cronCalendar(line string) ([]string, error) {
	sets, either, err := parseCron(line)
	if err != nil {
		return nil, err
	}
	clock := " " + list(sets[1], 24, "%02d") + ":" + list(sets[0], 60, "%02d") + ":00"
	month := list(sets[3], 12, "%02d")
	date := "*-" + month + "-" + list(sets[2], 31, "%02d")
	week := ""
	if len(sets[4]) < 7 {
		week = days(sets[4]) + " "
	}
	switch {
	case either:
		out := []string{week + "*-" + month + "-*" + clock}
		if possible(sets[3], sets[2]) {
			out = append(out, date+clock)
		}
		return out, nil
	case !possible(sets[3], sets[2]):
		return nil, errors.New("none of its months has such a day")
	}
	return []string{week + date + clock}, nil
}

// parseCron gives the values of each field, and whether one of the two days suffices.
func parseCron(line string) (sets [5][]int, either bool, err error) {
	if w, ok := cronWords[strings.TrimSpace(line)]; ok {
		line = w
	}
	fields := strings.Fields(line)
	if strings.HasPrefix(line, "@") {
		return sets, false, errors.New("this word is not known")
	}
	if len(fields) != 5 {
		return sets, false, fmt.Errorf("has %d fields", len(fields))
	}
	for i, f := range fields {
		if sets[i], err = cronFields[i].parse(f); err != nil {
			return sets, false, err
		}
	}
	sets[4] = sundays(sets[4])
	return sets, len(sets[4]) < 7 && !strings.HasPrefix(fields[2], "*") && !strings.HasPrefix(fields[4], "*"), nil
}

// parse reads lists of ranges with steps and gives the values in order.
func (f cronField) parse(s string) ([]int, error) {
	in := map[int]bool{}
	for _, item := range strings.Split(s, ",") {
		span, stepText, stepped := strings.Cut(item, "/")
		lo, hi, step := f.min, f.max, 1
		if from, to, isRange := strings.Cut(span, "-"); span != "*" {
			var err error
			if lo, err = f.value(from); err != nil {
				return nil, err
			}
			switch {
			case isRange:
				if hi, err = f.value(to); err != nil {
					return nil, err
				}
			case !stepped:
				hi = lo
			}
		} else if f.name == "weekday" {
			hi = 6
		}
		if stepped {
			n, err := strconv.Atoi(stepText)
			if err != nil || n < 1 || n > f.max || stepText[0] == '+' {
				return nil, fmt.Errorf("%s: %q is not a step", f.name, stepText)
			}
			step = n
		}
		if lo > hi {
			return nil, fmt.Errorf("%s: %q ends before it begins", f.name, item)
		}
		for v := lo; v <= hi; v += step {
			in[v] = true
		}
	}
	out := make([]int, 0, len(in))
	for v := range in {
		out = append(out, v)
	}
	slices.Sort(out)
	return out, nil
}

func (f cronField) value(s string) (int, error) {
	if i := slices.Index(f.words, strings.ToLower(s)); i >= 0 {
		return f.min + i, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < f.min || n > f.max || s[0] == '+' || s[0] == '-' {
		return 0, fmt.Errorf("%s: %q is not between %d and %d", f.name, s, f.min, f.max)
	}
	return n, nil
}

// sundays makes both numbers of Sunday one.
func sundays(v []int) []int {
	if slices.Contains(v, 7) {
		v = slices.DeleteFunc(v, func(d int) bool { return d == 7 })
		if !slices.Contains(v, 0) {
			v = append([]int{0}, v...)
		}
	}
	return v
}

// possible tells whether some month has one of the days.
func possible(month, day []int) bool {
	longest := []int{0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}
	return slices.ContainsFunc(month, func(m int) bool { return day[0] <= longest[m] })
}

func list(v []int, all int, format string) string {
	if len(v) == all {
		return "*"
	}
	out := make([]string, len(v))
	for i, n := range v {
		out[i] = fmt.Sprintf(format, n)
	}
	return strings.Join(out, ",")
}

func days(v []int) string {
	out := make([]string, len(v))
	for i, n := range v {
		out[i] = strings.ToUpper(weekdays[n][:1]) + weekdays[n][1:]
	}
	return strings.Join(out, ",")
}

// everyCalendar gives the calendar expression of a period that divides a
// minute, an hour, a day or a week evenly.
func everyCalendar(d time.Duration) (string, bool) {
	n := func(unit time.Duration) int { return int(d / unit) }
	switch {
	case d%time.Second != 0:
		return "", false
	case d < time.Minute && time.Minute%d == 0:
		return fmt.Sprintf("*-*-* *:*:00/%d", n(time.Second)), true
	case d == time.Minute:
		return "*-*-* *:*:00", true
	case d < time.Hour && time.Hour%d == 0 && d%time.Minute == 0:
		return fmt.Sprintf("*-*-* *:00/%d:00", n(time.Minute)), true
	case d == time.Hour:
		return "*-*-* *:00:00", true
	case d < 24*time.Hour && 24*time.Hour%d == 0 && d%time.Hour == 0:
		return fmt.Sprintf("*-*-* 00/%d:00:00", n(time.Hour)), true
	case d == 24*time.Hour:
		return "*-*-* 00:00:00", true
	case d == 7*24*time.Hour:
		return "Mon *-*-* 00:00:00", true
	}
	return "", false
}
