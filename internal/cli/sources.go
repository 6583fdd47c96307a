package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/spec"
)

const (
	// commandLimit is how long a command that gives a secret may take.
	commandLimit = time.Minute
	// maxValues bounds all that a service is given, in bytes.
	maxValues = 8 << 20
	// ageOverhead is what encryption may add to a value.
	ageOverhead = 64 << 10
)

// checkSources finds the files that secrets and configuration files come from.
// What commands and the daemon give is not asked for here.
func (a *app) checkSources(s *spec.Service) (diags spec.Diagnostics) {
	check := func(from spec.Source) {
		if from.Kind != spec.FromFile && from.Kind != spec.FromAge {
			return
		}
		path := a.besideDeclaration(from.Path)
		if err := regular(path); err != nil {
			diags = append(diags, from.Diagnose(nearHint(path), "cannot read %s: %s", path, err))
		}
	}
	for _, x := range s.Secrets {
		check(x.From)
	}
	for _, x := range s.Config {
		check(x.From)
	}
	return diags
}

func nearHint(path string) string {
	if near := nearFile(path, false); near != "" {
		return "did you mean \"" + near + "\"?"
	}
	return ""
}

// besideDeclaration returns a path that begins at the declaration's directory.
func (a *app) besideDeclaration(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(a.opts.file), path)
}

// values takes what a service's servers are given from where it comes, before
// anything else is done. No error has a value in it.
func (a *app) values(ctx context.Context, s *spec.Service) (api.Values, error) {
	var v api.Values
	if diags := a.checkSources(s); len(diags) > 0 {
		return v, diags
	}
	total := 0
	for _, x := range s.Secrets {
		given, err := a.secret(ctx, x)
		if err != nil {
			return api.Values{}, err
		}
		total += len(given.Value) + len(given.Age)
		v.Secrets = append(v.Secrets, given)
	}
	for _, x := range s.Config {
		content := []byte(x.From.Content)
		if x.From.Kind == spec.FromFile {
			var err error
			if content, err = a.file(x.From, model.MaxValue); err != nil {
				return api.Values{}, err
			}
		}
		if len(content) > model.MaxValue {
			return api.Values{}, tooLarge(x.From, model.MaxValue)
		}
		total += len(content)
		v.Config = append(v.Config, api.ConfigValue{Path: x.Path, Content: content})
	}
	if total > maxValues {
		return api.Values{}, invalid("cannot deploy %s: its secrets and configuration files have %d bytes, and together at most %d", s.Name, total, maxValues).
			WithHint("what is large belongs into the image or into a volume")
	}
	return v, nil
}

func (a *app) secret(ctx context.Context, x spec.Secret) (v api.SecretValue, err error) {
	v.Name = x.Name
	switch x.From.Kind {
	case spec.FromEnv:
		v.Env = x.From.Name
	case spec.FromAge:
		v.Age, err = a.file(x.From, model.MaxValue+ageOverhead)
	case spec.FromCommand:
		v.Value, err = a.output(ctx, x, commandLimit)
	default:
		v.Value, err = a.file(x.From, model.MaxValue)
	}
	if err == nil && v.Env == "" && len(v.Value)+len(v.Age) == 0 {
		err = spec.Diagnostics{x.From.Diagnose("a secret has at least one byte", "the value of secret %s is empty", x.Name)}
	}
	return v, err
}

// file reads a file of at most so many bytes.
func (a *app) file(from spec.Source, most int64) ([]byte, error) {
	path := a.besideDeclaration(from.Path)
	f, err := os.Open(path)
	if err != nil {
		return nil, spec.Diagnostics{from.Diagnose("", "cannot read %s: %s", path, readFailure(err))}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	switch {
	case err != nil:
		return nil, spec.Diagnostics{from.Diagnose("", "cannot read %s: %s", path, readFailure(err))}
	case int64(len(b)) > most:
		return nil, tooLarge(from, most)
	}
	return b, nil
}

func tooLarge(from spec.Source, most int64) spec.Diagnostics {
	return spec.Diagnostics{from.Diagnose("what is large belongs into the image or into a volume", "it has more than the %s that a value may have", model.SizeText(most))}
}

// output runs a secret's command, with the rights of who deploys, in the
// declaration's directory, and returns what it writes.
func (a *app) output(ctx context.Context, x spec.Secret, limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	name := x.From.Command[0]
	failed := func(hint, format string, args ...any) error {
		what := fmt.Sprintf("cannot get secret %s from the command %s: ", x.Name, name)
		return &exitError{exitFailed, spec.Diagnostics{x.From.Diagnose(hint, "%s", what+fmt.Sprintf(format, args...))}}
	}
	cmd := exec.CommandContext(ctx, name, x.From.Command[1:]...)
	cmd.Dir = filepath.Dir(a.opts.file)
	cmd.Stderr = a.Stderr
	out := &bounded{most: model.MaxValue, full: cancel}
	cmd.Stdout = out
	// What it starts ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	exited, _ := errors.AsType[*exec.ExitError](err)
	switch {
	case out.over:
		return nil, failed("what is large belongs into the image or into a volume", "it writes more than the %s that a value may have", model.SizeText(model.MaxValue))
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, failed("it must not ask anything: nobody is there to answer", "it has not ended within %s", limit)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case exited != nil:
		return nil, failed("nothing was deployed", "it ended with %s", exited.ProcessState)
	case err != nil:
		return nil, failed("it is run without a shell, in the directory of "+a.opts.file, "%s", readFailure(err))
	}
	return out.kept, nil
}

// bounded keeps what is written to it, up to a bound.
type bounded struct {
	kept []byte
	most int
	full func()
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.kept)+len(p) > b.most {
		b.over = true
		b.full()
		return len(p), nil
	}
	b.kept = append(b.kept, p...)
	return len(p), nil
}
