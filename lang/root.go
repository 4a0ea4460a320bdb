package lang

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/defx-dev/defx/internal/diag"
	"github.com/defx-dev/defx/internal/openfile"
)

// Evaluation reads below a few folders: the entry file's, library folders (-J), and vendor. The
// name of each is the operator's, but what lies there is not: in a checkout, anybody who may
// propose a change can replace a folder by a link. So each is resolved once, before it is opened,
// and a link inside of a checkout may not lead out of that checkout.

// ResolveFolder returns the absolute path, without links, of a folder that the operator named.
// option is how it is named, such as "-J", for errors.
// Links outside of any checkout belong to the operator's own system, except in the last component:
// a checkout that is not recognised as one ends there at the latest.
func ResolveFolder(option, name string) (string, error) {
	at, rest, err := firstFolder(name)
	if err != nil {
		return "", err
	}
	parts := strings.FieldsFunc(rest, func(r rune) bool { return r == filepath.Separator })
	for i, part := range parts {
		link := filepath.Join(at, part)
		info, err := os.Lstat(link)
		if err != nil {
			return "", err
		}
		if info.Mode()&os.ModeSymlink == 0 {
			at = link
			continue
		}
		target, err := filepath.EvalSymlinks(link)
		if err != nil {
			return "", err
		}
		home := checkout(at)
		if home == "" && i == len(parts)-1 {
			home = at
		}
		if home != "" && !contains(home, target) {
			return "", leadsOut(option+" "+name, option, link, target, home)
		}
		at = target
	}
	return at, checkFolder(option, at)
}

// firstFolder returns where the resolution of a name begins, and the rest of the name. The
// working directory is where the operator is, by whatever path.
func firstFolder(name string) (at, rest string, err error) {
	name = filepath.Clean(name)
	if volume := filepath.VolumeName(name); filepath.IsAbs(name) {
		root := volume + string(filepath.Separator)
		return root, strings.TrimPrefix(name, root), nil
	}
	if at, err = os.Getwd(); err != nil {
		return "", "", err
	}
	if at, err = filepath.EvalSymlinks(at); err != nil || name == "." {
		return at, "", err
	}
	for name == ".." || strings.HasPrefix(name, ".."+string(filepath.Separator)) {
		at, name = filepath.Dir(at), strings.TrimPrefix(name[2:], string(filepath.Separator))
	}
	return at, name, nil
}

// checkFolder refuses folders of the kernel, and what is no folder.
func checkFolder(option, dir string) error {
	if kernel := openfile.KernelFolder(dir); kernel != "" {
		return diag.Errorf("", "%s: %s holds files of the kernel and of processes, not sources", option, kernel).WithHint("name a folder with sources")
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = diag.Errorf("", "%s: %s is not a folder", option, dir).WithHint("name a folder with sources")
	}
	return err
}

// resolveInside returns the path, without links, of a folder of the deployment itself. It may be a
// link to another folder of the same checkout.
func resolveInside(root, name string) (string, error) {
	link := filepath.Join(root, name)
	target, err := filepath.EvalSymlinks(link)
	if err != nil {
		return "", err
	}
	home := checkout(root)
	if home == "" {
		home = root
	}
	if !contains(home, target) {
		return "", leadsOut(name, "-J", link, target, home)
	}
	return target, checkFolder(name, target)
}

// leadsOut is the error of a link that may not be followed. option names the folder itself instead.
func leadsOut(what, option, link, target, home string) error {
	return diag.Errorf("", "%s: %s is a symbolic link to %s, which is outside of %s: it could make defx read any file", what, link, target, home).
		WithHint("replace the link by the folder, or name the folder itself: %s %s", option, target)
}

// checkout returns the nearest folder at or above dir that is under version control; "" if there is
// none. dir has no links.
func checkout(dir string) string {
	for {
		for _, mark := range []string{".git", ".hg", ".svn", ".jj"} {
			if _, err := os.Lstat(filepath.Join(dir, mark)); err == nil {
				return dir
			}
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}

// contains reports whether path is dir or below it.
func contains(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
