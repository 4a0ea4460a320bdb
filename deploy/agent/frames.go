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
)

// Protocol is the version of the frames. Both sides say theirs in the first
// frame; a difference ends the conversation with an error that names both.
const Protocol = 1

// A frame is a length (4 bytes, big endian) and that many bytes: either one
// JSON Message, or, after a message that announces content, raw bytes of it.
// An empty raw frame ends the content.

const (
	maxMessage = 64 << 20 // bytes of one JSON message
	chunk      = 256 << 10
)

// Message is one request or its answer. Which fields count depends on Kind.
type Message struct {
	Kind       string                 `json:"kind"`
	ID         uint64                 `json:"id"`                  // of the request, repeated in the answer
	Error      string                 `json:"error,omitempty"`     // of an answer
	StaleToken int64                  `json:"fenced,omitempty"`    // of an answer: the higher token that refused the request
	Unhealthy  bool                   `json:"unhealthy,omitempty"` // of an answer: the error is an Unhealthy
	Protocol   int                    `json:"protocol,omitempty"`  // hello
	Scope      string                 `json:"scope,omitempty"`     // ENVIRONMENT/DEPLOYMENT
	Token      int64                  `json:"token,omitempty"`     // fencing token
	Address    string                 `json:"address,omitempty"`
	Addresses  []string               `json:"addresses,omitempty"` // fence: of the lease; none = all
	Unit       json.RawMessage        `json:"unit,omitempty"`      // do: canonical bytes of the plan.Unit; absent = delete
	Values     plan.Values            `json:"values,omitempty"`    // do: what its refs stand for
	Timeout    int                    `json:"timeout,omitempty"`   // do: seconds until what stood before is brought back; retire: until it is given up
	Digests    []digest.Digest        `json:"digests,omitempty"`
	Artifact   *plan.Artifact         `json:"artifact,omitempty"` // put: raw frames follow
	Offset     int64                  `json:"offset,omitempty"`   // put: how many bytes were sent an earlier time
	Arrived    []int64                `json:"arrived,omitempty"`  // answer of missing: how many bytes of each digest are there
	Number     int                    `json:"number,omitempty"`   // settle, fence: the generation
	Units      map[string]*Entry      `json:"units,omitempty"`    // answer of manifest
	Entry      *Entry                 `json:"entry,omitempty"`    // answer of do
	More       bool                   `json:"more,omitempty"`     // of an answer: another one follows
	Follow     bool                   `json:"follow,omitempty"`   // logs: go on with what is to come
	Dry        bool                   `json:"dry,omitempty"`      // collect: only tell
	Statuses   map[string]*UnitStatus `json:"looks,omitempty"`    // answer of look
	Lines      []Line                 `json:"lines,omitempty"`    // answer of logs
	Info       *Info                  `json:"info,omitempty"`     // answer of info
	Object     []byte                 `json:"object,omitempty"`   // answer of object
	Freed      uint64                 `json:"freed,omitempty"`    // answer of collect: bytes
	Names      []string               `json:"names,omitempty"`    // answer of collect: what goes; of orphans: what nothing leads to
	Engine     string                 `json:"engine,omitempty"`   // engine: socket of the docker engine
}

// conn reads and writes frames.
type conn struct {
	r     *bufio.Reader
	w     *bufio.Writer
	heard func() // after every frame; may be nil
	wrote func() // after every frame of content was given away; may be nil
}

func newConn(rw io.ReadWriter) *conn {
	return &conn{r: bufio.NewReaderSize(rw, 64<<10), w: bufio.NewWriterSize(rw, 64<<10)}
}

func (c *conn) writeFrame(b []byte) error {
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
		return nil, fmt.Errorf("a frame of %d bytes is more than the %d allowed: the other side does not speak this protocol", size, maxMessage)
	}
	b := make([]byte, size)
	_, err := io.ReadFull(c.r, b)
	if err == nil && c.heard != nil {
		c.heard()
	}
	return b, err
}

func (c *conn) send(m *Message) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // a unit must arrive byte for byte: its digest is over them
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
		return nil, fmt.Errorf("not a message: %w", err)
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
			if c.wrote != nil {
				c.wrote()
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
