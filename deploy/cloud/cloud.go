// Package cloud queries AWS for what Terraform does not report: whether a load
// balancer considers a target healthy, and whether a target is drained.
//
// It reads region, credentials and endpoints from where the provider reads them.
// It refuses to know services and modules, and changes nothing. Invariant:
// missing permission is reported as ErrUnavailable, and an answer affects only
// how long a caller waits.
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
	"github.com/defx-dev/defx/internal/poll"
)

// Target is a target of a load balancer.
type Target struct {
	Region, Group, ID string // Group is the ARN of the target group
	Port              int
}

// Set by tests to shorter times.
var (
	interval      = 2 * time.Second // between two queries
	healthTimeout = 5 * time.Minute // after which WaitHealthy fails
)

// ErrUnavailable is returned if the health of targets cannot be queried: there are
// no credentials or permissions, or the service never answers.
type ErrUnavailable struct{ err error }

func (e *ErrUnavailable) Error() string { return e.err.Error() }
func (e *ErrUnavailable) Unwrap() error { return e.err }

// WaitHealthy waits until the load balancer considers a target healthy. It does
// not wait for a target that is not registered. It retries failed queries, and
// returns ErrUnavailable only if no query has ever succeeded.
func WaitHealthy(ctx context.Context, t Target) error {
	deadline := time.Now().Add(healthTimeout)
	answered := false
	for {
		state, reason, err := targetHealth(ctx, t)
		unavailable, is := errors.AsType[*ErrUnavailable](err)
		answered = answered || err == nil
		switch {
		case err == nil && (state == "healthy" || reason == "Target.NotInUse" || reason == "Target.HealthCheckDisabled"):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case is && !answered:
			return unavailable
		case time.Now().Before(deadline):
		case !answered:
			return &ErrUnavailable{err}
		case err != nil:
			return fmt.Errorf("not healthy after %s, and its load balancer cannot be queried any more: %w\n    hint: the next defx apply checks again", healthTimeout, err)
		default:
			return fmt.Errorf("not healthy after %s according to its load balancer: %s, %s\n    hint: see the health check of the target group in the AWS console, and the service's output in defx logs", healthTimeout, state, reason)
		}
		if poll.Sleep(ctx, interval) != nil {
			return ctx.Err()
		}
	}
}

// WaitDrained waits until a load balancer has drained a deregistered target, at
// most for limit. If the state cannot be queried it waits for all of limit.
func WaitDrained(ctx context.Context, t Target, limit time.Duration) error {
	bound, cancel := context.WithTimeout(ctx, limit)
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
		if _, unavailable := errors.AsType[*ErrUnavailable](err); unavailable {
			wait = limit
		}
		poll.Sleep(bound, wait)
	}
	return ctx.Err()
}

// targetHealth queries the state of a target and the reason for it. Errors other
// than ErrUnavailable may be temporary.
func targetHealth(ctx context.Context, t Target) (state, reason string, err error) {
	form := url.Values{"Action": {"DescribeTargetHealth"}, "Version": {"2015-12-01"}, "TargetGroupArn": {t.Group}, "Targets.member.1.Id": {t.ID}}
	if t.Port > 0 {
		form.Set("Targets.member.1.Port", strconv.Itoa(t.Port))
	}
	var doc struct {
		State  string `xml:"DescribeTargetHealthResult>TargetHealthDescriptions>member>TargetHealth>State"`
		Reason string `xml:"DescribeTargetHealthResult>TargetHealthDescriptions>member>TargetHealth>Reason"`
	}
	err = query(ctx, t.Region, "Elastic Load Balancing v2", "elasticloadbalancing", form, &doc)
	return doc.State, doc.Reason, err
}

// query sends a signed request to an AWS service with the query protocol and
// decodes the answer into into.
func query(ctx context.Context, region, id, service string, form url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
	if err != nil {
		return &ErrUnavailable{err}
	}
	credentials, err := c.Credentials.Retrieve(ctx)
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
	if err := v4.NewSigner().SignHTTP(ctx, credentials, req, hex.EncodeToString(sum[:]), service, region, time.Now()); err != nil {
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

// endpoint returns the URL of a service: the configured one, or AWS's public one.
func endpoint(ctx context.Context, c aws.Config, region, id, service string) string {
	for _, s := range c.ConfigSources {
		if p, ok := s.(interface {
			GetServiceBaseEndpoint(context.Context, string) (string, bool, error)
		}); ok {
			if url, found, err := p.GetServiceBaseEndpoint(ctx, id); err == nil && found {
				return url
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
