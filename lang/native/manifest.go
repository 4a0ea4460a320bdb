package native

import "strings"

func init() {
	register("ini", func(a []any) (any, error) {
		var b strings.Builder
		for _, l := range a[0].([]any) {
			if line := l.([]any); len(line) == 1 {
				b.WriteString("[" + text(line[0]) + "]\n")
			} else {
				b.WriteString(text(line[0]) + " = " + text(line[1]) + "\n")
			}
		}
		return b.String(), nil
	}, "lines")
}
