package systemd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// This file parses units as systemd does (config_parse, extract_first_word, cunescape and
// specifier_printf of version 252), for round-trip tests.

type directive struct{ section, name, value string }

// parseUnit splits a unit into directives.
func parseUnit(content string) ([]directive, error) {
	var out []directive
	section, joined := "", ""
	for _, line := range strings.Split(content, "\n") {
		if strings.HasSuffix(line, "\r") {
			return nil, errors.New("a line ends in a carriage return, which is dropped")
		}
		if strings.Contains(line, "\x00") {
			return nil, errors.New("NUL ends a line")
		}
		for _, r := range line {
			if isNoncharacter(r) {
				return nil, errors.New("a noncharacter drops the line")
			}
		}
		if !utf8.ValidString(line) {
			return nil, errors.New("invalid UTF-8 drops the line")
		}
		if trimmed := strings.TrimLeft(line, " \t\r\n"); strings.HasPrefix(trimmed, "#") || strings.HasPrefix(trimmed, ";") {
			continue
		}
		line = joined + line
		joined = ""
		if n := len(line) - len(strings.TrimRight(line, `\`)); n%2 == 1 {
			joined = line[:len(line)-1] + " "
			continue
		}
		line = strings.Trim(line, " \t\r\n")
		switch {
		case line == "":
		case line[0] == '[':
			if line[len(line)-1] != ']' {
				return nil, fmt.Errorf("bad section %q", line)
			}
			section = line[1 : len(line)-1]
		default:
			k, v, ok := strings.Cut(line, "=")
			if !ok {
				return nil, fmt.Errorf("no assignment in %q", line)
			}
			out = append(out, directive{section, strings.TrimRight(k, " \t"), strings.TrimLeft(v, " \t")})
		}
	}
	return out, nil
}

// splitWords is extract_first_word with EXTRACT_UNQUOTE, and with EXTRACT_CUNESCAPE if escapes.
func splitWords(s, separators string, escapes bool) ([]string, error) {
	var out []string
	for i := 0; ; {
		for i < len(s) && strings.IndexByte(separators, s[i]) >= 0 {
			i++
		}
		if i == len(s) {
			return out, nil
		}
		if s[i] == ';' && (i+1 == len(s) || s[i+1] == ' ') {
			return nil, errors.New("a second command")
		}
		var word []byte
		quote := byte(0)
		for ; i < len(s); i++ {
			c := s[i]
			switch {
			case c == '\\':
				if i+1 == len(s) {
					return nil, errors.New("a lone backslash")
				}
				i++
				if !escapes {
					word = append(word, s[i])
					continue
				}
				b, n, err := unescape(s[i:])
				if err != nil {
					return nil, err
				}
				word, i = append(word, b...), i+n-1
			case quote != 0 && c == quote:
				quote = 0
			case quote != 0:
				word = append(word, c)
			case c == '"' || c == '\'':
				quote = c
			case strings.IndexByte(separators, c) >= 0:
				goto done
			default:
				word = append(word, c)
			}
		}
	done:
		if quote != 0 {
			return nil, errors.New("an open quote")
		}
		out = append(out, string(word))
	}
}

func unescape(s string) ([]byte, int, error) {
	if i := strings.IndexByte("abfnrtv\\\"'s", s[0]); i >= 0 {
		return []byte{"\a\b\f\n\r\t\v\\\"' "[i]}, 1, nil
	}
	if s[0] == 'x' && len(s) >= 3 {
		n, err := strconv.ParseUint(s[1:3], 16, 8)
		if err != nil || n == 0 {
			return nil, 0, fmt.Errorf("bad escape %q", s[:3])
		}
		return []byte{byte(n)}, 3, nil
	}
	return nil, 0, fmt.Errorf("unknown escape %q", s[:1])
}

// specifiers undoes "%%" and refuses every real specifier.
func specifiers(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			if i+1 == len(s) || s[i+1] != '%' {
				return "", fmt.Errorf("a specifier in %q", s)
			}
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), nil
}

// readWords reads a value as words with specifiers.
func readWords(s, separators string, escapes bool) ([]string, error) {
	words, err := splitWords(s, separators, escapes)
	if err != nil {
		return nil, err
	}
	for i := range words {
		if words[i], err = specifiers(words[i]); err != nil {
			return nil, err
		}
	}
	return words, nil
}
