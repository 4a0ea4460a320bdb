package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A side is one of those that run the same containers: how it starts them all,
// changes one, and takes them away.
type side struct {
	name     string
	dir      string
	up, down []string
	write    func(dir, word string) error // word is what the changed service says

	took map[string][]time.Duration // what was done → how long it took
}

// idler is what the containers hold: a static program that listens and waits to be ended.
const idler = `package main

import (
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	if _, err := net.Listen("tcp", ":8080"); err != nil {
		panic(err)
	}
	<-end
}
`

// besideCompose lets defx and docker compose run the same services on the
// engine that is here, in turns. All make equal containers of one image that is
// there already.
func besideCompose(dir, program, compose string, services int) error {
	for _, name := range []string{"plain", "ready", "theirs", "idler"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(put(dir, "idler/main.go", idler), put(dir, "idler/go.mod", "module idler\n\ngo 1.24\n")); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "plain", "idler"), ".")
	build.Dir, build.Env = filepath.Join(dir, "idler"), append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building what the containers hold: %v\n%s", err, out)
	}
	os.Remove(filepath.Join(dir, "ready", "idler"))
	if err := os.Link(filepath.Join(dir, "plain", "idler"), filepath.Join(dir, "ready", "idler")); err != nil {
		return err
	}
	ours := func(name, folder, ready string) *side {
		deployment := fmt.Sprintf("beside-%s-%d", folder, os.Getpid()) // machines remember deployments
		return &side{name: name, dir: filepath.Join(dir, folder), up: []string{program, "apply", "--yes"}, down: []string{program, "destroy", "--yes", "--confirm", "default"},
			write: func(dir, word string) error {
				lib := fmt.Sprintf("local defx = import 'defx/v1.libsonnet';\nlocal idler = defx.artifact('./idler');\n"+
					"{ ['s%%d' %% i]: { service: { package: idler, command: ['idler'], ports: { http: 20000 + i }, env: { WORD: if i == 7 then '%s' else 'idle' }%s },\n"+
					"    docker: { init: false, publish: false, ports: { http: 8080 } } } for i in std.range(0, %d) }\n", word, ready, services-1)
				return errors.Join(put(dir, "many.libsonnet", lib), put(dir, "defx.jsonnet", "{ name: '"+deployment+
					"', libs: { many: import 'many.libsonnet' }, machines: { here: { connect: 'local' } }, defaults: { backend: 'docker' } }\n"))
			}}
	}
	theirs := func(name string, more ...string) *side {
		return &side{name: name, dir: filepath.Join(dir, "theirs"), up: append([]string{compose, "-p", "theirs", "up", "-d"}, more...),
			down: []string{compose, "-p", "theirs", "down", "-v", "-t", "1"}, write: func(dir, word string) error {
				var file strings.Builder
				file.WriteString("services:\n")
				for i := range services {
					w := "idle"
					if i == 7 {
						w = word
					}
					fmt.Fprintf(&file, `  s%d:
    image: bench-idler
    entrypoint: [/app/idler]
    environment: { WORD: %s, PATH: /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin }
    user: "%d:%d"
    working_dir: /app
    read_only: true
    restart: always
    cap_drop: [ALL]
    security_opt: [no-new-privileges]
    tmpfs: ["/tmp:mode=1777"]
    logging: { driver: json-file, options: { max-size: 10m, max-file: "3" } }
    volumes: ["./passwd:/etc/passwd:ro", "./group:/etc/group:ro"]
`, i, w, 200000+i, 200000+i)
				}
				return errors.Join(put(dir, "compose.yaml", file.String()), put(dir, "passwd", "app:x:200000:200000::/:/sbin/nologin\n"), put(dir, "group", "app:x:200000:\n"))
			}}
	}
	sides := []*side{ours("defx", "plain", ""), ours("defx, `ready.tcp`", "ready", ", ready: { tcp: true, port: 'http' }"), theirs("Compose"), theirs("Compose `--wait`", "--wait")}
	for _, s := range sides {
		s.took = map[string][]time.Duration{}
	}

	// Both once, unmeasured: then the image is there, and all have been read.
	first := sides[0]
	if _, err := first.do("warm", first.up); err != nil {
		return err
	}
	image, err := exec.Command("docker", "ps", "-a", "--filter", "label=dev.defx.unit", "--format", "{{.Image}}").Output()
	if err != nil || len(image) == 0 {
		return fmt.Errorf("nothing runs that defx started: %v", err)
	}
	tag, _, _ := strings.Cut(string(image), "\n")
	if out, err := exec.Command("docker", "tag", tag, "bench-idler").CombinedOutput(); err != nil {
		return fmt.Errorf("%v\n%s", err, out)
	}
	defer exec.Command("docker", "rmi", "bench-idler").Run()
	if _, err := first.do("", first.down); err != nil {
		return err
	}
	for round := range *runs {
		for i := range sides {
			if err := sides[(i+round)%len(sides)].round(round); err != nil {
				return err
			}
		}
	}
	fmt.Printf("| seconds, median (least) of %d rounds |", *runs)
	for _, s := range sides {
		fmt.Printf(" %s |", s.name)
	}
	fmt.Printf("\n|---|%s\n", strings.Repeat("---|", len(sides)))
	for _, what := range []string{nothingToDo, oneChange, firstStart} {
		fmt.Printf("| %s |", what)
		for _, s := range sides {
			t := s.took[what]
			slices.Sort(t)
			fmt.Printf(" %.2f (%.2f) |", t[len(t)/2].Seconds(), t[0].Seconds())
		}
		fmt.Println()
	}
	return nil
}

const nothingToDo, oneChange, firstStart = "nothing to do", "one changed variable", "first start"

func (s *side) round(n int) error {
	for _, step := range []struct{ what, word string }{
		{firstStart, "first"}, {nothingToDo, ""}, {nothingToDo, ""}, {nothingToDo, ""}, {oneChange, "a"}, {oneChange, "b"}, {oneChange, "c"}} {
		took, err := s.do(step.word, s.up)
		if err != nil {
			return err
		}
		s.took[step.what] = append(s.took[step.what], took)
	}
	_, err := s.do("", s.down)
	return err
}

// do runs a command, after the file says word (empty: what it says already).
func (s *side) do(word string, command []string) (time.Duration, error) {
	if word != "" {
		if err := s.write(s.dir, word); err != nil {
			return 0, err
		}
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = s.dir
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %v\n%s", s.name, err, said.String())
	}
	return time.Since(begun), nil
}
