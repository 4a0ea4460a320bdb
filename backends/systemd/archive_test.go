package systemd

import (
	"os"
	"strings"
)

// archive is a txtar file: named sections, each after a line "-- name --".
type archive struct {
	comment  string
	sections []section
}

type section struct{ name, data string }

func readArchive(file string) (*archive, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	a := &archive{}
	for line := range strings.Lines(string(b)) {
		name, is := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "-- ")
		name, ends := strings.CutSuffix(name, " --")
		switch n := len(a.sections); {
		case is && ends:
			a.sections = append(a.sections, section{name: name})
		case n == 0:
			a.comment += line
		default:
			a.sections[n-1].data += line
		}
	}
	return a, nil
}

func (a *archive) add(name, data string) {
	if data != "" && !strings.HasSuffix(data, "\n") {
		data += "\n"
	}
	a.sections = append(a.sections, section{name, data})
}

func (a *archive) String() string {
	var b strings.Builder
	b.WriteString(a.comment)
	for _, s := range a.sections {
		b.WriteString("-- " + s.name + " --\n" + s.data)
	}
	return b.String()
}
