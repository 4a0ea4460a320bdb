// Command multi-tool is the only program of containers in tests. Its arguments are executed
// one after the other:
//
//	write FILE TEXT   append a line
//	wants FILE        exit with code 4 if the file does not exist
//	begins FILE TEXT  exit with code 6 unless the file begins with the text
//	say TEXT          print a line
//	fail CODE         exit with this code
//	get URL           print the response; exit with code 5 unless its status is 200
//	serve ADDRESS     answer every request with the value of WHO; SIGHUP appends
//	                  the content of $RELOADS to $STATE_DIRECTORY/reloads
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	args := os.Args[1:]
	next := func() string {
		if len(args) == 0 {
			fmt.Println("an argument is missing")
			os.Exit(2)
		}
		w := args[0]
		args = args[1:]
		return os.Expand(w, os.Getenv)
	}
	check := func(err error, code int) {
		if err != nil {
			fmt.Println(err)
			os.Exit(code)
		}
	}
	line := func(file, text string) {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		check(err, 3)
		_, err = fmt.Fprintln(f, text)
		check(err, 3)
		check(f.Close(), 3)
	}
	for len(args) > 0 {
		switch verb := next(); verb {
		case "write":
			file := next()
			line(file, next())
		case "wants":
			_, err := os.Stat(next())
			check(err, 4)
		case "begins":
			raw, err := os.ReadFile(next())
			check(err, 3)
			if want := next(); !strings.HasPrefix(string(raw), want) {
				fmt.Printf("it does not begin with %s\n", want)
				os.Exit(6)
			}
		case "say":
			fmt.Println(next())
		case "fail":
			code, _ := strconv.Atoi(next())
			os.Exit(code)
		case "sleep":
			d, err := time.ParseDuration(next())
			check(err, 2)
			time.Sleep(d)
		case "get":
			client := http.Client{Timeout: 5 * time.Second}
			res, err := client.Get(next())
			check(err, 5)
			raw, _ := io.ReadAll(res.Body)
			fmt.Printf("%s", raw)
			if res.StatusCode != 200 {
				os.Exit(5)
			}
		case "serve":
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			go func() {
				for range hup {
					raw, err := os.ReadFile(os.Getenv("RELOADS"))
					check(err, 3)
					line(os.Getenv("STATE_DIRECTORY")+"/reloads", string(raw))
				}
			}()
			http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
				if url := r.URL.Query().Get("ask"); url != "" { // from this program's point of view
					res, err := http.Get(url)
					if err != nil {
						http.Error(w, err.Error(), 502)
						return
					}
					defer res.Body.Close()
					io.Copy(w, res.Body)
					return
				}
				fmt.Fprintln(w, os.Getenv("WHO"))
			})
			fmt.Println("serving")
			check(http.ListenAndServe(next(), nil), 6)
		default:
			fmt.Println("unknown command:", verb)
			os.Exit(2)
		}
	}
}
