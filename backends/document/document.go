// Package document encodes structured values as configuration files.
//
// It knows the formats. It refuses to know tokens: callers pass values without them. Invariant:
// equal values give equal bytes, with sorted keys and a newline at the end; a value that a format
// cannot represent is an error.
package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v3"

	"github.com/defx-dev/defx/internal/sets"
)

// Encode returns the file for a value: nil, bool, float64, string, []any or map[string]any of such
// values. kind is json, yaml, toml, ini or env.
func Encode(kind string, v any) ([]byte, error) {
	v = withIntegers(v)
	var b bytes.Buffer
	switch kind {
	case "json":
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		err := e.Encode(v)
		return b.Bytes(), err
	case "yaml":
		e := yaml.NewEncoder(&b)
		e.SetIndent(2)
		err := errors.Join(e.Encode(v), e.Close())
		return b.Bytes(), err
	case "toml":
		if _, ok := v.(map[string]any); !ok {
			return nil, errors.New("a toml file must be an object")
		}
		e := toml.NewEncoder(&b)
		e.Indent = ""
		err := e.Encode(v)
		return b.Bytes(), err
	case "ini":
		err := ini(&b, v)
		return b.Bytes(), err
	case "env":
		err := env(&b, v)
		return b.Bytes(), err
	}
	return nil, fmt.Errorf("unknown file format %q", kind)
}

// withIntegers returns v with numbers that have no fraction as int64: JSON has one type of number,
// most formats have two.
func withIntegers(v any) any {
	switch v := v.(type) {
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v)
		}
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = withIntegers(v[i])
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for k := range v {
			out[k] = withIntegers(v[k])
		}
		return out
	}
	return v
}

// ini writes the keys without a section first, then each section. A list repeats its key; booleans
// are written as true and false.
func ini(b *bytes.Buffer, v any) error {
	m, ok := v.(map[string]any)
	if !ok {
		return errors.New("an ini file must be an object")
	}
	var sections []string
	for _, k := range sets.Keys(m) {
		if _, ok := m[k].(map[string]any); ok {
			sections = append(sections, k)
		} else if err := iniLine(b, k, m[k]); err != nil {
			return err
		}
	}
	for _, name := range sections {
		if strings.ContainsAny(name, "[]") || strings.ContainsFunc(name, unicode.IsControl) || name == "" {
			return fmt.Errorf("%q is not a valid ini section name", name)
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(b, "[%s]\n", name)
		section := m[name].(map[string]any)
		for _, k := range sets.Keys(section) {
			if err := iniLine(b, k, section[k]); err != nil {
				return err
			}
		}
	}
	return nil
}

func iniLine(b *bytes.Buffer, k string, v any) error {
	if k == "" || strings.ContainsAny(k, "=[;#") || strings.ContainsFunc(k, unicode.IsControl) || strings.TrimSpace(k) != k {
		return fmt.Errorf("%q is not a valid ini key", k)
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, x := range list {
		s, err := scalar(x)
		if err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
		if strings.ContainsAny(s, "\n\r") || strings.TrimSpace(s) != s {
			return fmt.Errorf("%s: an ini value is one line without surrounding spaces, not %q", k, s)
		}
		fmt.Fprintf(b, "%s = %s\n", k, s)
	}
	return nil
}

func scalar(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	}
	return "", errors.New("must be a string, number or boolean")
}

// envRE matches names that docker, systemd and shells read alike.
var envRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// env writes lines NAME=value without quotes. It accepts only values that docker's --env-file and
// systemd's EnvironmentFile read alike.
func env(b *bytes.Buffer, v any) error {
	m, ok := v.(map[string]any)
	if !ok {
		return errors.New("an env file must be an object of strings")
	}
	for _, k := range sets.Keys(m) {
		if !envRE.MatchString(k) {
			return fmt.Errorf("%q is not a valid variable name", k)
		}
		s, err := scalar(m[k])
		if err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
		if strings.ContainsFunc(s, unicode.IsControl) || strings.ContainsAny(s, "\\") || strings.TrimSpace(s) != s || s != "" && strings.ContainsRune(`"'`, rune(s[0])) {
			return fmt.Errorf("%s: docker and systemd would read %q differently", k, s)
		}
		fmt.Fprintf(b, "%s=%s\n", k, s)
	}
	return nil
}
