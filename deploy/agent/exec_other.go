//go:build !linux

package agent

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
)

// ExecRequest is a request to run a command in the environment of a unit that
// runs here.
type ExecRequest struct {
	Scope   string   `json:"scope"`
	Address string   `json:"address"`
	Command []string `json:"command"` // empty: a shell
	Term    string   `json:"term,omitempty"`
	Engine  string   `json:"engine,omitempty"` // socket of the docker engine; empty: the default
}

// Encode returns the request as hexadecimal digits, which every shell passes
// on unchanged.
func (e ExecRequest) Encode() (string, error) {
	raw, err := json.Marshal(e)
	return hex.EncodeToString(raw), err
}

// Exec is supported on Linux only.
func Exec(context.Context, string) error { return errors.New("units run on Linux only") }
