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

// journal is the controller's memory of an apply under way: one JSON line when
// it starts, one before and one after every action, each durable before the
// next step. Lines of actions that run at once share an fsync.
type journal struct {
	f       *os.File
	mu      sync.Mutex
	queue   []byte
	waiters []chan error
	busy    bool
}

// journalLine is one entry of the journal.
type journalLine struct {
	Start *startLine   `json:"start,omitempty"`
	Begin *stepLine    `json:"begin,omitempty"`
	End   *stepLine    `json:"end,omitempty"`
	Stand *plan.Record `json:"stand,omitempty"` // of an end: what stands; nil = nothing
}

type startLine struct {
	Token    int64            `json:"token"`
	Base     int              `json:"base"`
	Plan     digest.Digest    `json:"plan"`
	Machines []*graph.Machine `json:"machines"`
}

type stepLine struct {
	Op      plan.Op `json:"op"`
	Address string  `json:"address"`
	Machine string  `json:"machine"`
	From    string  `json:"from,omitempty"`
	Former  string  `json:"former,omitempty"`
	Failed  string  `json:"failed,omitempty"`
}

const JournalName = "journal.jsonl"

// Unfinished is what the journal of an interrupted apply tells: which units
// must be looked at before anything is believed about them.
type Unfinished struct {
	Units    map[string]map[string]bool // address → machines where it was touched
	Machines []*graph.Machine
}

// ReadUnfinished reads the journal below the state's folder; nil if the last apply ended.
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
			break // torn by a crash: the step it announces did not begin
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

// openJournal appends to the journal of the state's folder.
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
	whole := int64(bytes.LastIndexByte(raw, '\n') + 1) // a torn line would swallow the next
	if err := f.Truncate(whole); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(whole, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &journal{f: f}, nil
}

// write appends a line and returns when it is on the disk.
func (j *journal) write(l journalLine) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	mine := make(chan error, 1)
	j.mu.Lock()
	j.queue = append(append(j.queue, text...), '\n')
	j.waiters = append(j.waiters, mine)
	if !j.busy {
		j.busy = true
		go j.flush()
	}
	j.mu.Unlock()
	return <-mine
}

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

// finish closes the journal, and removes it if the apply came to its end.
func (j *journal) finish(ended bool) error {
	err := j.f.Close()
	if ended {
		err = errors.Join(err, os.Remove(j.f.Name()))
	}
	return err
}
