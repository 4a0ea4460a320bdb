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

// contender is a way to run the containers that are compared.
type contender struct {
	name     string
	dir      string
	up, down []string
	write    func(dir, value string) error // writes the deployment; value is a variable of one service

	durations map[string][]time.Duration // by step
}

// idler is the program in the containers: static, it listens and waits for a signal.
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

// compareCompose measures how long defx and docker compose take, in turns, to run
// the same services on the local engine. All create equal containers from one
// image, which exists before.
func compareCompose(dir, program, compose string, services int) error {
	for _, name := range []string{"plain", "ready", "compose", "idler"} {
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
		return fmt.Errorf("building the program for the containers: %v\n%s", err, out)
	}
	os.Remove(filepath.Join(dir, "ready", "idler"))
	if err := os.Link(filepath.Join(dir, "plain", "idler"), filepath.Join(dir, "ready", "idler")); err != nil {
		return err
	}
	newDefx := func(name, folder, ready string) *contender {
		deployment := fmt.Sprintf("bench-%s-%d", folder, os.Getpid()) // a new name, because machines keep records of deployments
		return &contender{name: name, dir: filepath.Join(dir, folder), up: []string{program, "apply", "--yes"}, down: []string{program, "destroy", "--yes", "--confirm", "default"},
			write: func(dir, value string) error {
				lib := fmt.Sprintf("local defx = import 'defx/v1.libsonnet';\nlocal idler = defx.artifact('./idler');\n"+
					"{ ['s%%d' %% i]: { service: { package: idler, command: ['idler'], ports: { http: 20000 + i }, env: { VALUE: if i == 7 then '%s' else 'idle' }%s },\n"+
					"    docker: { init: false, publish: false, ports: { http: 8080 } } } for i in std.range(0, %d) }\n", value, ready, services-1)
				return errors.Join(put(dir, "many.libsonnet", lib), put(dir, "defx.jsonnet", "{ name: '"+deployment+
					"', libs: { many: import 'many.libsonnet' }, machines: { here: { connect: 'local' } }, defaults: { backend: 'docker' } }\n"))
			}}
	}
	newCompose := func(name string, more ...string) *contender {
		return &contender{name: name, dir: filepath.Join(dir, "compose"), up: append([]string{compose, "-p", "bench", "up", "-d"}, more...),
			down: []string{compose, "-p", "bench", "down", "-v", "-t", "1"}, write: func(dir, value string) error {
				var file strings.Builder
				file.WriteString("services:\n")
				for i := range services {
					v := "idle"
					if i == 7 {
						v = value
					}
					fmt.Fprintf(&file, `  s%d:
    image: bench-idler
    entrypoint: [/app/idler]
    environment: { VALUE: %s, PATH: /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin }
    user: "%d:%d"
    working_dir: /app
    read_only: true
    restart: always
    cap_drop: [ALL]
    security_opt: [no-new-privileges]
    tmpfs: ["/tmp:mode=1777"]
    logging: { driver: json-file, options: { max-size: 10m, max-file: "3" } }
    volumes: ["./passwd:/etc/passwd:ro", "./group:/etc/group:ro"]
`, i, v, 200000+i, 200000+i)
				}
				return errors.Join(put(dir, "compose.yaml", file.String()), put(dir, "passwd", "app:x:200000:200000::/:/sbin/nologin\n"), put(dir, "group", "app:x:200000:\n"))
			}}
	}
	contenders := []*contender{newDefx("defx", "plain", ""), newDefx("defx, `ready.tcp`", "ready", ", ready: { tcp: true, port: 'http' }"), newCompose("Compose"), newCompose("Compose `--wait`", "--wait")}
	for _, s := range contenders {
		s.durations = map[string][]time.Duration{}
	}

	// One start that is not measured creates the image and fills the file cache.
	first := contenders[0]
	if _, err := first.do("warm", first.up); err != nil {
		return err
	}
	image, err := exec.Command("docker", "ps", "-a", "--filter", "label=dev.defx.unit", "--format", "{{.Image}}").Output()
	if err != nil || len(image) == 0 {
		return fmt.Errorf("defx started no container: %v", err)
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
		for i := range contenders {
			if err := contenders[(i+round)%len(contenders)].round(round); err != nil {
				return err
			}
		}
	}
	fmt.Printf("| seconds, median (minimum) of %d rounds |", *runs)
	for _, s := range contenders {
		fmt.Printf(" %s |", s.name)
	}
	fmt.Printf("\n|---|%s\n", strings.Repeat("---|", len(contenders)))
	for _, step := range []string{noChanges, oneChange, firstStart} {
		fmt.Printf("| %s |", step)
		for _, s := range contenders {
			t := s.durations[step]
			slices.Sort(t)
			fmt.Printf(" %.2f (%.2f) |", t[len(t)/2].Seconds(), t[0].Seconds())
		}
		fmt.Println()
	}
	return nil
}

// Steps that are measured.
const noChanges, oneChange, firstStart = "no changes", "one changed variable", "first start"

// round measures all steps once.
func (s *contender) round(n int) error {
	for _, step := range []struct{ name, value string }{
		{firstStart, "first"}, {noChanges, ""}, {noChanges, ""}, {noChanges, ""}, {oneChange, "a"}, {oneChange, "b"}, {oneChange, "c"}} {
		took, err := s.do(step.value, s.up)
		if err != nil {
			return err
		}
		s.durations[step.name] = append(s.durations[step.name], took)
	}
	_, err := s.do("", s.down)
	return err
}

// do runs a command and returns how long it took. Unless value is empty, it writes
// the deployment with value first.
func (s *contender) do(value string, command []string) (time.Duration, error) {
	if value != "" {
		if err := s.write(s.dir, value); err != nil {
			return 0, err
		}
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = s.dir
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %v\n%s", s.name, err, output.String())
	}
	return time.Since(begun), nil
}
