package local

import (
	"errors"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"kiln/internal/model"
)

// loggerQuery encodes the logger's one argument: the shim passes on keys.
func loggerQuery(argument string) string { return url.QueryEscape(argument) }

// What the runtime says when a template can never run, although the image was
// looked into: permissions on the way to the program, as a rule.
var neverRuns = []string{
	"executable file not found", "no such file or directory: unknown", "permission denied", "exec format error",
	"not a directory", "is a directory",
}

// runtimeError reads what containerd, the shim and runc say of a start that
// failed.
func runtimeError(err error) error {
	native := errgrpc.ToNative(err)
	text := native.Error()
	if _, said, ok := strings.Cut(text, "runc create failed: "); ok {
		text = said
	}
	if errdefs.IsUnavailable(native) || errdefs.IsCanceled(native) || errdefs.IsDeadlineExceeded(native) {
		return containerdError(native, "start its process")
	}
	if _, said, ok := strings.Cut(text, "error during container init: "); ok {
		for _, words := range neverRuns {
			if strings.Contains(said, words) {
				return model.Errorf(model.Invalid, "the runtime cannot run it: %s", strings.TrimSuffix(said, ": unknown"))
			}
		}
	}
	return model.Errorf(model.Internal, "the runtime says: %w", errors.New(text))
}
