package leaks

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"path"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers"
)

const (
	// maxWhole is how much of a file is read that is judged by its form.
	maxWhole = 8 << 20 // bytes
	// mostInFile bounds the findings in one file.
	mostInFile = 16
)

// Search looks for secrets and left-overs in an image's layers, its configuration
// and its history. The layers that the image begins with and that are those of
// base, by their diff ids, are not read: they were judged with the base. What the
// allow-list has entries for is in the report as allowed.
//
// It holds a few megabytes, however large the image: files are searched in windows
// that overlap.
//
// Invalid: the image is damaged, contradicts itself, or has what no layer should
// have (see layers.Walker). Unavailable: its content cannot be read now.
func Search(ctx context.Context, image v1.Image, base []v1.Hash, allow Allowed) (*Report, error) {
	return newSearch(allow).run(ctx, image, base, 0)
}

// SearchNew is Search for an image whose so many lowest layers were searched
// before, with nothing found: they are not read again. Its configuration and its
// history are searched all the same, for other commands can make the same layers.
func SearchNew(ctx context.Context, image v1.Image, base []v1.Hash, read int, allow Allowed) (*Report, error) {
	return newSearch(allow).run(ctx, image, base, read)
}

func newSearch(allow Allowed) *search {
	return &search{
		walker: ofBuild(defaults()), seeker: newSeeker(),
		allow: allow.judging(), report: newReport(), byPath: map[string][]*Finding{}, above: map[string]bool{}, caches: map[string]*cacheFound{},
	}
}

// search is one run of Search.
type search struct {
	walker layers.Walker
	*seeker
	allow  Allowed
	report *Report

	found  []*Finding            // in layers, until all are read: a later one may remove what an earlier has
	byPath map[string][]*Finding // of found
	above  map[string]bool       // the directories above these
	more   int                   // findings that there was no room for
	caches map[string]*cacheFound
	layer  layers.Layer
	buffer []byte
}

// cacheFound are the files of one cache in one layer.
type cacheFound struct {
	finding *Finding
	cache   cache
	files   int
	bytes   int64
}

func (s *search) run(ctx context.Context, image v1.Image, base []v1.Hash, read int) (*Report, error) {
	all, config, err := layersOf(ctx, image)
	if err != nil {
		return nil, err
	}
	known := 0
	for known < min(len(base), len(all)) && string(all[known].DiffID) == base[known].String() {
		known++
	}
	s.searchConfig(config, known)
	for _, s.layer = range all[min(max(known, read), len(all)):] {
		if _, err := s.walker.Walk(ctx, s.layer, s.visit); err != nil {
			return nil, err
		}
		s.endLayer()
	}
	for _, f := range s.found {
		s.add(*f)
	}
	s.report.More += s.more
	s.report.Stale = s.allow.stale(true)
	return s.report, nil
}

// add completes a finding by what its rule says, and reports it.
func (s *search) add(f Finding) {
	f.Severity, f.Hint = severityOf(f), hintOf(f.Rule)
	s.report.add(f, s.allow)
}

// keep notes a finding of the layer that is read.
func (s *search) keep(f Finding) *Finding {
	f.Layer, f.Digest = s.layer.Index, s.layer.Digest
	if len(s.found) >= 2*mostFindings {
		s.more++
		return &f
	}
	s.found = append(s.found, &f)
	s.byPath[f.Path] = append(s.byPath[f.Path], &f)
	for dir := path.Dir(f.Path); !s.above[dir]; dir = path.Dir(dir) {
		s.above[dir] = true
	}
	return &f
}

func (s *search) visit(in *layers.Entry) error {
	e := at(in)
	s.remove(e)
	if e.Typeflag != tar.TypeReg || e.Whiteout != layers.NoWhiteout || e.Size == 0 {
		return nil
	}
	if isHistory(e.path) {
		s.keep(Finding{Rule: ruleHistory, Path: e.path, What: "what was typed, " + plural(int(e.Size), "byte", "bytes")})
	}
	if c, dir, ok := cacheOf(e.path, e.Size); ok {
		s.keepCache(c, dir, e.Size)
	}
	return s.searchFile(e)
}

// remove marks the findings of earlier layers that the entry takes out of sight.
func (s *search) remove(e *entry) {
	if !e.hidesIn() && (e.hides() || e.Typeflag != tar.TypeDir) {
		s.removed(e.path)
	}
	if s.above[e.path] && (e.hides() || e.hidesIn() || e.replaces()) {
		for path := range s.byPath {
			if path != e.path && below(path, e.path) {
				s.removed(path)
			}
		}
	}
	// Of a cache mostly what is in it is removed, and not its directory.
	if e.hides() {
		if _, dir, ok := cacheOf(e.path, 1); ok {
			s.removed(dir)
		}
	}
}

func (s *search) removed(path string) {
	for _, f := range s.byPath[path] {
		f.RemovedLater = f.RemovedLater || f.Layer < s.layer.Index
	}
}

// keepCache counts a file to its cache: that is one finding, however many files.
func (s *search) keepCache(c cache, dir string, size int64) {
	found := s.caches[dir]
	if found == nil {
		found = &cacheFound{finding: s.keep(Finding{Rule: c.rule, Path: dir}), cache: c}
		s.caches[dir] = found
	}
	found.files++
	found.bytes += size
}

func (s *search) endLayer() {
	for _, c := range s.caches {
		c.finding.What = c.cache.what + ": " + plural(c.files, "file", "files") + ", " + plural(int(c.bytes), "byte", "bytes")
	}
	clear(s.caches)
}

// searchFile searches a regular file's content, in windows; one that is judged by
// its form is read as a whole first.
func (s *search) searchFile(e *entry) error {
	form := credentialsOf(e.path)
	size := windowSize
	if form != nil {
		size = maxWhole
	}
	f := &fileSearch{search: s, entry: e, likely: likelyForJWT(e.path)}
	if e.Size > windowSize && s.allow.sums(e.path) {
		f.sum = sha256.New()
	}
	s.buffer = slices.Grow(s.buffer[:0], min(size, int(min(e.Size, maxWhole))))
	window := s.buffer[:cap(s.buffer)]
	window = window[:min(len(window), size)]
	kept := 0 // bytes of the window before
	for {
		n, err := io.ReadFull(e.Content, window[kept:])
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		text := window[:kept+n]
		f.read += int64(n)
		last = last || f.read == e.Size
		if f.sum != nil {
			_, _ = f.sum.Write(text[kept:]) // a hash takes everything
		}
		f.judge(text, last)
		if form != nil {
			f.judgeForm(form, text)
			form = nil // one that is larger is judged by its beginning
		}
		if last {
			break
		}
		kept = f.next(window)
	}
	f.end(window)
	return nil
}

// fileSearch is the search of one file.
type fileSearch struct {
	*search
	*entry
	likely bool
	sum    hash.Hash // nil: nobody asks for it, or the file is in one window
	read   int64     // bytes of the file
	from   int       // byte of the window where the search goes on
	lines  int       // of the file, before the window
	binary bool      // the file is no text
	begun  bool
	found  []*Finding
}

// judge searches what of the window was not searched with the one before. What
// begins near its end is left to the next.
func (f *fileSearch) judge(text []byte, last bool) {
	if !f.begun {
		f.begun, f.binary = true, bytes.IndexByte(text[:min(len(text), 8<<10)], 0) >= 0
	}
	to := len(text)
	if !last {
		to -= lookAhead
	}
	for _, h := range f.hits(text, f.from, to) {
		if h.rule == ruleJWT && !f.likely {
			continue
		}
		f.tell(h.rule, h.what, f.line(text, h.at))
	}
	f.from = to
}

// next moves the window on, and returns how much of it is kept.
func (f *fileSearch) next(window []byte) int {
	start := max(0, f.from-lookBehind)
	f.lines += bytes.Count(window[:start], []byte("\n"))
	f.from -= start
	return copy(window, window[start:])
}

// judgeForm judges the beginning of a file, mostly all of it, by what its path says
// it is.
func (f *fileSearch) judgeForm(form *credentialFile, text []byte) {
	if int64(len(text)) < f.Size {
		f.report.Partial = append(f.report.Partial, Partial{Layer: f.layer.Index, Path: f.path, Size: f.Size, Read: int64(len(text))})
	}
	for _, l := range form.logins(text) {
		line := f.line(text, l.at)
		if slices.ContainsFunc(f.found, func(found *Finding) bool { return found.Line == line }) {
			continue // it is a token of a known shape, or a key
		}
		f.tell(ruleCredentialFile, form.kind+": "+l.what, line)
	}
}

// line returns the number of the line that a byte of the window is in; 0 where
// there are no lines.
func (f *fileSearch) line(text []byte, at int) int {
	if f.binary || bytes.IndexByte(text[max(0, at-256):min(len(text), at+64)], 0) >= 0 {
		return 0
	}
	return f.lines + bytes.Count(text[:at], []byte("\n")) + 1
}

func (f *fileSearch) tell(rule, what string, line int) {
	if len(f.found) >= mostInFile {
		f.more++
		return
	}
	f.found = append(f.found, f.keep(Finding{Rule: rule, Path: f.path, Line: line, What: what}))
}

// end gives the file's findings the digest of its content, where that is known.
func (f *fileSearch) end(window []byte) {
	var sum []byte
	switch {
	case len(f.byPath[f.path]) == 0:
		return
	case f.sum != nil:
		sum = f.sum.Sum(nil)
	case f.read <= int64(len(window)):
		whole := sha256.Sum256(window[:f.read])
		sum = whole[:]
	}
	for _, finding := range f.byPath[f.path] {
		if finding.Layer == f.layer.Index {
			finding.SHA256 = hex.EncodeToString(sum)
		}
	}
}
