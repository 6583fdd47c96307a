package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/spec"
)

// The exit codes. Where several services were asked for, the highest counts.
const (
	exitDone        = 0 // done, or nothing had to be done
	exitFailed      = 1 // it failed: a build, an image, a deployment; or it was refused
	exitInvalid     = 2 // the input is wrong: usage, declaration, a name that does not exist
	exitUnknown     = 3 // the verdict is unknown: contact lost, or the watching ended first
	exitUnreachable = 4 // the daemon cannot be reached
	exitChanges     = 5 // plan --detailed-exitcode: there are changes
)

// exitError is an error whose exit code is known. err may be nil: everything
// has been said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exit ends the program with a code; everything has been said.
func exit(code int) error {
	if code == exitDone {
		return nil
	}
	return &exitError{code: code}
}

// usageError is a wrong command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// exitCode returns the exit code for an error.
func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitInvalid
	}
	if _, ok := errors.AsType[spec.Diagnostics](err); ok {
		return exitInvalid
	}
	switch {
	case api.Unreachable(err):
		return exitUnreachable
	case api.Lost(err):
		return exitUnknown
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return exitUnknown
	}
	switch model.CodeOf(err) {
	case model.Invalid, model.NotFound:
		return exitInvalid
	default: // Conflict, Precondition, Denied: refused. Unavailable, Internal: it failed.
		return exitFailed
	}
}

// complain prints an error with what to do about it.
func complain(w io.Writer, err error) {
	if e, ok := errors.AsType[*exitError](err); ok && e.err == nil {
		return
	}
	if ds, ok := errors.AsType[spec.Diagnostics](err); ok {
		fmt.Fprintln(w, ds.Error())
		return
	}
	fmt.Fprintf(w, "kiln: %s\n", err)
	if hint := model.HintOf(err); hint != "" {
		fmt.Fprintf(w, "  %s\n", hint)
	}
}

// readFailure says why a file cannot be read, without the name twice.
func readFailure(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}
