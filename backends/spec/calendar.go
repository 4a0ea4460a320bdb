package spec

import (
	"fmt"
	"strings"
	"time"
)

// This file says in the words of systemd's calendars when something is due.

var calendarDays = []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}

// CronCalendar gives the calendar expressions of a cron line, without a time
// zone. Where both days are restricted, cron means either, so there are two.
func CronCalendar(line string) ([]string, error) {
	c, err := ParseCron(line)
	if err != nil {
		return nil, err
	}
	clock := " " + calendarValues(c.Hours, 24, "%02d") + ":" + calendarValues(c.Minutes, 60, "%02d") + ":00"
	month := calendarValues(c.Months, 12, "%02d")
	date := "*-" + month + "-" + calendarValues(c.Days, 31, "%02d")
	week := ""
	if len(c.Weekdays) < 7 {
		week = calendarWeekdays(c.Weekdays) + " "
	}
	if !c.Either {
		return []string{week + date + clock}, nil
	}
	out := []string{week + "*-" + month + "-*" + clock}
	if c.Possible() {
		out = append(out, date+clock)
	}
	return out, nil
}

func calendarValues(v []int, all int, format string) string {
	if len(v) == all {
		return "*"
	}
	out := make([]string, len(v))
	for i, n := range v {
		out[i] = fmt.Sprintf(format, n)
	}
	return strings.Join(out, ",")
}

func calendarWeekdays(v []int) string {
	out := make([]string, len(v))
	for i, n := range v {
		out[i] = calendarDays[n]
	}
	return strings.Join(out, ",")
}

// EveryCalendar gives the calendar expression of a period that divides a
// minute, an hour, a day or a week evenly.
func EveryCalendar(d time.Duration) (string, bool) {
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
