//go:build !linux

package agent

import (
	"encoding/hex"
	"encoding/json"
	"errors"
)

// Entrance asks for a command in the surroundings of a unit that runs here.
type Entrance struct {
	Scope   string   `json:"scope"`
	Address string   `json:"address"`
	Command []string `json:"command"` // none = a shell
	Term    string   `json:"term,omitempty"`
	Engine  string   `json:"engine,omitempty"`
}

// Text is the request as one word of hexadecimal digits, which no shell changes.
func (e Entrance) Text() (string, error) {
	raw, err := json.Marshal(e)
	return hex.EncodeToString(raw), err
}

// Enter is for Linux machines.
func Enter(string) error { return errors.New("units run on Linux alone") }
