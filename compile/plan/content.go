package plan

import (
	"path"
	"slices"
	"strings"
)

// Content is what is known of an artifact's content where the plan is made. It is in no
// digest: an artifact's own digest covers it.
type Content struct {
	Files   map[string]bool   // path → whether it may be executed; of a single file its name
	Folders map[string]bool   // paths
	Links   map[string]string // path of a symbolic link → its target
	Format  string            // of a single file that is an archive or compressed: "a zip archive"; "empty" without content
}

// maxLinks is how many links Find follows.
const maxLinks = 40

// Find follows symbolic links from a path and returns the path of the file or folder there.
// It returns false if there is nothing. A link that leads out of the artifact returns "" and
// true: what is there is known on the machine only.
func (c *Content) Find(name string) (string, bool) {
	for range maxLinks {
		name = path.Clean(name)
		if name == "." || c.Folders[name] {
			return name, true
		}
		if _, ok := c.Files[name]; ok {
			return name, true
		}
		link, rest := c.linkOn(name)
		if link == "" {
			return "", false
		}
		target := c.Links[link]
		if path.IsAbs(target) {
			return "", true
		}
		if name = path.Join(path.Dir(link), target, rest); name == ".." || strings.HasPrefix(name, "../") {
			return "", true
		}
	}
	return "", false
}

// linkOn returns the first part of a path that is a link, and the rest.
func (c *Content) linkOn(name string) (link, rest string) {
	for i := range len(name) + 1 {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if _, ok := c.Links[name[:i]]; ok {
			return name[:i], strings.TrimPrefix(name[i:], "/")
		}
	}
	return "", ""
}

// Programs returns the paths of the files that may be executed, sorted.
func (c *Content) Programs() []string {
	var out []string
	for p, exec := range c.Files {
		if exec {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}
