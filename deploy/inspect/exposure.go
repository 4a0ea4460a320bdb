package inspect

import (
	"context"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"time"

	"github.com/defx-dev/defx/backends"
)

var exposureRE = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+ [A-Z]+)`)

// exposure runs systemd-analyze security of this machine on the file of a unit and
// returns its rating; "" if there is none.
func exposure(ctx context.Context, l backends.Layout) string {
	for _, f := range l.Files {
		if path.Base(f.Path) != l.Unit || f.Link != "" {
			continue
		}
		dir, err := os.MkdirTemp("", "defx-exposure-")
		if err != nil {
			return ""
		}
		defer os.RemoveAll(dir)
		file := filepath.Join(dir, l.Unit)
		if os.WriteFile(file, f.Content, 0o600) != nil {
			return ""
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "systemd-analyze", "security", "--offline=true", "--no-pager", file)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "SYSTEMD_COLORS=0", "SYSTEMD_EMOJI=0")
		cmd.WaitDelay = time.Second
		out, _ := cmd.Output() // its exit code is not 0 if the exposure is high
		if m := exposureRE.FindSubmatch(out); m != nil {
			return string(m[1])
		}
	}
	return ""
}
