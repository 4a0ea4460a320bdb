// Package lang evaluates an entry file and returns the values it produces, the
// files it read, and errors with positions.
//
// It knows Jsonnet, files and resource limits. It refuses to know what a value
// means: package compile decodes it. Invariant: evaluation sees no environment
// variables, no clock and no network, and imports only files below the root and
// the declared library directories.
package lang

import (
	"encoding/json"
	"time"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/lang/cache"
)

// Config is what to evaluate, and with which arguments and limits.
type Config struct {
	Root    string            // absolute path of the directory that imports may not leave
	Entry   string            // entry file, relative to Root, with forward slashes
	JPath   []string          // absolute library directories (-J), the rightmost wins; Root/vendor is searched last
	Env     string            // value of the parameter env, passed only if the entry declares it; "" = its literal default, or else "default"
	TLAStr  map[string]string // top-level arguments as strings
	TLACode map[string]string // top-level arguments as Jsonnet
	Limits  Limits
	Command []string // command line of a child process; default: this executable with the argument WorkerVerb

	Cache       string `json:"-"` // directory of the evaluation cache; "" = no cache
	CacheMax    int64  `json:"-"` // size limit of the cache in bytes; 0 = cache.DefaultMax
	VerifyCache bool   `json:"-"` // also evaluate without the cache, and fail if the results differ

	// Known, if not nil, is called when the cache has the entry's value, with that value and
	// the names of its libraries, before any library is evaluated.
	Known func(entry Result, libraries []string) `json:"-"`
}

// Limits bound one child process. A zero field means the default.
type Limits struct {
	Time   time.Duration // wall clock
	Memory int64         // bytes of data segment (RLIMIT_DATA)
	Stack  int           // bytes of stack per goroutine
}

// Result is the value of an entry file.
type Result struct {
	Environment string
	Deployment  json.RawMessage // the entry's value without libs, overrides and transforms; tokens are encoded in strings
	Libraries   []Library       // sorted by name
	Overrides   []string        // the names of the overrides, sorted
	Transforms  int             // number of transforms: see Transform
	Reads       []ReadRecord    // sorted by path
	EntryReads  []ReadRecord    `json:",omitempty"` // the reads of the entry's own value, if it has no error
	Cache       []CacheUse      `json:"-"`          // which parts the cache had
}

// Library is the result of one entry of libs.
type Library struct {
	Name            string
	Err             *diag.Error     // set if the library as a whole did not evaluate
	Functionalities []Functionality // sorted by name; empty if Err is set
	Reads           []ReadRecord    `json:",omitempty"` // the files its value depends on, if it was evaluated in this run
}

// Functionality is the result of one field of a library, with its override applied.
type Functionality struct {
	Name  string
	Value json.RawMessage
	Base  json.RawMessage // the value before its override; nil without an override
	Err   *diag.Error     // set if this functionality did not evaluate; Value is then nil
}

// ReadRecord is a file that evaluation read, or a candidate path that does not
// exist. The path is relative to the root if the file is below it, else absolute.
type ReadRecord = cache.Read
