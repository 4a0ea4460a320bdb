package spec

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Cron is a parsed cron line: the values of its five fields, in order.
type Cron struct {
	Minutes, Hours, Days, Months, Weekdays []int // weekdays from 0, Sunday
	// Either is set if both day and weekday are restricted: then a day that matches one of them is
	// enough. As in cron, a field that begins with "*" does not count as restricted.
	Either bool
}

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

// ParseCron parses five fields or one of the names @hourly, @daily, @midnight, @weekly, @monthly,
// @yearly and @annually.
func ParseCron(line string) (Cron, error) {
	if w, ok := cronWords[strings.TrimSpace(line)]; ok {
		line = w
	}
	fields := strings.Fields(line)
	if strings.HasPrefix(line, "@") {
		return Cron{}, errors.New("unknown name; use @hourly, @daily, @weekly, @monthly or @yearly")
	}
	if len(fields) != 5 {
		return Cron{}, fmt.Errorf("must have 5 fields, has %d", len(fields))
	}
	var sets [5][]int
	for i, f := range fields {
		var err error
		if sets[i], err = cronFields[i].parse(f); err != nil {
			return Cron{}, err
		}
	}
	sets[4] = normalizeSunday(sets[4])
	c := Cron{Minutes: sets[0], Hours: sets[1], Days: sets[2], Months: sets[3], Weekdays: sets[4],
		Either: len(sets[4]) < 7 && !strings.HasPrefix(fields[2], "*") && !strings.HasPrefix(fields[4], "*")}
	if !c.Either && !c.Possible() {
		return Cron{}, errors.New("none of these months has such a day")
	}
	return c, nil
}

// Possible reports whether at least one of the months has at least one of the days.
func (c Cron) Possible() bool {
	longest := []int{0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}
	return slices.ContainsFunc(c.Months, func(m int) bool { return c.Days[0] <= longest[m] })
}

// Next returns the first time after t at which the line is due, in t's zone. It returns the zero
// time if there is none within eight years.
func (c Cron) Next(t time.Time) time.Time {
	day := time.Date(t.Year(), t.Month(), t.Day(), 12, 0, 0, 0, t.Location())
	for range 8 * 366 {
		if c.matches(day) {
			for _, h := range c.Hours {
				for _, m := range c.Minutes {
					at := time.Date(day.Year(), day.Month(), day.Day(), h, m, 0, 0, t.Location())
					if first := at.Add(-time.Hour); first.Hour() == h && first.Minute() == m {
						at = first // clocks go back: the time occurs twice, the first counts
					}
					if at.After(t) && at.Hour() == h && at.Minute() == m { // times that clocks going forward skip do not occur
						return at
					}
				}
			}
		}
		day = day.AddDate(0, 0, 1)
	}
	return time.Time{}
}

// matches reports whether the line is due on a day.
func (c Cron) matches(day time.Time) bool {
	date, week := slices.Contains(c.Days, day.Day()), slices.Contains(c.Weekdays, int(day.Weekday()))
	if !slices.Contains(c.Months, int(day.Month())) {
		return false
	}
	if c.Either {
		return date || week
	}
	return date && week
}

// parse parses a list of ranges with steps and returns the values in order.
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
				return nil, fmt.Errorf("%s: step %q must be a number from 1 to %d", f.name, stepText, f.max)
			}
			step = n
		}
		if lo > hi {
			return nil, fmt.Errorf("%s: range %q ends before it begins", f.name, item)
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

// value parses one number or name.
func (f cronField) value(s string) (int, error) {
	if i := slices.Index(f.words, strings.ToLower(s)); i >= 0 {
		return f.min + i, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < f.min || n > f.max || s[0] == '+' || s[0] == '-' {
		return 0, fmt.Errorf("%s: %q must be from %d to %d", f.name, s, f.min, f.max)
	}
	return n, nil
}

// normalizeSunday replaces weekday 7 by 0.
func normalizeSunday(v []int) []int {
	if slices.Contains(v, 7) {
		v = slices.DeleteFunc(v, func(d int) bool { return d == 7 })
		if !slices.Contains(v, 0) {
			v = append([]int{0}, v...)
		}
	}
	return v
}
