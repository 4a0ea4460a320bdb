package agent

import "time"

// SetPortWaits sets how long a port may still be in use, until the returned function is called.
func SetPortWaits(same, others time.Duration) func() {
	a, b := portWait, portGrace
	portWait, portGrace = same, others
	return func() { portWait, portGrace = a, b }
}

// SetSettleTime sets how long what was started must run, until the returned function is called.
func SetSettleTime(d time.Duration) func() {
	before := settleTime
	settleTime = d
	return func() { settleTime = before }
}

// SetReportTimes sets when waits are reported, until the returned function is called.
func SetReportTimes(after, every time.Duration) func() {
	a, b := reportAfter, reportEvery
	reportAfter, reportEvery = after, every
	return func() { reportAfter, reportEvery = a, b }
}
