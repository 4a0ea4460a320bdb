package engine

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// stallTimeout is how long a transfer may make no progress before it fails.
// It is long enough for an engine that unpacks or verifies a large layer.
var stallTimeout = 3 * time.Minute

// watchdog ends a transfer that makes no progress for stallTimeout.
type watchdog struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

// watch returns a context that ends when the watchdog sees no progress for
// stallTimeout. The caller calls stop at the end.
func watch(ctx context.Context) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{ctx: ctx, cancel: cancel}
	w.timer = time.AfterFunc(stallTimeout, func() { cancel(fmt.Errorf("no progress for %s", stallTimeout)) })
	return ctx, w
}

// progress starts stallTimeout anew.
func (w *watchdog) progress() { w.timer.Reset(stallTimeout) }

// pause stops the clock until the next progress.
func (w *watchdog) pause() { w.timer.Stop() }

// stop ends the watchdog and its context.
func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// cause returns why the context has ended, if that is why err came about.
func (w *watchdog) cause(err error) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	return err
}

// watchedReader reports what is read as progress. Time in which nobody reads
// does not count.
type watchedReader struct {
	r io.Reader
	w *watchdog
}

func (r *watchedReader) Read(b []byte) (int, error) {
	r.w.progress()
	n, err := r.r.Read(b)
	r.w.pause()
	return n, err
}

// stallTransport ends HTTP requests that make no progress, neither in sending
// nor in receiving.
type stallTransport struct{ base http.RoundTripper }

func (t *stallTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, w := watch(req.Context())
	req = req.Clone(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &sentBody{req.Body, w}
	}
	res, err := t.base.RoundTrip(req)
	if err != nil {
		err = w.cause(err)
		w.stop()
		return nil, err
	}
	w.pause()
	res.Body = &receivedBody{r: watchedReader{res.Body, w}, body: res.Body}
	return res, nil
}

// sentBody reports each piece of a request that is sent as progress. The clock
// runs between the pieces, when the peer has to accept them, and after the last.
type sentBody struct {
	io.ReadCloser
	w *watchdog
}

func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.w.progress()
	return n, err
}

// receivedBody is the body of a response; closing it ends the watchdog.
type receivedBody struct {
	r    watchedReader
	body io.Closer
	once sync.Once
}

func (b *receivedBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		err = b.r.w.cause(err)
	}
	return n, err
}

func (b *receivedBody) Close() error {
	err := b.body.Close()
	b.once.Do(b.r.w.stop)
	return err
}
