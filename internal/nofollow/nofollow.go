// Package nofollow gives access to the files of a machine below its root folder, for a process
// whose rights the other users of the machine do not have. No symbolic link is followed in any
// component of a path, because a user can make one in a folder that he can write, and so have files
// elsewhere read, written or removed.
//
// Links of the system itself are followed, like /var/run or /lib: those that belong to root and lie
// in a folder that root alone can change, as all folders above it.
package nofollow

import "fmt"

// Refused is the error of a file that is not touched, because another user could have put it there
// to have something else read or changed.
type Refused struct {
	Path    string // on the machine
	Problem string // what it is
}

func (r *Refused) Error() string { return fmt.Sprintf("%s %s", r.Path, r.Problem) }

// Hint returns what to do about it.
func (r *Refused) Hint() string {
	return fmt.Sprintf("look at it with ls -l %s, then remove it or choose another path for the file", r.Path)
}
