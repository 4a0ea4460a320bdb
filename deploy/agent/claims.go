package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/defx-dev/defx/compile/plan"
	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/sets"
)

// checkClaims refuses a unit that claims what a unit of another environment or deployment has on
// this machine, or a directory that somebody else uses. Conflicts inside a deployment are errors of
// its plan. had is what is deployed of the unit; nil if nothing is.
func (h *Host) checkClaims(scope string, next, had *Entry) error {
	taken := map[string]plan.Claim{} // owner → what it has
	for other, units := range h.m.Scopes {
		if other == scope {
			continue
		}
		for address, e := range units {
			for _, of := range slices.Concat(e.Claims, orNothing(e.Previous).Claims) {
				if slices.ContainsFunc(next.Claims, of.Conflicts) {
					taken[shortAddress(units, address)+" of "+other] = of
				}
			}
		}
	}
	for _, owner := range sets.Keys(taken) {
		return diag.Errorf("", "%s of this machine belongs to %s", taken[owner], owner).
			WithHint("choose another one, or place one of the two services on another machine; nothing was changed")
	}
	if h.supervisor == nil {
		return nil
	}
	for _, c := range next.Claims {
		if c.Kind == plan.ClaimPath && !c.Shared && !claims(had, c) && !slices.Contains(next.Files, c.Key) && !isOwnDir(c.Key) {
			if err := h.checkForeignDir(c.Key, userOf(next)); err != nil {
				return err
			}
		}
	}
	return nil
}

func claims(e *Entry, c plan.Claim) bool {
	return e != nil && slices.ContainsFunc(slices.Concat(e.Claims, orNothing(e.Previous).Claims), func(h plan.Claim) bool { return h.Kind == c.Kind && h.Key == c.Key })
}

// isOwnDir reports whether a path is below the directories of defx, which only units of its own
// name use.
func isOwnDir(p string) bool {
	for _, root := range []string{"/var/lib", "/var/cache", "/var/log", "/run"} {
		if strings.HasPrefix(p, root+"/defx/") {
			return true
		}
	}
	return false
}

// userOf returns the user that a unit claims; "" if it runs as root.
func userOf(e *Entry) string {
	for _, c := range e.Claims {
		if c.Kind == plan.ClaimUser {
			return c.Key
		}
	}
	return ""
}

// checkForeignDir refuses a literal directory that holds something of another user: nothing in it
// would be given to the service, and its owner may still use it. A directory that does not exist or
// is empty is taken.
func (h *Host) checkForeignDir(p, user string) error {
	info, err := h.root.Stat(rel(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s exists and is not a directory: move it away, or choose another path", p)
	}
	content, err := h.hasContent(rel(p))
	if err != nil || !content {
		return err
	}
	owner, known := ownerOf(info)
	id, exists := h.userID(user)
	if !known || exists && owner == id {
		return nil
	}
	if user == "" {
		user = "root"
	}
	return diag.Errorf("", "%s exists, is not empty and belongs to user %d, not to %s: it is not managed by defx", p, owner, user).
		WithHint("chown -R %s: %s gives it to the service; or choose another path", user, p)
}

// userID returns the number of a user of the machine; root has no name here.
func (h *Host) userID(name string) (int, bool) {
	if name == "" {
		return 0, true
	}
	raw, err := h.root.ReadFile("etc/passwd")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[0] == name {
			var id int
			_, err := fmt.Sscan(f[2], &id)
			return id, err == nil
		}
	}
	return 0, false
}
