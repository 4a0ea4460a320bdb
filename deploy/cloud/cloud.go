// Package cloud asks AWS itself for what Terraform cannot tell: whether a
// balancer finds a target well, and whether it is done with one.
//
// It finds region, credentials and endpoints where the provider finds them. It
// only asks, and refuses to change anything. Invariant: who may not ask hears so,
// and nothing depends on the answer but how long somebody waits.
package cloud

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
)

// Target is what a balancer leads to.
type Target struct {
	Region, Group, ID string // Group is an ARN
	Port              int
}

// Times of waiting. Tests set others.
var (
	interval      = 2 * time.Second
	healthTimeout = 5 * time.Minute // until a target counts as one that does not become well
)

// ErrUnavailable tells that the cloud does not answer such questions: nobody may ask, or nobody is there.
type ErrUnavailable struct{ err error }

func (s *ErrUnavailable) Error() string { return s.err.Error() }
func (s *ErrUnavailable) Unwrap() error { return s.err }

// WaitHealthy waits until the balancer finds a target well. Of one that no balancer
// leads to nothing is waited for. What cannot be asked now may be asked later:
// only where nothing was ever told is the cloud Silent.
func WaitHealthy(ctx context.Context, t Target) error {
	until := time.Now().Add(healthTimeout)
	told := false
	for {
		state, why, err := targetHealth(ctx, t)
		silent, is := errors.AsType[*ErrUnavailable](err)
		told = told || err == nil
		switch {
		case err == nil && (state == "healthy" || why == "Target.NotInUse" || why == "Target.HealthCheckDisabled"):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case is && !told:
			return silent
		case time.Now().Before(until):
		case !told:
			return &ErrUnavailable{err}
		case err != nil:
			return fmt.Errorf("its balancer did not find it well, and does not tell any more after %s: %w\n    hint: the next defx apply asks again", healthTimeout, err)
		default:
			return fmt.Errorf("its balancer does not find it well after %s: %s, %s\n    hint: the cloud's console tells what it asked, and defx logs what it heard", healthTimeout, state, why)
		}
		if err := sleepFor(ctx, interval); err != nil {
			return err
		}
	}
}

// WaitDrained waits until a balancer is done with a target that was taken out, but
// not longer than it may take. Of what nothing is known all that time is waited for.
func WaitDrained(ctx context.Context, t Target, most time.Duration) error {
	bound, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for bound.Err() == nil {
		state, err := "", error(&ErrUnavailable{})
		if t.Group != "" {
			state, _, err = targetHealth(bound, t)
		}
		if err == nil && state == "unused" {
			return nil
		}
		wait := interval
		if _, silent := errors.AsType[*ErrUnavailable](err); silent {
			wait = most
		}
		sleepFor(bound, wait)
	}
	return ctx.Err()
}

func sleepFor(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// targetHealth is what a balancer says of a target. An error that is not Silent may be over soon.
func targetHealth(ctx context.Context, t Target) (state, why string, err error) {
	form := url.Values{"Action": {"DescribeTargetHealth"}, "Version": {"2015-12-01"}, "TargetGroupArn": {t.Group}, "Targets.member.1.Id": {t.ID}}
	if t.Port > 0 {
		form.Set("Targets.member.1.Port", strconv.Itoa(t.Port))
	}
	var doc struct {
		State string `xml:"DescribeTargetHealthResult>TargetHealthDescriptions>member>TargetHealth>State"`
		Why   string `xml:"DescribeTargetHealthResult>TargetHealthDescriptions>member>TargetHealth>Reason"`
	}
	err = query(ctx, t.Region, "Elastic Load Balancing v2", "elasticloadbalancing", form, &doc)
	return doc.State, doc.Why, err
}

// query does one question of an interface that takes forms.
func query(ctx context.Context, region, id, service string, form url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
	if err != nil {
		return &ErrUnavailable{err}
	}
	who, err := c.Credentials.Retrieve(ctx)
	if err != nil {
		return &ErrUnavailable{err}
	}
	body := []byte(form.Encode())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint(ctx, c, region, id, service), bytes.NewReader(body))
	if err != nil {
		return &ErrUnavailable{err}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, who, req, hex.EncodeToString(sum[:]), service, region, time.Now()); err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		err := fmt.Errorf("%s: %s", form.Get("Action"), res.Status)
		if res.StatusCode == http.StatusNotImplemented || res.StatusCode/100 == 4 && res.StatusCode != http.StatusTooManyRequests && !bytes.Contains(raw, []byte("Throttling")) {
			return &ErrUnavailable{err}
		}
		return err
	}
	return xml.Unmarshal(raw, into)
}

// endpoint is where a service is asked: where it is said to be, or at its customary place.
func endpoint(ctx context.Context, c aws.Config, region, id, service string) string {
	for _, s := range c.ConfigSources {
		if p, ok := s.(interface {
			GetServiceBaseEndpoint(context.Context, string) (string, bool, error)
		}); ok {
			if at, said, err := p.GetServiceBaseEndpoint(ctx, id); err == nil && said {
				return at
			}
		}
	}
	if c.BaseEndpoint != nil {
		return *c.BaseEndpoint
	}
	domain := "amazonaws.com"
	if strings.HasPrefix(region, "cn-") {
		domain += ".cn"
	}
	return "https://" + service + "." + region + "." + domain + "/"
}
