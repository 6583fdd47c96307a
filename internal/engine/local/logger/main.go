// Command logger keeps what one server writes; see package logfile. It is a
// program of its own, and not the shim under another name, because there is one
// for each server: alone it takes 1 MB of memory and a millisecond to start.
package main

import (
	"fmt"
	"os"

	"kiln/internal/engine/local/logfile"
)

func main() {
	if err := logfile.RunLogger(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
