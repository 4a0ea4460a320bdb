package diag

import "regexp"

var userinfoRE = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*:)?//[^/\s?#]*@`)

// Redact returns s without the user names and passwords of URLs in it: "ssh://…@host". Text that
// a user wrote as an address passes through it before it is printed, because a password may have
// been written where none belongs.
func Redact(s string) string { return userinfoRE.ReplaceAllString(s, "$1//…@") }
