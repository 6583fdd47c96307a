package daemon

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"kiln/internal/api"
	"kiln/internal/image"
	"kiln/internal/image/builder"
	"kiln/internal/lock"
	"kiln/internal/model"
	"kiln/internal/sign"
)

// inputs tells the API of what builds have fetched.
type inputs struct{ store *image.Store }

// Check implements server.Inputs.
func (i inputs) Check(ctx context.Context, digests []model.Digest) (api.InputsReport, error) {
	report := api.InputsReport{Absent: []model.Digest{}, Damaged: []model.Digest{}}
	for _, d := range digests {
		whole, err := i.whole(ctx, d)
		switch {
		case model.CodeOf(err) == model.NotFound:
			report.Absent = append(report.Absent, d)
		case err != nil:
			return report, err
		case !whole:
			report.Damaged = append(report.Damaged, d)
		}
	}
	return report, nil
}

func (i inputs) whole(ctx context.Context, d model.Digest) (bool, error) {
	in, err := i.store.OpenInput(ctx, d)
	if err != nil {
		return false, err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return false, model.Errorf(model.Unavailable, "cannot read %s: %w", d, err)
	}
	return ctx.Err() == nil && fmt.Sprintf("sha256:%x", h.Sum(nil)) == string(d), ctx.Err()
}

// lockOf is what the builder is told of the lock file.
func lockOf(req api.BuildRequest) *builder.Lock {
	if req.Lock == nil {
		return nil
	}
	return &builder.Lock{
		File: req.Lock.File, Service: req.Service, Text: req.Lock.Text,
		Sealed: req.Lock.Sealed, Update: req.Lock.Update, Only: req.Lock.Only,
	}
}

// lockedInputs are what an image was made from, as a provenance has it, beside the
// bases, which it has anyway.
func lockedInputs(entries []lock.Entry) []sign.Input {
	var list []sign.Input
	for _, e := range entries {
		in := sign.Input{URI: e.Name, Commit: e.Commit, Annotations: map[string]any{"kind": string(e.Kind)}}
		if e.Digest != "" {
			in.Digests = []digest.Digest{digest.Digest(e.Digest)}
		}
		if e.Range != "" {
			in.Annotations["range"] = e.Range
		}
		if e.Kind != lock.Base && e.Kind != lock.Head {
			list = append(list, in)
		}
	}
	return list
}

// lockSection reads what a service's image is made from out of the text that a
// build has ended with.
func lockSection(l *api.Lock, service string) []lock.Entry {
	if l == nil {
		return nil
	}
	file, err := lock.Parse(l.File, []byte(l.Text))
	if err != nil {
		return nil // it was written by this process
	}
	if s := file.Service(service); s != nil {
		return s.Entries
	}
	return nil
}

// relock returns the text of the lock file with what a service was made from.
func relock(l *api.Lock, service string, entries []lock.Entry) (string, error) {
	file := &lock.File{}
	if l.Text != "" {
		var err error
		if file, err = lock.Parse(l.File, []byte(l.Text)); err != nil {
			return "", err
		}
	}
	if entries == nil {
		entries = []lock.Entry{}
	}
	return file.With(service, entries).String(), nil
}
