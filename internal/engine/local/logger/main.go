// Command logger keeps what one server writes; see package logfile. It is a
// program of its own, and not the shim under another name, because there is one
// for each server: alone it takes 1 MB of memory and a millisecond to start.
//
// For the same reason it is also what holds the mount namespace of a session in
// a server, and what disturbs one; see packages holder and disturb.
package main

import (
	"fmt"
	"os"

	"kiln/internal/engine/local/disturb"
	"kiln/internal/engine/local/holder"
	"kiln/internal/engine/local/logfile"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) > 0 && arguments[0] == holder.Command {
		return holder.Run(arguments[1:])
	}
	if len(arguments) > 0 && arguments[0] == disturb.Command {
		return disturb.Run(arguments[1:])
	}
	return logfile.RunLogger(arguments)
}
