package cli

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/spec"
)

// checkLists finds out whether the lists of vulnerabilities are there that a
// service's policy names.
func (a *app) checkLists(file *spec.File, s *spec.Service) (diags spec.Diagnostics) {
	for _, l := range s.Lists {
		path := a.beside(l.Path)
		if _, err := os.Stat(path); err != nil {
			hint := "https://osv.dev offers lists for download; the path is from this file's directory"
			if near := nearFile(path, true); near != "" {
				hint = "did you mean \"" + near + "\"?"
			}
			diags = append(diags, file.Diagnose(l.At, hint, "cannot read %s: %s", path, readFailure(err)))
		}
	}
	return diags
}

// beside is a path that is written from the declaration's directory.
func (a *app) beside(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(a.opts.file), path)
}

// sendLists brings the daemon the lists that a service's policy names, those that
// it has not, and names them in the policy by their digests.
func (a *app) sendLists(ctx context.Context, s *spec.Service) error {
	if len(s.Lists) == 0 {
		return nil
	}
	image, vulnerabilities := *s.Policy.Image, *s.Policy.Image.Vulnerabilities
	vulnerabilities.Lists = nil
	for _, l := range s.Lists {
		digest, err := a.sendList(ctx, l.Path)
		if err != nil {
			return err
		}
		vulnerabilities.Lists = append(vulnerabilities.Lists, model.VulnerabilityList{Name: l.Path, Digest: digest})
	}
	image.Vulnerabilities = &vulnerabilities
	s.Policy.Image = &image
	return nil
}

func (a *app) sendList(ctx context.Context, name string) (model.Digest, error) {
	list, err := openList(a.beside(name))
	if err != nil {
		return "", err
	}
	defer list.close()
	err = a.steady(ctx, func() error {
		_, err := a.api().List(ctx, list.digest)
		if model.CodeOf(err) != model.NotFound {
			return err
		}
		if _, err := list.Seek(0, io.SeekStart); err != nil {
			return invalid("cannot read %s: %w", name, readFailure(err))
		}
		sent, err := a.api().SendList(ctx, name, io.NopCloser(list.File)) // closed here, for it may be sent again
		if err == nil && sent.Digest != list.digest {
			err = model.Errorf(model.Conflict, "the list of vulnerabilities %s was changed while it was sent", name)
		}
		return err
	})
	return list.digest, err
}

// openedList is a list as it is sent.
type openedList struct {
	*os.File
	digest    model.Digest
	temporary bool
}

func (l *openedList) close() {
	_ = l.Close()
	if l.temporary {
		_ = os.Remove(l.Name())
	}
}

// openList opens a list: a file as it is, and a directory as an archive of its files
// that end in .json. The same files make the same archive.
func openList(path string) (*openedList, error) {
	st, err := os.Stat(path)
	var l *openedList
	switch {
	case err != nil:
	case st.IsDir():
		l = &openedList{temporary: true}
		if l.File, err = os.CreateTemp("", "kiln-list-"); err != nil {
			return nil, model.Errorf(model.Unavailable, "cannot pack the list of vulnerabilities %s: %w", path, err)
		}
		if err = packList(l.File, path); err == nil {
			_, err = l.Seek(0, io.SeekStart)
		}
	case !st.Mode().IsRegular():
		return nil, invalid("cannot read the list of vulnerabilities %s: it is neither a file nor a directory", path)
	default:
		l = &openedList{}
		l.File, err = os.Open(path)
	}
	sum := sha256.New()
	if err == nil {
		var n int64
		if n, err = io.Copy(sum, io.LimitReader(l.File, api.MaxList+1)); n > api.MaxList {
			err = errors.New("it is larger than " + model.SizeText(api.MaxList))
		}
	}
	if err != nil {
		if l != nil && l.File != nil {
			l.close()
		}
		return nil, invalid("cannot read the list of vulnerabilities %s: %w", path, readFailure(err))
	}
	l.digest = model.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))
	return l, nil
}

// packList writes the files of a directory that end in .json as an archive, by their
// names and without their times.
func packList(to io.Writer, dir string) error {
	z := zip.NewWriter(to)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".json") {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		from, err := os.Open(path)
		if err != nil {
			return err
		}
		defer from.Close()
		w, err := z.Create(filepath.ToSlash(name))
		if err == nil {
			_, err = io.Copy(w, from)
		}
		return err
	})
	return errors.Join(err, z.Close())
}
