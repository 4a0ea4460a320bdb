package apply

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/defx-dev/defx/compile/graph"
	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/digest"
)

// journal is the local record of an apply in progress: one JSON line at the start,
// and one before and one after every action. A line is on disk before the apply
// continues; lines of concurrent actions share an fsync.
type journal struct {
	f       *os.File
	mu      sync.Mutex
	queue   []byte       // lines to write
	waiters []chan error // one for each line in queue
	busy    bool         // flush is running
}

// journalLine is one entry of the journal.
type journalLine struct {
	Start *startLine   `json:"start,omitempty"`
	Begin *stepLine    `json:"begin,omitempty"`
	End   *stepLine    `json:"end,omitempty"`
	Stand *plan.Record `json:"stand,omitempty"` // with End: the unit after the action; nil = it does not exist
}

// startLine is the start of an apply.
type startLine struct {
	Token    int64            `json:"token"`
	Base     int              `json:"base"`
	Plan     digest.Digest    `json:"plan"`
	Machines []*graph.Machine `json:"machines"`
}

// stepLine is the start or the end of an action.
type stepLine struct {
	Op      plan.Op `json:"op"`
	Address string  `json:"address"`
	Machine string  `json:"machine"`
	From    string  `json:"from,omitempty"`
	Former  string  `json:"former,omitempty"`
	Failed  string  `json:"failed,omitempty"`
}

// JournalName is the file name of the journal in the directory of the state.
const JournalName = "journal.jsonl"

// Unfinished is the content of the journal of an interrupted apply: the units
// whose records are uncertain until their machines are asked.
type Unfinished struct {
	Units    map[string]map[string]bool // address → machines on which it was changed
	Machines []*graph.Machine
}

// ReadUnfinished reads the journal in the directory of the state. It returns nil if
// the last apply completed.
func ReadUnfinished(dir string) (*Unfinished, error) {
	raw, err := os.ReadFile(filepath.Join(dir, JournalName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	u := &Unfinished{Units: map[string]map[string]bool{}}
	n := 0
	for text := range bytes.Lines(raw) {
		n++
		if !bytes.HasSuffix(text, []byte("\n")) {
			break // incomplete after a crash: the action did not start
		}
		var l journalLine
		if err := json.Unmarshal(text, &l); err != nil {
			return nil, fmt.Errorf("%s, line %d is damaged: %w", filepath.Join(dir, JournalName), n, err)
		}
		if l.Start != nil {
			u.Machines = append(u.Machines, l.Start.Machines...)
		}
		if s := l.Begin; s != nil {
			for _, address := range []string{s.Address, s.Former} {
				if address != "" && u.Units[address] == nil {
					u.Units[address] = map[string]bool{}
				}
			}
			if s.Former != "" {
				u.Units[s.Former][s.Machine] = true
				if s.From != "" {
					u.Units[s.Former] = map[string]bool{s.From: true}
				}
			}
			u.Units[s.Address][s.Machine] = true
			if s.From != "" {
				u.Units[s.Address][s.From] = true
			}
		}
	}
	return u, nil
}

// openJournal opens the journal in the directory of the state for appending.
func openJournal(dir string) (*journal, error) {
	path := filepath.Join(dir, JournalName)
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	end := int64(bytes.LastIndexByte(raw, '\n') + 1) // drop an incomplete line, which would corrupt the next one
	if err := f.Truncate(end); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(end, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &journal{f: f}, nil
}

// write appends a line and returns when it is on disk.
func (j *journal) write(l journalLine) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	written := make(chan error, 1)
	j.mu.Lock()
	j.queue = append(append(j.queue, text...), '\n')
	j.waiters = append(j.waiters, written)
	if !j.busy {
		j.busy = true
		go j.flush()
	}
	j.mu.Unlock()
	return <-written
}

// flush writes queued lines until there are none.
func (j *journal) flush() {
	for {
		j.mu.Lock()
		text, waiting := j.queue, j.waiters
		j.queue, j.waiters = nil, nil
		if len(waiting) == 0 {
			j.busy = false
			j.mu.Unlock()
			return
		}
		j.mu.Unlock()
		_, err := j.f.Write(text)
		if err == nil {
			err = j.f.Sync()
		}
		for _, w := range waiting {
			w <- err
		}
	}
}

// finish closes the journal and, if the apply has completed, removes it.
func (j *journal) finish(completed bool) error {
	err := j.f.Close()
	if completed {
		err = errors.Join(err, os.Remove(j.f.Name()))
	}
	return err
}
