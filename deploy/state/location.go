package state

import (
	"regexp"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
)

var schemeRE = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*):`)

// ParseLocation returns the folder that a location of the state names: dir:PATH,
// or a path without a scheme. Other schemes are errors.
func ParseLocation(location string) (path string, err error) {
	if path, is := strings.CutPrefix(location, "dir:"); is {
		if path == "" {
			return "", diag.Errorf("", "state %q has no path", location).WithHint("dir:PATH")
		}
		return path, nil
	}
	if m := schemeRE.FindStringSubmatch(location); m != nil {
		return "", diag.Errorf("", "state %q: unknown kind of store %q", location, m[1]).
			WithHint("supported are dir:PATH and a plain path; a folder whose name begins like this is ./%s", location)
	}
	return location, nil
}
