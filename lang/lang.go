// Package lang turns an entry file into evaluated values, with what was read
// and errors with positions.
//
// It knows Jsonnet, files and bounds. It refuses to know what a value means:
// decoding is the business of compile. Invariant: evaluation sees no
// environment, no clock and no network, and its imports stay below the root
// and the declared library paths.
package lang

import (
	"encoding/json"
	"time"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lang/cache"
)

// Config says what to evaluate and within which bounds.
type Config struct {
	Root    string            // absolute path of the folder that imports may not leave
	Entry   string            // entry file, relative to Root, with forward slashes
	JPath   []string          // absolute library folders (-J), the right-most wins; Root/vendor is searched last
	Env     string            // value of the parameter env, passed only if declared; "" = its literal default, else "default"
	TLAStr  map[string]string // top-level arguments as strings
	TLACode map[string]string // top-level arguments as Jsonnet
	Limits  Limits
	Command []string // how a child is started; default: this executable with the verb that Child serves

	Cache       string `json:"-"` // folder that keeps what was evaluated; "" = nothing is kept
	CacheMax    int64  `json:"-"` // bytes that it may take; 0 = the default
	VerifyCache bool   `json:"-"` // evaluate besides, and fail if the cache knew another value

	// Known is told of an entry that the cache knows, and of the names of its libraries, before any
	// of these is evaluated; nil: nobody wants to be told.
	Known func(entry Result, libraries []string) `json:"-"`
}

// Limits bound one child process. Zero fields mean the defaults.
type Limits struct {
	Time   time.Duration // wall clock
	Memory int64         // bytes of data segment
	Stack  int           // bytes of one goroutine's stack
}

// Result is what an entry file evaluates to.
type Result struct {
	Environment string
	Deployment  json.RawMessage // the entry's value without libs and overrides, tokens inside strings
	Libraries   []Library       // sorted by name
	Overrides   []string        // the names that overrides holds, sorted
	Transforms  int             // how many transforms there are: see Transform
	Reads       []ReadRecord    // sorted by path
	EntryReads  []ReadRecord    `json:",omitempty"` // those of the entry's own value, if it has no error
	Cache       []CacheUse      `json:"-"`          // what came out of the cache
}

// Library is the outcome of one entry of libs.
type Library struct {
	Name            string
	Err             *diag.Error     // the library as a whole did not evaluate
	Functionalities []Functionality // sorted by name; empty if Err is set
	Reads           []ReadRecord    `json:",omitempty"` // what its value is made of, if it was evaluated just now
}

// Functionality is the outcome of one field of a library, overrides applied.
type Functionality struct {
	Name  string
	Value json.RawMessage
	Base  json.RawMessage // the value before its override; nil if it has none
	Err   *diag.Error     // this functionality did not evaluate; Value is nil
}

// ReadRecord is a file that evaluation read, or a candidate that it found absent. Its
// path is relative to the root if it lies below, else absolute.
type ReadRecord = cache.Read
