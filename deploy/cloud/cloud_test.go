package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// serve starts a server that gives answers to health queries in order and then
// repeats the last one. An answer is "STATE REASON", an HTTP status such as
// "403", or "cut" for a broken connection. It returns the number of queries.
func serve(t *testing.T, answers ...string) (Target, *atomic.Int32) {
	t.Helper()
	var queries atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(raw))
		if form.Get("Targets.member.1.Id") != "i-1" || form.Get("Targets.member.1.Port") != "80" || form.Get("TargetGroupArn") != "arn:x" {
			t.Errorf("query %v", form)
		}
		if auth := r.Header.Get("Authorization"); !strings.Contains(auth, "Credential=AKIDTEST/") || !strings.Contains(auth, "/eu-central-1/elasticloadbalancing/aws4_request") {
			t.Errorf("authorization %q", auth)
		}
		state, reason, _ := strings.Cut(answers[min(int(queries.Add(1)), len(answers))-1], " ")
		switch state {
		case "403":
			http.Error(w, "<Code>AccessDenied</Code>", http.StatusForbidden)
		case "429", "500", "501":
			code, _ := strconv.Atoi(state)
			http.Error(w, "", code)
		case "cut":
			panic(http.ErrAbortHandler)
		default:
			fmt.Fprintf(w, `<DescribeTargetHealthResponse xmlns="x"><DescribeTargetHealthResult><TargetHealthDescriptions><member><TargetHealth><State>%s</State><Reason>%s</Reason></TargetHealth></member></TargetHealthDescriptions></DescribeTargetHealthResult></DescribeTargetHealthResponse>`, state, reason)
		}
	}))
	t.Cleanup(server.Close)
	for k, v := range map[string]string{"AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2": server.URL, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "x",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_PROFILE": ""} {
		t.Setenv(k, v)
	}
	i, p := interval, healthTimeout
	interval, healthTimeout = time.Millisecond, time.Hour
	t.Cleanup(func() { interval, healthTimeout = i, p })
	return Target{Region: "eu-central-1", Group: "arn:x", ID: "i-1", Port: 80}, &queries
}

func TestWaitHealthy_ReturnsWhenHealthyOrUnused(t *testing.T) {
	for _, answers := range [][]string{{"healthy"}, {"initial Elb.RegistrationInProgress", "500", "unhealthy Target.FailedHealthChecks", "healthy"}, {"unused Target.NotInUse"}} {
		target, queries := serve(t, answers...)
		if err := WaitHealthy(t.Context(), target); err != nil || int(queries.Load()) != len(answers) {
			t.Errorf("%v: %v, %d queries", answers, err, queries.Load())
		}
	}
}

// TestWait_RetriesTemporaryErrors: neither errors nor missing permission end the
// wait once a query has succeeded.
func TestWait_RetriesTemporaryErrors(t *testing.T) {
	repeat := func(answer string) []string { return slices.Repeat([]string{answer}, 12) }
	for _, answers := range [][]string{
		slices.Concat(repeat("500"), []string{"healthy"}),
		slices.Concat(repeat("429"), []string{"initial Elb.RegistrationInProgress"}, repeat("cut"), []string{"healthy"}),
		slices.Concat([]string{"initial Elb.RegistrationInProgress"}, repeat("403"), []string{"healthy"}),
	} {
		target, queries := serve(t, answers...)
		if err := WaitHealthy(t.Context(), target); err != nil || int(queries.Load()) < len(answers) {
			t.Errorf("%v: %v, %d queries", answers, err, queries.Load())
		}
	}
	limited, cancel := context.WithTimeout(t.Context(), time.Minute) // so that a failing test ends
	defer cancel()
	target, queries := serve(t, slices.Concat(repeat("500"), []string{"unused Target.NotRegistered"})...)
	if err := WaitDrained(limited, target, time.Hour); err != nil || queries.Load() != 13 {
		t.Errorf("%v, %d queries", err, queries.Load())
	}
}

// TestWaitHealthy_QueriesStopSucceeding: a target whose last known state is
// unhealthy is reported as not healthy.
func TestWaitHealthy_QueriesStopSucceeding(t *testing.T) {
	target, queries := serve(t, "initial Elb.RegistrationInProgress", "500")
	healthTimeout = 100 * time.Millisecond
	err := WaitHealthy(t.Context(), target)
	if _, unavailable := errors.AsType[*ErrUnavailable](err); err == nil || queries.Load() > 1 && (unavailable || !strings.Contains(err.Error(), "500")) {
		t.Errorf("%v, %d queries", err, queries.Load())
	}
	target, _ = serve(t, "500")
	healthTimeout = 0
	if _, unavailable := errors.AsType[*ErrUnavailable](WaitHealthy(t.Context(), target)); !unavailable {
		t.Error("no query succeeded, but the error is not ErrUnavailable")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := WaitHealthy(ended, target); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestWaitHealthy_TimeoutGivesReason(t *testing.T) {
	target, _ := serve(t, "unhealthy Target.FailedHealthChecks")
	healthTimeout = 0
	if err := WaitHealthy(t.Context(), target); err == nil || !strings.Contains(err.Error(), "unhealthy, Target.FailedHealthChecks") || !strings.Contains(err.Error(), "hint: ") {
		t.Error(err)
	}
}

func TestWaitHealthy_NoPermissionFailsAtOnce(t *testing.T) {
	for _, answer := range []string{"403", "501"} {
		target, queries := serve(t, answer)
		err := WaitHealthy(t.Context(), target)
		if _, unavailable := errors.AsType[*ErrUnavailable](err); !unavailable || queries.Load() != 1 {
			t.Errorf("%s: %v, %d queries", answer, err, queries.Load())
		}
	}
}

// TestWaitDrained_ReturnsWhenDrained: it returns as soon as the target is unused,
// and after the whole limit if the state cannot be queried.
func TestWaitDrained_ReturnsWhenDrained(t *testing.T) {
	target, queries := serve(t, "draining Target.DeregistrationInProgress", "unused Target.NotRegistered")
	if err := WaitDrained(t.Context(), target, time.Hour); err != nil || queries.Load() != 2 {
		t.Errorf("%v, %d queries", err, queries.Load())
	}
	target, _ = serve(t, "403")
	if err := WaitDrained(t.Context(), target, 10*time.Millisecond); err != nil {
		t.Error(err)
	}
	if err := WaitDrained(t.Context(), Target{}, time.Millisecond); err != nil {
		t.Error(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := WaitDrained(ended, target, time.Hour); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
