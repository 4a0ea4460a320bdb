// Package size parses amounts of memory and of processor cores, as the fields of a deployment have
// them.
//
// It knows the notation. It refuses to know what an amount is for. Invariant: a size always has a
// unit, so that no number of bytes is mistaken for a number of mebibytes; a string that Parse
// accepts always means the same number of bytes.
package size

import (
	"fmt"
	"math/bits"
	"regexp"
	"strconv"
	"strings"
)

// MinMemory is the smallest amount of memory in bytes that a limit or a capacity may have.
const MinMemory = 1 << 20

// units are the suffixes, largest first. The number of digits keeps every size below 2^60.
var units = []struct {
	suffix string
	bytes  int64
	digits int
}{
	{"Ti", 1 << 40, 6}, {"Gi", 1 << 30, 9}, {"Mi", 1 << 20, 12}, {"Ki", 1 << 10, 15},
	{"T", 1e12, 6}, {"G", 1e9, 9}, {"M", 1e6, 12}, {"k", 1e3, 15}, {"K", 1e3, 15},
}

// Error is a string that is not a valid size.
type Error struct {
	msg, hint string
}

func (e *Error) Error() string { return e.msg }

// Hint returns what to write instead.
func (e *Error) Hint() string { return e.hint }

const form = "a number with a unit, binary (Ki, Mi, Gi, Ti) or decimal (k, M, G, T): 512Mi"

var (
	numberRE = regexp.MustCompile(`^[0-9]+$`)
	coresRE  = regexp.MustCompile(`^([0-9]{1,6})(?:\.([0-9]{1,3}))?$`)
)

// Parse returns the number of bytes of a size: a whole number above zero with one of the units Ki,
// Mi, Gi, Ti (powers of 1024), k, K, M, G and T (powers of 1000). All errors are of type *Error.
func Parse(s string) (int64, error) {
	if numberRE.MatchString(s) {
		return 0, &Error{fmt.Sprintf("%q has no unit", s), WithUnit(s)}
	}
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		if !numberRE.MatchString(digits) {
			break
		}
		switch digits = strings.TrimLeft(digits, "0"); {
		case digits == "":
			return 0, &Error{fmt.Sprintf("%q is nothing", s), form}
		case len(digits) > u.digits:
			return 0, &Error{fmt.Sprintf("%q is too large", s), "at most " + strings.Repeat("9", u.digits) + u.suffix}
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		hi, lo := bits.Mul64(uint64(n), uint64(u.bytes))
		if err != nil || hi != 0 || lo >= 1<<62 {
			panic("size: the digits of a unit are not limited") // units ensures it
		}
		return int64(lo), nil
	}
	return 0, &Error{fmt.Sprintf("%q is not a size", s), form}
}

// ParseMemory is like Parse, and refuses less than MinMemory, which no process can live with.
func ParseMemory(s string) (int64, error) {
	n, err := Parse(s)
	if err == nil && n < MinMemory {
		return 0, &Error{fmt.Sprintf("%q is less than 1Mi", s), "1Mi or more: 512Mi"}
	}
	return n, err
}

// ParseCores returns a number of processor cores above zero, such as 0.5, in thousandths. All errors
// are of type *Error.
func ParseCores(s string) (milli int64, err error) {
	if m := coresRE.FindStringSubmatch(s); m != nil {
		cores, _ := strconv.ParseInt(m[1], 10, 64)
		part, _ := strconv.ParseInt((m[2] + "000")[:3], 10, 64)
		milli = cores*1000 + part
	}
	if milli == 0 {
		return 0, &Error{fmt.Sprintf("%q is not a number of cores above zero", s), "for example '0.5' or '2'"}
	}
	return milli, nil
}

// MemoryPatterns returns regular expressions which together match exactly what ParseMemory accepts,
// in the syntax that Go and JSON Schema share.
func MemoryPatterns() []string {
	const from1024 = `(102[4-9]|10[3-9][0-9]|1[1-9][0-9]{2}|[2-9][0-9]{3}|[1-9][0-9]{4,14})Ki`
	const from1049 = `(1049|10[5-9][0-9]|1[1-9][0-9]{2}|[2-9][0-9]{3}|[1-9][0-9]{4,14})[kK]`
	const from2M = `([2-9]|[1-9][0-9]{1,11})M`
	return []string{`^0*(` + strings.Join([]string{from1024, `[1-9][0-9]{0,11}Mi`, `[1-9][0-9]{0,8}Gi?`, `[1-9][0-9]{0,5}Ti?`, from1049, from2M}, "|") + `)$`}
}

// CoresPatterns returns regular expressions which together match exactly what ParseCores accepts.
func CoresPatterns() []string {
	return []string{`^[0-9]{1,6}(\.[0-9]{1,3})?$`, `[1-9]`}
}

// Format returns n bytes in the unit that gives the smallest whole number. What no unit divides is
// rounded up to a multiple of 1 KiB, since memory is managed in larger pages anyway.
func Format(n int64) string {
	best, suffix := (n+1023)/1024, "Ki"
	for _, u := range units {
		if n%u.bytes == 0 && n/u.bytes < best {
			best, suffix = n/u.bytes, u.suffix
		}
	}
	return strconv.FormatInt(best, 10) + suffix
}

// WithUnit returns what was probably meant by a number without a unit: a large number is one of
// bytes, a small one of mebibytes.
func WithUnit(digits string) string {
	if n, err := strconv.ParseInt(digits, 10, 60); err == nil && n >= MinMemory {
		return Format(n)
	}
	return digits + "Mi"
}
