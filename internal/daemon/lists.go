package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kiln/internal/api"
	"kiln/internal/contents"
	"kiln/internal/model"
)

// knownLists keeps the lists of vulnerabilities that policies name, by their digests.
type knownLists struct{ dir string }

// listKept is how long a list stays that no release names: whoever sent it is about
// to make one.
const listKept = 24 * time.Hour

// path is where a list is kept. What is no digest is nowhere.
func (l knownLists) path(d model.Digest) string { return filepath.Join(l.dir, fileOf(d)) }

func fileOf(d model.Digest) string {
	if !model.ValidDigest(string(d)) {
		return "none"
	}
	return strings.TrimPrefix(string(d), "sha256:")
}

// Has implements server.Lists.
func (l knownLists) Has(d model.Digest) bool {
	st, err := os.Stat(l.path(d))
	if err != nil {
		return false
	}
	now := time.Now()
	_ = os.Chtimes(l.path(d), now, now) // it is about to be used
	return st.Mode().IsRegular()
}

// Keep implements server.Lists.
func (l knownLists) Keep(_ context.Context, name string, r io.Reader) (api.List, error) {
	out := api.List{Name: name}
	cannot := func(err error) (api.List, error) {
		return out, model.Errorf(model.Unavailable, "cannot keep the list of vulnerabilities %s: %w", name, err)
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return cannot(err)
	}
	f, err := os.CreateTemp(l.dir, "new-")
	if err != nil {
		return cannot(err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	sum := sha256.New()
	if out.Size, err = io.Copy(io.MultiWriter(f, sum), io.LimitReader(r, api.MaxList+1)); err != nil {
		return cannot(err)
	}
	if out.Size > api.MaxList {
		return out, model.Errorf(model.Invalid, "cannot take the list of vulnerabilities %s: it is larger than %s", name, model.SizeText(api.MaxList))
	}
	report, err := contents.VulnerabilitiesAt(name, f, out.Size, nil)
	if err != nil {
		return out, err
	}
	out.Digest, out.Entries = model.Digest("sha256:"+hex.EncodeToString(sum.Sum(nil))), report.Entries
	if err := errors.Join(f.Sync(), os.Rename(f.Name(), l.path(out.Digest))); err != nil {
		return cannot(err)
	}
	return out, nil
}

// judge compares packages with a list that is kept, and is what its digest says: else
// it is taken away, so that it is sent again.
func (l knownLists) judge(list model.VulnerabilityList, packages []contents.Package) (contents.Report, error) {
	lacking := func(how string) (contents.Report, error) {
		return contents.Report{}, model.Errorf(model.Precondition, "the list of vulnerabilities %s (%s) %s", list.Name, list.Digest.Short(), how).
			WithHint("kiln deploy and kiln build send it again")
	}
	f, err := os.Open(l.path(list.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return lacking("is not here any more")
	}
	sum, size := sha256.New(), int64(0)
	if err == nil {
		defer f.Close()
		size, err = io.Copy(sum, f)
	}
	if err != nil {
		return contents.Report{}, model.Errorf(model.Unavailable, "cannot read the list of vulnerabilities %s: %w", list.Name, err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != fileOf(list.Digest) {
		_ = os.Remove(l.path(list.Digest)) // else it is found again
		return lacking("was changed where it is kept")
	}
	return contents.VulnerabilitiesAt(list.Name, f, size, packages)
}

// sweep removes lists that no release names, and what a daemon left that was killed
// while it took one in.
func (l knownLists) sweep(named map[string]bool) error {
	entries, err := os.ReadDir(l.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		st, err := e.Info()
		if err != nil || named[e.Name()] || time.Since(st.ModTime()) < listKept {
			continue
		}
		errs = append(errs, os.Remove(filepath.Join(l.dir, e.Name())))
	}
	return errors.Join(append(errs, err)...)
}

// sweepLists is sweep with what the journal knows.
func (d *daemon) sweepLists() {
	named := map[string]bool{}
	d.control.View(func(st *model.State, _ *model.Snapshot) {
		for _, svc := range st.Services {
			for _, r := range svc.Releases {
				if r.Policy.Image == nil || r.Policy.Image.Vulnerabilities == nil {
					continue
				}
				for _, list := range r.Policy.Image.Vulnerabilities.Lists {
					named[fileOf(list.Digest)] = true
				}
			}
		}
	})
	if err := d.checks.lists.sweep(named); err != nil {
		d.cfg.Log.Warn("cannot remove lists of vulnerabilities that nothing names", "error", err)
	}
}
