package spec

import (
	"fmt"
	"strings"
	"time"
)

// This file converts cron lines and periods to systemd calendar expressions (systemd.time(7)).

var calendarDays = []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}

// CronCalendar returns the calendar expressions of a cron line, without a time zone. If both the
// day and the weekday are restricted, cron runs when either matches, which takes two expressions.
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

// calendarValues writes the values of one field, or "*" if all of them are in v.
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

// calendarWeekdays writes the names of weekdays.
func calendarWeekdays(v []int) string {
	out := make([]string, len(v))
	for i, n := range v {
		out[i] = calendarDays[n]
	}
	return strings.Join(out, ",")
}

// EveryCalendar returns the calendar expression of a period that divides a minute, an hour, a day
// or a week evenly. It returns false for all others.
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
