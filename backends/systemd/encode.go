package systemd

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// This file has one encoder for each kind of place in a unit file. Each returns text that systemd
// reads back as exactly the given bytes, or an error. The rules were verified with systemd 252:
//
//   - A line that is not UTF-8, or that has noncharacters, is ignored.
//   - "%" is doubled. This package uses no specifiers: one that names the unit expands to the alias
//     if the unit was loaded by its alias.
//   - "$" stands for itself, because every command has the prefix ":".
//   - An argument is C-quoted, which can represent any byte except NUL.
//   - A program's path cannot contain quotes, backslashes or control characters.
//   - A variable's value can contain tab and newline, but no other control character.
//   - Paths outside of commands have no escapes that work in all versions, so paths that need one
//     are refused.

const (
	maxString = 128<<10 - 1 // bytes of one argument or variable: MAX_ARG_STRLEN of the kernel, less its NUL
	maxPath   = 4095        // bytes of a path
)

var plainRE = regexp.MustCompile(`^[A-Za-z0-9_./:=@,+-]+$`)

// arg encodes an argument of a command.
func arg(s string) (string, error) {
	if err := checkBytes(s, maxString); err != nil {
		return "", err
	}
	if plainRE.MatchString(s) {
		return s, nil
	}
	return quote(s), nil
}

// programPath encodes the path of an executable.
func programPath(s string) (string, error) {
	if err := checkPath(s); err != nil {
		return "", err
	}
	if strings.Contains(s, "'") {
		return "", errors.New("contains a quote, which is not possible in the path of a program")
	}
	if plainRE.MatchString(s) {
		return s, nil
	}
	return quote(s), nil
}

// assignment encodes an assignment of Environment=.
func assignment(name, value string) (string, error) {
	if err := checkBytes(value, maxString-len(name)-1); err != nil {
		return "", err
	}
	for _, r := range value {
		switch {
		case r == '\n' || r == '\t':
		case r < ' ' || r == 0x7f:
			return "", fmt.Errorf("contains the control character %U, which is not possible in a variable", r)
		case isNoncharacter(r):
			return "", fmt.Errorf("contains the noncharacter %U, which is not possible in a variable", r)
		}
	}
	return quote(name + "=" + value), nil
}

// pathValue encodes a path that is the whole value of a directive.
func pathValue(s string) (string, error) {
	if err := checkPath(s); err != nil {
		return "", err
	}
	if strings.TrimSpace(s) != s {
		return "", errors.New("ends in a space, which systemd would drop at the end of a line")
	}
	return strings.ReplaceAll(s, "%", "%%"), nil
}

// socketPath encodes the path of a listener. It accepts only plain characters: systemd escapes all
// others when it serializes its open descriptors and does not recognize them afterwards, so the
// listener would be lost at the next daemon-reload.
func socketPath(s string) (string, error) {
	if err := checkPath(s); err != nil {
		return "", err
	}
	if len(s) > 107 {
		return "", fmt.Errorf("has %d bytes, but a socket path can have at most 107", len(s))
	}
	if !plainRE.MatchString(s) {
		return "", errors.New("contains characters other than letters, digits and _./:=@,+-, with which systemd would lose the listener at daemon-reload")
	}
	return s, nil
}

// bindPath encodes one side of a bind mount.
func bindPath(s string) (string, error) {
	if err := checkPath(s); err != nil {
		return "", err
	}
	if plainRE.MatchString(s) && !strings.Contains(s, ":") {
		return s, nil
	}
	return `"` + strings.ReplaceAll(s, "%", "%%") + `"`, nil
}

// directiveValue checks the value of a user's own directive. Quoting and "%" are the user's
// responsibility, but the value must stay one line.
func directiveValue(s string) (string, error) {
	if err := checkBytes(s, 1<<20-1024); err != nil {
		return "", err
	}
	for _, r := range s {
		if r < ' ' && r != '\t' || r == 0x7f || isNoncharacter(r) {
			return "", fmt.Errorf("contains the character %U, which is not possible in a directive", r)
		}
	}
	if strings.HasSuffix(s, `\`) {
		return "", errors.New("ends in a backslash, which would continue on the next line")
	}
	return s, nil
}

// A script is a constant program of /bin/sh, without single quotes and backslashes. What differs between two units is passed to it as
// arguments, so no name or value is ever read as a program.
type script string

const (
	makeDirScript script = `test -d "$1" || { mkdir -p -- "$1" && chown -- "$2:" "$1"; }`
	killScript    script = `kill -s "$1" "$MAINPID"` // the shell's builtin: /bin/kill is not on every machine
	saveScript    script = `mkdir -p -- "${1%/*}" && { test -e "$1" || cat -- "$2" >"$1"; }`
	restoreScript script = `cat -- "$1" >"$2"`
	// At a boot the package is installed already, and the network may not be up yet. apt must take the
	// name as nothing but a name: Pattern-Only keeps it from reading one with a dot as an expression.
	installScript script = `{ dpkg-query -s -- "$1" 2>/dev/null | grep -qx "Status: install ok installed"` +
		` && { [ -z "$2" ] || dpkg-query -s -- "$1" | grep -qxF "Version: $2"; }; }` +
		` || exec apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 -o APT::Cmd::Pattern-Only=true -- "$1${2:+=$2}"`
)

// shell encodes the run of a script. The prefix must contain ":", which keeps systemd from expanding
// the variables of the script.
func shell(prefix string, s script, args ...string) (string, error) {
	out := prefix + "/bin/sh -c '" + strings.ReplaceAll(string(s), "%", "%%") + "' sh"
	for _, a := range args {
		word, err := arg(a)
		if err != nil {
			return "", err
		}
		if a == "" {
			word = `""`
		}
		out += " " + word
	}
	return out, nil
}

// checkBytes refuses values that no kind of place can represent.
func checkBytes(s string, limit int) error {
	switch {
	case !utf8.ValidString(s):
		return errors.New("is not valid UTF-8")
	case strings.Contains(s, "\x00"):
		return errors.New("contains a NUL byte, which cannot be passed to a process")
	case len(s) > limit:
		return fmt.Errorf("has %d bytes, but at most %d are possible", len(s), limit)
	}
	return nil
}

// checkPath refuses paths that systemd would change or that need escapes.
func checkPath(s string) error {
	if err := checkBytes(s, maxPath); err != nil {
		return err
	}
	for _, r := range s {
		switch {
		case r < ' ' || r == 0x7f || isNoncharacter(r):
			return fmt.Errorf("contains the character %U, which is not possible in a path in a unit", r)
		case r == '"' || r == '\\':
			return fmt.Errorf("contains %q, which is not possible in a path in a unit", r)
		}
	}
	switch {
	case !strings.HasPrefix(s, "/"):
		return fmt.Errorf("%q is not an absolute path", s)
	case s == "/":
		return errors.New("is the root directory")
	case path.Clean(s) != s:
		return fmt.Errorf("%q is not a clean path; write %q", s, path.Clean(s))
	}
	for _, name := range strings.Split(s, "/") {
		if len(name) > 255 {
			return errors.New("has a path element longer than 255 bytes")
		}
	}
	return nil
}

// quote writes s in double quotes with C escapes and doubled "%".
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '%':
			b.WriteString("%%")
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7f || isNoncharacter(r):
			for _, c := range []byte(string(r)) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// isNoncharacter reports whether systemd does not accept the code point as text.
func isNoncharacter(r rune) bool {
	return r >= 0xfdd0 && r <= 0xfdef || r&0xfffe == 0xfffe
}
