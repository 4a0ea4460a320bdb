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

// says is a cloud that answers questions of health one after the other; the
// last answer stays. "403", "429", "500" and "501" are answers of no health; "cut" is none.
func says(t *testing.T, answers ...string) (Target, *atomic.Int32) {
	t.Helper()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(raw))
		if form.Get("Targets.member.1.Id") != "i-1" || form.Get("Targets.member.1.Port") != "80" || form.Get("TargetGroupArn") != "arn:x" {
			t.Errorf("asked of %v", form)
		}
		if auth := r.Header.Get("Authorization"); !strings.Contains(auth, "Credential=AKIDTEST/") || !strings.Contains(auth, "/eu-central-1/elasticloadbalancing/aws4_request") {
			t.Errorf("signed as %q", auth)
		}
		state, why, _ := strings.Cut(answers[min(int(asked.Add(1)), len(answers))-1], " ")
		switch state {
		case "403":
			http.Error(w, "<Code>AccessDenied</Code>", http.StatusForbidden)
		case "429", "500", "501":
			code, _ := strconv.Atoi(state)
			http.Error(w, "", code)
		case "cut":
			panic(http.ErrAbortHandler)
		default:
			fmt.Fprintf(w, `<DescribeTargetHealthResponse xmlns="x"><DescribeTargetHealthResult><TargetHealthDescriptions><member><TargetHealth><State>%s</State><Reason>%s</Reason></TargetHealth></member></TargetHealthDescriptions></DescribeTargetHealthResult></DescribeTargetHealthResponse>`, state, why)
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
	return Target{Region: "eu-central-1", Group: "arn:x", ID: "i-1", Port: 80}, &asked
}

// TestATargetIsWaitedForUntilItIsWell, through what fails once, and not if nobody is led to it.
func TestATargetIsWaitedForUntilItIsWell(t *testing.T) {
	for _, answers := range [][]string{{"healthy"}, {"initial Elb.RegistrationInProgress", "500", "unhealthy Target.FailedHealthChecks", "healthy"}, {"unused Target.NotInUse"}} {
		target, asked := says(t, answers...)
		if err := WaitHealthy(t.Context(), target); err != nil || int(asked.Load()) != len(answers) {
			t.Errorf("%v: %v, asked %d times", answers, err, asked.Load())
		}
	}
}

// TestABlipDoesNotEndTheWaiting, however many questions it takes; nor who may not ask for a while, once somebody could.
func TestABlipDoesNotEndTheWaiting(t *testing.T) {
	long := func(answer string) []string { return slices.Repeat([]string{answer}, 12) }
	for _, answers := range [][]string{
		slices.Concat(long("500"), []string{"healthy"}),
		slices.Concat(long("429"), []string{"initial Elb.RegistrationInProgress"}, long("cut"), []string{"healthy"}),
		slices.Concat([]string{"initial Elb.RegistrationInProgress"}, long("403"), []string{"healthy"}),
	} {
		target, asked := says(t, answers...)
		if err := WaitHealthy(t.Context(), target); err != nil || int(asked.Load()) < len(answers) {
			t.Errorf("%v: %v, asked %d times", answers, err, asked.Load())
		}
	}
	limited, cancel := context.WithTimeout(t.Context(), time.Minute) // of a test that fails
	defer cancel()
	target, asked := says(t, slices.Concat(long("500"), []string{"unused Target.NotRegistered"})...)
	if err := WaitDrained(limited, target, time.Hour); err != nil || asked.Load() != 13 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
}

// TestWhoStopsTellingIsNotTakenForWell: what was not well when it was last told may still not be.
func TestWhoStopsTellingIsNotTakenForWell(t *testing.T) {
	target, asked := says(t, "initial Elb.RegistrationInProgress", "500")
	healthTimeout = 100 * time.Millisecond
	err := WaitHealthy(t.Context(), target)
	if _, silent := errors.AsType[*ErrUnavailable](err); err == nil || asked.Load() > 1 && (silent || !strings.Contains(err.Error(), "500")) {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
	target, _ = says(t, "500") // nobody is there
	healthTimeout = 0
	if _, silent := errors.AsType[*ErrUnavailable](WaitHealthy(t.Context(), target)); !silent {
		t.Error("where nothing is ever told, nobody waits for it")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := WaitHealthy(ended, target); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestATargetThatIsNeverWell is told so, with the balancer's own reason.
func TestATargetThatIsNeverWell(t *testing.T) {
	target, _ := says(t, "unhealthy Target.FailedHealthChecks")
	healthTimeout = 0
	if err := WaitHealthy(t.Context(), target); err == nil || !strings.Contains(err.Error(), "unhealthy, Target.FailedHealthChecks") || !strings.Contains(err.Error(), "hint: ") {
		t.Error(err)
	}
}

// TestWhoMayNotAskHearsSo: nothing is waited for then.
func TestWhoMayNotAskHearsSo(t *testing.T) {
	for _, answer := range []string{"403", "501"} {
		target, asked := says(t, answer)
		err := WaitHealthy(t.Context(), target)
		if _, silent := errors.AsType[*ErrUnavailable](err); !silent || asked.Load() != 1 {
			t.Errorf("%s: %v, asked %d times", answer, err, asked.Load())
		}
	}
}

// TestWhatIsDoneIsNotWaitedFor: the rest of the time is not waited for, but all of it where nobody tells.
func TestWhatIsDoneIsNotWaitedFor(t *testing.T) {
	target, asked := says(t, "draining Target.DeregistrationInProgress", "unused Target.NotRegistered")
	if err := WaitDrained(t.Context(), target, time.Hour); err != nil || asked.Load() != 2 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
	target, _ = says(t, "403")
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
