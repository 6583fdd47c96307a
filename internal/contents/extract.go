package contents

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/osv-scalibr/extractor/filesystem"
	"github.com/google/osv-scalibr/extractor/filesystem/language/golang/gobinary"
	"github.com/google/osv-scalibr/extractor/filesystem/language/java/archive"
	"github.com/google/osv-scalibr/extractor/filesystem/language/javascript/packagejson"
	"github.com/google/osv-scalibr/extractor/filesystem/language/python/wheelegg"
	"github.com/google/osv-scalibr/extractor/filesystem/language/ruby/gemspec"
	"github.com/google/osv-scalibr/extractor/filesystem/os/apk"
	"github.com/google/osv-scalibr/extractor/filesystem/os/dpkg"
	"github.com/google/osv-scalibr/extractor/filesystem/os/rpm"
	scalibrlog "github.com/google/osv-scalibr/log"

	"kiln/internal/layers"
)

// found is what was learned of a file's contents while they passed.
type found struct {
	packages []Package // without Path: a file may have several names
	err      error     // why not all of them could be learned
	database *database // to be read when the whole image is known
	release  *span     // os-release(5), which databases are read with
	licences []string  // of the package of Debian's that the file has the copyrights of
}

// database is a database of packages.
type database struct {
	extractor filesystem.Extractor
	span      span
}

// The largest files that are looked into, in bytes. Real ones are far smaller.
const (
	maxDatabase = 512 << 20
	maxProgram  = 2 << 30
	maxArchive  = 512 << 20 // with what is in it: twice as much
	maxManifest = 4 << 20
	maxRelease  = 64 << 10
)

// formats are the readers of formats, which are OSV-SCALIBR's
// (https://github.com/google/osv-scalibr): of those that are kept well it is the one
// that can be taken in part. These need neither cgo nor other programs.
type formats struct {
	databases []filesystem.Extractor
	manifests []filesystem.Extractor
	wheels    filesystem.Extractor
	archives  filesystem.Extractor
	programs  filesystem.Extractor
}

func newFormats() *formats {
	jars := archive.DefaultConfig()
	jars.MaxOpenedBytes, jars.HashJars = 2*maxArchive, false
	wheels := wheelegg.New(wheelegg.Config{MaxFileSizeBytes: maxManifest}) // of files in wheels
	return &formats{
		databases: []filesystem.Extractor{dpkg.New(dpkg.Config{}), apk.New(apk.Config{}), rpm.New(rpm.Config{Timeout: time.Minute})},
		manifests: []filesystem.Extractor{packagejson.New(packagejson.Config{}), wheelegg.New(wheelegg.Config{}), gemspec.New(gemspec.Config{})},
		wheels:    wheels,
		archives:  archive.New(jars),
		programs:  gobinary.NewDefault(),
	}
}

// about is a file as extractors want to have it.
type about struct {
	path string
	info fs.FileInfo
}

// Path implements filesystem.FileAPI.
func (a about) Path() string { return a.path }

// Stat implements filesystem.FileAPI.
func (a about) Stat() (fs.FileInfo, error) { return a.info, nil }

// learn looks into a regular file as it passes, if that can name packages.
func (s *scanner) learn(e *layers.Entry, r io.Reader) (*found, error) {
	h := e.Header
	file := about{e.Path, h.FileInfo()}
	if e.Path == "etc/os-release" || e.Path == "usr/lib/os-release" {
		if h.Size > maxRelease {
			return nil, nil
		}
		at, err := s.spool.put(r)
		s.spool.keep(at)
		return &found{release: &at}, err
	}
	if copyrightPath.MatchString(e.Path) && h.Size <= maxCopyright {
		if l := debianLicences(r); len(l) > 0 {
			return &found{licences: l}, nil
		}
		return nil, nil
	}
	for _, x := range s.formats.databases {
		if !x.FileRequired(file) {
			continue
		}
		if h.Size > maxDatabase {
			return tooLarge(maxDatabase), nil
		}
		at, err := s.spool.put(r)
		s.spool.keep(at)
		return &found{database: &database{x, at}}, err
	}
	x, most := s.formats.single(file)
	if x == nil {
		return nil, nil
	}
	var start [4]byte
	if x.Name() == gobinary.Name {
		if _, err := io.ReadFull(r, start[:]); err != nil || string(start[:]) != "\x7fELF" {
			return nil, notShort(err)
		}
		r = io.MultiReader(bytes.NewReader(start[:]), r)
	}
	if h.Size > most {
		return tooLarge(most), nil
	}
	at, err := s.spool.put(r)
	if err != nil {
		return nil, err
	}
	f := &found{}
	f.packages, f.err = s.extract(x, file, at)
	if len(f.packages) == 0 && f.err == nil {
		return nil, nil
	}
	return f, nil
}

// notShort returns err unless it says that there was nothing more to read.
func notShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func tooLarge(most int64) *found {
	return &found{err: fmt.Errorf("it is larger than the %d MiB that are looked into", most>>20)}
}

// single returns who can read a file that speaks for itself, nil: nobody; and the
// largest that is worth it.
func (f *formats) single(file about) (filesystem.Extractor, int64) {
	switch path.Ext(file.path) {
	case ".egg", ".whl":
		return f.wheels, maxArchive
	}
	for _, x := range f.manifests {
		if x.FileRequired(file) {
			return x, maxManifest
		}
	}
	if f.archives.FileRequired(file) {
		return f.archives, maxArchive
	}
	if f.programs.FileRequired(file) {
		return f.programs, maxProgram
	}
	return nil, 0
}

// extract reads the packages that a file names.
func (s *scanner) extract(x filesystem.Extractor, file about, at span) ([]Package, error) {
	in := &filesystem.ScanInput{FS: nothing{}, Path: file.path, Info: file.info, Reader: s.spool.open(at)}
	packages, err := run(s.ctx, x, in)
	if len(packages) == 1 && at.size <= maxManifest {
		packages[0].Licenses = licences(file.path, s.spool.open(at))
	}
	return packages, err
}

// extractDatabase reads the packages of a database.
func extractDatabase(ctx context.Context, d *database, v *view, p string, n *node) ([]Package, error) {
	in := &filesystem.ScanInput{FS: v, Path: p, Reader: v.spool.open(d.span), Info: fileInfo{p, n}}
	if d.extractor.Name() != rpm.Name {
		return run(ctx, d.extractor, in)
	}
	dir, err := os.MkdirTemp(v.spool.dir, "kiln-contents-") // it opens files by name
	if err != nil {
		return nil, spoolError(err)
	}
	defer os.RemoveAll(dir)
	in.Root = dir
	name := filepath.Join(dir, filepath.FromSlash(p))
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, spoolError(err)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, spoolError(err)
	}
	_, err = io.Copy(f, in.Reader)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, spoolError(err)
	}
	return run(ctx, d.extractor, in)
}

// run calls an extractor. It reads what anybody may have made, so a panic of it is
// nothing but a file that cannot be understood.
func run(ctx context.Context, x filesystem.Extractor, in *filesystem.ScanInput) (list []Package, err error) {
	silence()
	defer func() {
		if p := recover(); p != nil {
			list, err = nil, fmt.Errorf("what reads it gave up: %v", p)
		}
	}()
	made, err := x.Extract(ctx, in)
	for _, p := range made.Packages {
		if p != nil && p.Name != "" {
			list = append(list, converted(p))
		}
	}
	return list, err
}

// silence has extractors say nothing on standard error; what matters they return.
// There is one logger for all of them in a process.
var silence = sync.OnceFunc(func() { scalibrlog.SetLogger(quiet{}) })

type quiet struct{}

func (quiet) Errorf(string, ...any) {}
func (quiet) Warnf(string, ...any)  {}
func (quiet) Infof(string, ...any)  {}
func (quiet) Debugf(string, ...any) {}
func (quiet) Error(...any)          {}
func (quiet) Warn(...any)           {}
func (quiet) Info(...any)           {}
func (quiet) Debug(...any)          {}
