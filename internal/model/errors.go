package model

import (
	"errors"
	"fmt"
	"strings"
)

// Code is the closed set of error classes. API statuses and exit codes derive
// from it, so a new class is a change of the public interface.
type Code string

// The error classes.
const (
	Invalid      Code = "invalid"      // the input is wrong; the same again fails again
	NotFound     Code = "not_found"    // what was named does not exist
	Conflict     Code = "conflict"     // it exists already, differently, or somebody was first
	Precondition Code = "precondition" // the world is not in the state the call needs
	Unavailable  Code = "unavailable"  // cannot be reached or done now; may work later
	Denied       Code = "denied"       // not allowed
	Internal     Code = "internal"     // a defect of kiln
)

// Error is an error with a class and, where there is one, a way forward.
type Error struct {
	Code    Code
	Message string // what was attempted and what was seen
	Hint    string // what to do next; may be empty
	cause   error
}

// Error implements error. The hint is not part of it: whoever shows the error
// to a person shows the hint too.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause that was wrapped with %w, if any.
func (e *Error) Unwrap() error { return e.cause }

// WithHint returns a copy of e that says what to do next.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Errorf returns an Error of the class. %w wraps as in fmt.Errorf.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), cause: errors.Unwrap(err)}
}

// CodeOf returns the class of err: Internal when it carries none, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}

// HintOf returns what to do about err, or "".
func HintOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Hint
	}
	return ""
}

// Exhausted says what to do about an error that says, through however many
// processes it came, that the machine has run out of something: room on a disk,
// or open files. For any other error, and for nil, it is "".
func Exhausted(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	for _, words := range []string{"no space left on device", "disk quota exceeded", "database or disk is full"} {
		if strings.Contains(text, words) {
			return "make room on that disk and do it again; what serves is not touched"
		}
	}
	if strings.Contains(text, "too many open files") {
		return "let the daemon have more open files (ulimit -n, or LimitNOFILE of its unit) and start it again; what serves is not touched"
	}
	return ""
}
