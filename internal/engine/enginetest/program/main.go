// Command program is what the servers of the conformance suite run: a small
// static program that acts by its arguments, so that one image stands for every
// kind of server.
//
//	program serve PORT       answer HTTP on the port; a signal n ends it with status 10+n
//	program exit CODE        end at once
//	program ignore-term      run on through SIGTERM, SIGINT, SIGQUIT and SIGHUP
//	program spew N           write N lines to each stream, then wait
//	program lines N          write N lines to standard output, then end
//	program env NAME         print a variable, then end
//	program hostname         print the host name, then end
//	program id               print user and group id, then end
//	program write PATH       write a file; status 1 if that is refused
//	program echo             copy standard input to standard output, and say "end" on standard error
//	program size             print the terminal's size, and again whenever it changes, until SIGTERM
//	program leave            start "ignore-term", print "left" and end
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		fail("no argument")
	}
	argument := ""
	if len(os.Args) > 2 {
		argument = os.Args[2]
	}
	switch os.Args[1] {
	case "serve":
		serve(argument)
	case "exit":
		os.Exit(number(argument))
	case "ignore-term":
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP)
		fmt.Println("ignoring signals")
		time.Sleep(time.Hour)
	case "spew":
		end := endings()
		for i := range number(argument) {
			fmt.Printf("stdout line %d\n", i+1)
			fmt.Fprintf(os.Stderr, "stderr line %d\n", i+1)
		}
		endAt(end)
	case "lines":
		for i := range number(argument) {
			fmt.Printf("line %d\n", i+1)
		}
	case "echo", "size", "leave":
		attend(os.Args[1])
	default:
		look(os.Args[1], argument)
	}
}

// attend does what a person at a terminal would see.
func attend(what string) {
	switch what {
	case "echo":
		if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
			fail(err.Error())
		}
		fmt.Fprintln(os.Stderr, "end")
	case "size":
		changes := make(chan os.Signal, 1)
		signal.Notify(changes, unix.SIGWINCH)
		go endAt(endings())
		for {
			size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
			if err != nil {
				fail(err.Error())
			}
			fmt.Printf("%d by %d\n", size.Col, size.Row)
			<-changes
		}
	case "leave":
		child := exec.Command("/proc/self/exe", "ignore-term")
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			fail(err.Error())
		}
		fmt.Println("left")
	}
}

// look prints what a server sees of its surroundings.
func look(what, argument string) {
	switch what {
	case "env":
		fmt.Println(os.Getenv(argument))
	case "hostname":
		name, err := os.Hostname()
		if err != nil {
			fail(err.Error())
		}
		fmt.Println(name)
	case "id":
		fmt.Printf("%d:%d\n", os.Getuid(), os.Getgid())
	case "write":
		if err := os.WriteFile(argument, []byte("written\n"), 0o600); err != nil {
			fail(err.Error())
		}
	default:
		fail("unknown argument " + what)
	}
}

func serve(port string) {
	server := &http.Server{
		Addr:              ":" + port,
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, "served")
		}),
	}
	end := endings()
	go func() {
		if err := server.ListenAndServe(); err != nil {
			fail(err.Error())
		}
	}()
	endAt(end)
}

// endings has the signals that end a program from now on. It is asked for
// before anything is said or served: whoever is answered may signal at once,
// and process 1 does not hear what it has no handler for.
func endings() <-chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1)
	return signals
}

func endAt(signals <-chan os.Signal) {
	if s, ok := (<-signals).(syscall.Signal); ok {
		os.Exit(10 + int(s))
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		fail("not a number: " + s)
	}
	return n
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(1)
}
