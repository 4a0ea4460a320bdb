package agent

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
	"github.com/defx-dev/defx/internal/failpoint"
)

// Protocol is the version of the frames. Both sides state theirs in the first frame; if they
// differ, the connection ends with an error that names both.
const Protocol = 3

// A frame is a length (4 bytes, big endian) followed by that many bytes: either one JSON
// Message or, after a message that announces content, raw bytes of it. An empty raw frame
// ends the content.

const (
	maxMessage = 64 << 20 // bytes of one JSON message
	chunk      = 256 << 10
)

// Message is one request or one reply. Kind determines which fields are used.
type Message struct {
	Kind      string                 `json:"kind"`
	ID        uint64                 `json:"id"`                 // of the request, repeated in the reply
	Error     *Error                 `json:"error,omitempty"`    // reply: the request failed
	Protocol  int                    `json:"protocol,omitempty"` // hello
	Scope     string                 `json:"scope,omitempty"`    // ENVIRONMENT/DEPLOYMENT
	Token     int64                  `json:"token,omitempty"`    // fencing token
	Lineage   string                 `json:"lineage,omitempty"`  // of the state; with Apply and Token of each request that changes units
	Apply     string                 `json:"apply,omitempty"`    // ID of the apply
	By        string                 `json:"by,omitempty"`       // fence: user@host
	Verb      string                 `json:"verb,omitempty"`     // fence: the command
	Address   string                 `json:"address,omitempty"`
	Former    string                 `json:"former,omitempty"`    // apply: the address that a renamed unit has until then
	Addresses []string               `json:"addresses,omitempty"` // fence: addresses of the lease; status: units to report; empty: all
	Unit      json.RawMessage        `json:"unit,omitempty"`      // apply: canonical bytes of the plan.Unit; absent: delete
	Values    plan.Values            `json:"values,omitempty"`    // apply: values of its refs
	Timeout   int                    `json:"timeout,omitempty"`   // apply: seconds, in addition to what the unit's settings allow, until the previous version is restored; retire: until it fails
	Digests   []digest.Digest        `json:"digests,omitempty"`
	Artifact  *plan.Artifact         `json:"artifact,omitempty"` // put: raw frames follow
	Offset    int64                  `json:"offset,omitempty"`   // put: how many bytes an earlier upload sent
	Arrived   []int64                `json:"arrived,omitempty"`  // reply to missing: bytes of each digest that are already there
	Number    int                    `json:"number,omitempty"`   // flush, fence: the generation; logs: number of lines
	State     *Scope                 `json:"state,omitempty"`    // reply to manifest
	Entry     *Entry                 `json:"entry,omitempty"`    // reply to apply and adopt
	More      bool                   `json:"more,omitempty"`     // reply: another one follows
	Follow    bool                   `json:"follow,omitempty"`   // logs: continue with new lines; others: report what they wait for
	Progress  *Progress              `json:"progress,omitempty"` // reply, with More: what the request waits for
	Failures  map[string]*Error      `json:"failures,omitempty"` // reply to settle: address → how its version ended
	Dry       bool                   `json:"dry,omitempty"`      // collect: only report
	Statuses  map[string]*UnitStatus `json:"statuses,omitempty"` // reply to status
	Lines     []Line                 `json:"lines,omitempty"`    // reply to logs
	Info      *Info                  `json:"info,omitempty"`     // reply to info
	Object    []byte                 `json:"object,omitempty"`   // reply to object
	Freed     uint64                 `json:"freed,omitempty"`    // reply to collect: bytes
	Names     []string               `json:"names,omitempty"`    // reply to collect: what was deleted; to orphans: what no unit needs; to repair: files kept aside, and files that were missing
	Engine    string                 `json:"engine,omitempty"`   // engine: socket of the docker engine
	Data      map[string][]string    `json:"data,omitempty"`     // refresh: address → what held its data
	Details   bool                   `json:"details,omitempty"`  // refresh: with states and runs
	Refreshed *Refreshed             `json:"refreshed,omitempty"`
	Stopped   bool                   `json:"stopped,omitempty"`  // apply: do not start it; stop: stop it, otherwise start it
	Empty     bool                   `json:"empty,omitempty"`    // prepare: it may start without its data
	KeepOnly  bool                   `json:"keepOnly,omitempty"` // prepare: only keep copies of edited files, because the unit is about to be deleted

	progress chan Progress // of a request: what it waits for; nil: nobody listens
}

// conn reads and writes frames.
type conn struct {
	r         *bufio.Reader
	w         *bufio.Writer
	onReceive func() // called after every received frame; may be nil
	onSend    func() // called after every sent content frame; may be nil
}

func newConn(rw io.ReadWriter) *conn {
	return &conn{r: bufio.NewReaderSize(rw, 64<<10), w: bufio.NewWriterSize(rw, 64<<10)}
}

// caller returns the apply on whose behalf a request changes units.
func (m *Message) caller() Caller {
	return Caller{Lineage: m.Lineage, Apply: m.Apply, Token: m.Token, By: m.By, Verb: m.Verb}
}

// from sets the apply on whose behalf a request changes units.
func (m *Message) from(c Caller) *Message {
	m.Lineage, m.Apply, m.Token, m.By, m.Verb = c.Lineage, c.Apply, c.Token, c.By, c.Verb
	return m
}

func (c *conn) writeFrame(b []byte) error {
	failpoint.Hit("frame")
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(b)))
	if _, err := c.w.Write(n[:]); err != nil {
		return err
	}
	_, err := c.w.Write(b)
	return err
}

func (c *conn) readFrame() ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(c.r, n[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(n[:])
	if size > maxMessage {
		return nil, fmt.Errorf("a frame of %d bytes is more than the %d allowed: the peer does not speak this protocol", size, maxMessage)
	}
	b := make([]byte, size)
	_, err := io.ReadFull(c.r, b)
	if err == nil && c.onReceive != nil {
		c.onReceive()
	}
	return b, err
}

func (c *conn) send(m *Message) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // a unit must arrive byte for byte, because its digest covers them
	if err := enc.Encode(m); err != nil {
		return err
	}
	if err := c.writeFrame(b.Bytes()); err != nil {
		return err
	}
	return c.w.Flush()
}

func (c *conn) receive() (*Message, error) {
	b, err := c.readFrame()
	if err != nil {
		return nil, err
	}
	m := &Message{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("invalid message: %w", err)
	}
	return m, nil
}

// sendContent writes raw frames and the empty one that ends them.
func (c *conn) sendContent(r io.Reader) error {
	buf := make([]byte, chunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := c.writeFrame(buf[:n]); err != nil {
				return err
			}
			if c.onSend != nil {
				c.onSend()
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := c.writeFrame(nil); err != nil {
		return err
	}
	return c.w.Flush()
}

// content reads raw frames until the empty one.
type content struct {
	c    *conn
	rest []byte
	done bool
}

func (r *content) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.done {
			return 0, io.EOF
		}
		b, err := r.c.readFrame()
		if err != nil {
			return 0, err
		}
		r.rest, r.done = b, len(b) == 0
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
