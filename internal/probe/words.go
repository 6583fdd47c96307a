package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// excerptLimit is how many bytes of an answer or an output are shown.
const excerptLimit = 200

// excerpt returns the first bytes of b as text fit for a terminal and a log.
func excerpt(b []byte) string {
	more := ""
	if len(b) > excerptLimit {
		b, more = b[:excerptLimit], "…"
	}
	for len(b) > 0 && more != "" && !utf8.Valid(b) && len(b) > excerptLimit-utf8.UTFMax { // a rune cut in two
		b = b[:len(b)-1]
	}
	return printable(b) + more
}

// tail returns the last bytes of b likewise.
func tail(b []byte) string {
	b = bytes.TrimSpace(b)
	more := ""
	if len(b) > excerptLimit {
		b, more = b[len(b)-excerptLimit:], "…"
	}
	for len(b) > 0 && more != "" && !utf8.RuneStart(b[0]) {
		b = b[1:]
	}
	return more + printable(b)
}

func printable(b []byte) string {
	text := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '.'
		default:
			return r
		}
	}, string(b))
	return strings.Join(strings.Fields(text), " ")
}

// quoted adds an excerpt to words, if there is anything to show.
func quoted(text string) string {
	if text == "" {
		return ""
	}
	return `: "` + text + `"`
}

// took formats a duration for people.
func took(d time.Duration) string {
	if d < time.Millisecond {
		return d.Round(time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}

// reason says why a connection or an answer could not be had.
func reason(err error, connected bool, limit time.Duration) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused the connection: nothing listens there"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		if connected {
			return fmt.Sprintf("took the connection and did not answer within %s", limit)
		}
		return fmt.Sprintf("did not take a connection within %s", limit)
	case errors.Is(err, syscall.ECONNRESET):
		return "reset the connection"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed the connection without an answer"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "cannot be reached: there is no way to its address"
	default:
		return "failed: " + err.Error()
	}
}
