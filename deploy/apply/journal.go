package apply

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/deploy/state"
	"github.com/defx-dev/defx/internal/digest"
)

// journal shows the progress of an apply to people who look for the cause of an
// interruption: one JSON line at the start, and one before and one after every
// action. Nothing is decided by it: what an interrupted apply may have changed is
// in the intents of the state and on the machines.
type journal struct {
	mu sync.Mutex
	f  *os.File
}

// journalLine is one entry of the journal.
type journalLine struct {
	Start *startLine `json:"start,omitempty"`
	Begin *stepLine  `json:"begin,omitempty"`
	End   *stepLine  `json:"end,omitempty"`
}

// startLine is the start of an apply.
type startLine struct {
	Apply string        `json:"apply"`
	Token int64         `json:"token"`
	Base  int           `json:"base"`
	Plan  digest.Digest `json:"plan"`
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

// openJournal opens the journal in the directory of the state. What an interrupted
// apply has left in it is removed: this one is going to finish it.
func openJournal(dir string) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, state.JournalName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &journal{f: f}, nil
}

// write appends a line. An error is ignored: the line is only for people.
func (j *journal) write(l journalLine) {
	text, err := json.Marshal(l)
	if err != nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.f.Write(append(text, '\n'))
}

// finish closes the journal and, if the apply has completed, removes it.
func (j *journal) finish(completed bool) error {
	err := j.f.Close()
	if completed {
		if rerr := os.Remove(j.f.Name()); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}
