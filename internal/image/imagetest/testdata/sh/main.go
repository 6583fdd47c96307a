// Command sh is the only program of the tests' base image. As `sh -c SCRIPT` it
// runs commands that are joined by "&&".
package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	if len(os.Args) != 3 || os.Args[1] != "-c" {
		fmt.Fprintln(os.Stderr, "usage: sh -c SCRIPT")
		os.Exit(2)
	}
	for command := range strings.SplitSeq(os.Args[2], "&&") {
		if err := run(strings.Fields(command)); err != nil {
			fmt.Fprintln(os.Stderr, "sh:", err)
			os.Exit(3)
		}
	}
}

func run(words []string) error {
	switch words[0] {
	case "echo":
		fmt.Println(strings.Join(words[1:], " "))
		return nil
	case "exit":
		code, err := strconv.Atoi(words[1])
		if err != nil {
			return err
		}
		os.Exit(code)
	case "write":
		return os.WriteFile(words[1], []byte(strings.Join(words[2:], " ")+"\n"), 0o644)
	case "cat":
		b, err := os.ReadFile(words[1])
		fmt.Print(string(b))
		return err
	case "sleep":
		d, err := time.ParseDuration(words[1])
		time.Sleep(d)
		return err
	case "reach", "shun": // a TCP address that must, or must not, be reachable
		conn, err := net.DialTimeout("tcp", words[1], time.Second)
		if err == nil {
			conn.Close()
		}
		if (err == nil) != (words[0] == "reach") {
			return fmt.Errorf("%s %s: %v", words[0], words[1], err)
		}
		return nil
	}
	return fmt.Errorf("no command %q", words[0])
}
