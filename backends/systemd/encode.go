package systemd

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// This file holds every way of a value into a unit file: one function for each
// kind of place. Each gives text that systemd reads back as the very bytes
// given, or an error. What systemd takes was found by trying (version 252):
//
//   - A line is UTF-8 without noncharacters, or it is ignored as a whole.
//   - "%" is doubled. Specifiers are not even used by this package: one that names the unit
//     gives the alias if the unit was first read by its alias.
//   - "$" stands for itself, because every command has the prefix ":".
//   - An argument is C-quoted: any byte but NUL can be given.
//   - A program's path can hold neither quotes nor backslashes nor control characters.
//   - A variable's value can hold tab and newline, but no other control character.
//   - Paths outside of commands know no escapes that all versions agree on, so
//     what would need one is refused.

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
		return "", errors.New("holds a quote, which the path of a program cannot carry")
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
			return "", fmt.Errorf("holds the control character %U, which a variable cannot carry", r)
		case isNoncharacter(r):
			return "", fmt.Errorf("holds the noncharacter %U, which a variable cannot carry", r)
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
		return "", errors.New("ends in a space, which is lost at the end of a line")
	}
	return strings.ReplaceAll(s, "%", "%%"), nil
}

// socketPath encodes the path of a listener. What looks odd there systemd
// escapes when it notes its open descriptors, and does not recognize when it
// reads them back: the listener would be lost at the next daemon-reload.
func socketPath(s string) (string, error) {
	if err := checkPath(s); err != nil {
		return "", err
	}
	if len(s) > 107 {
		return "", fmt.Errorf("has %d bytes, but the path of a socket can have 107", len(s))
	}
	if !plainRE.MatchString(s) {
		return "", errors.New("holds characters other than letters, digits and _./:=@,+-, with which systemd would lose the listener when it reloads")
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

// directiveValue passes a value of a user's own directive: quoting and "%" are the
// user's, but it must stay one line.
func directiveValue(s string) (string, error) {
	if err := checkBytes(s, 1<<20-1024); err != nil {
		return "", err
	}
	for _, r := range s {
		if r < ' ' && r != '\t' || r == 0x7f || isNoncharacter(r) {
			return "", fmt.Errorf("holds the character %U, which a directive cannot carry", r)
		}
	}
	if strings.HasSuffix(s, `\`) {
		return "", errors.New("ends in a backslash, which would join the next line")
	}
	return s, nil
}

// checkBytes refuses what no place can carry.
func checkBytes(s string, limit int) error {
	switch {
	case !utf8.ValidString(s):
		return errors.New("is not valid UTF-8")
	case strings.Contains(s, "\x00"):
		return errors.New("holds a NUL byte, which no process can be given")
	case len(s) > limit:
		return fmt.Errorf("has %d bytes, but at most %d can be given", len(s), limit)
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
			return fmt.Errorf("holds the character %U, which a path in a unit cannot carry", r)
		case r == '"' || r == '\\':
			return fmt.Errorf("holds %q, which a path in a unit cannot carry", r)
		}
	}
	switch {
	case !strings.HasPrefix(s, "/"):
		return fmt.Errorf("%q is not an absolute path", s)
	case s == "/":
		return errors.New("is the root itself")
	case path.Clean(s) != s:
		return fmt.Errorf("%q is not a clean path, %q is", s, path.Clean(s))
	}
	for _, name := range strings.Split(s, "/") {
		if len(name) > 255 {
			return errors.New("has a part longer than 255 bytes")
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

// isNoncharacter tells the code points that systemd does not take for text.
func isNoncharacter(r rune) bool {
	return r >= 0xfdd0 && r <= 0xfdef || r&0xfffe == 0xfffe
}
