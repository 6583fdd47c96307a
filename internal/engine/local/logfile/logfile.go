// Package logfile keeps what a server writes: a process of its own for each
// server takes the lines from the server's pipes, stamps them and keeps the
// last ones in two files, so that nothing is lost while the daemon or
// containerd is away, and nothing that happens to the disk holds up the server.
//
// A line is "NANOSECONDS STREAM TEXT\n": nanoseconds since 1970, o, e or k for
// standard output, standard error and kiln's own remarks, and the text as it was
// written. Lines longer than MaxLine are cut into several. A second file begins
// with a remark b, how much was written before it: it is told as k once that is
// not kept any more.
package logfile

import (
	"bytes"
	"path/filepath"
	"strconv"
	"time"
)

// Bounds of what is kept.
const (
	MaxLine = 16 << 10 // bytes of one line
	maxFile = 8 << 20  // bytes of one of the two files
)

// Stream says where a line comes from.
type Stream byte

// The streams.
const (
	Stdout Stream = 'o'
	Stderr Stream = 'e'
	Kiln   Stream = 'k' // remarks of the logger: what could not be kept
	before Stream = 'b' // the remark that a second file begins with
)

// String returns the stream's name.
func (s Stream) String() string {
	switch s {
	case Stdout:
		return "stdout"
	case Stderr:
		return "stderr"
	default:
		return "kiln"
	}
}

// Line is one line of a log.
type Line struct {
	At     time.Time
	Stream Stream
	Text   string
}

func current(dir string) string  { return filepath.Join(dir, "current") }
func previous(dir string) string { return filepath.Join(dir, "previous") }

func appendLine(dst []byte, at time.Time, s Stream, text []byte) []byte {
	dst = strconv.AppendInt(dst, at.UnixNano(), 10)
	dst = append(dst, ' ', byte(s), ' ')
	dst = append(dst, text...)
	return append(dst, '\n')
}

// parseLine reads a line without its newline; false if it is none, as the rest
// of one whose beginning was not read.
func parseLine(b []byte) (Line, bool) {
	stamp, rest, ok := bytes.Cut(b, []byte(" "))
	if !ok || len(rest) < 2 || rest[1] != ' ' {
		return Line{}, false
	}
	switch Stream(rest[0]) {
	case Stdout, Stderr, Kiln, before:
	default:
		return Line{}, false
	}
	nanos, err := strconv.ParseInt(string(stamp), 10, 64)
	if err != nil {
		return Line{}, false
	}
	return Line{At: time.Unix(0, nanos).UTC(), Stream: Stream(rest[0]), Text: string(rest[2:])}, true
}
