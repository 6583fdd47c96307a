package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/moby/patternmatcher/ignorefile"
	"github.com/tonistiigi/fsutil"

	"kiln/internal/model"
)

// Tree is where on this machine the source of an image is.
type Tree struct {
	Root    string   // absolute: where the paths of the archive begin
	Context string   // the build context, from Root; ".": that
	Files   []string // from Root: what is in it whatever a .dockerignore says, as far as it is there

	// Without are files that are in no archive, by whatever name, though a build sees
	// them: absolute.
	Without []string

	ignored string // the file that says what is no part of the context, absolute; "": there is none
}

// Find returns the tree of a build: the context's directory, the Containerfile
// (absolute, or from there), and files beside these.
func Find(contextDir, containerfile string, files ...string) (Tree, error) {
	absolute := func(p string) (string, error) {
		p, err := filepath.Abs(p)
		if err != nil {
			return "", model.Errorf(model.Invalid, "cannot find the source: %w", err)
		}
		return p, nil
	}
	dir, err := absolute(contextDir)
	if err != nil {
		return Tree{}, err
	}
	if !filepath.IsAbs(containerfile) {
		containerfile = filepath.Join(dir, containerfile)
	}
	all := []string{containerfile, containerfile + ".dockerignore", filepath.Join(dir, ".dockerignore")}
	t := Tree{Root: dir}
	for _, name := range all[1:] {
		if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() {
			t.ignored = name
			break
		}
	}
	for _, name := range files {
		if name, err = absolute(name); err != nil {
			return Tree{}, err
		}
		all = append(all, name)
	}
	for _, name := range all {
		for !below(name, t.Root) {
			t.Root = filepath.Dir(t.Root)
		}
	}
	t.Context = t.Rel(dir)
	for _, name := range all {
		if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() {
			t.Files = append(t.Files, t.Rel(name))
		}
	}
	return t, nil
}

// Rel returns an absolute path below Root as the archive has it.
func (t Tree) Rel(name string) string {
	rel, err := filepath.Rel(t.Root, name)
	if err != nil {
		return name // it is below Root
	}
	return filepath.ToSlash(rel)
}

func below(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}

// Listing is what a tree has, in the order of an archive.
type Listing []Entry

// Entry is a file, directory or link of a tree, as it was when it was listed.
type Entry struct {
	Path  string // as the archive has it
	from  string // where it is
	mode  fs.FileMode
	size  int64
	times [2]time.Time // of its content, and of any change
	file  file
	link  string
}

// file is what the names of one file have in common.
type file struct{ device, inode uint64 }

func fileOf(st fs.FileInfo) file {
	own, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return file{}
	}
	return file{uint64(own.Dev), own.Ino} //nolint:unconvert // of another width on other machines
}

// List lists what a build gets to see of a tree, and what belongs to it beside.
//
// Invalid: something in it cannot be kept, or read.
func (t Tree) List(ctx context.Context) (Listing, error) {
	found := map[string]Entry{}
	without := t.without()
	add := func(rel, from string, follow bool) error {
		if _, known := found[rel]; known || rel == "." || slices.Contains(t.Without, filepath.Join(t.Root, rel)) {
			return nil
		}
		e, err := look(rel, from, follow)
		if err == nil && !(e.mode.IsRegular() && without[e.file]) {
			found[rel] = e
		}
		return err
	}
	err := t.walk(ctx, func(rel, from string) error { return add(path.Join(t.Context, rel), from, false) })
	if err != nil {
		return nil, err
	}
	for _, name := range t.Files {
		if err := add(name, filepath.Join(t.Root, name), true); err != nil {
			return nil, err
		}
	}
	names := []string{}
	for name := range found {
		names = append(names, ancestors(name)...)
	}
	if t.Context != "." {
		names = append(append(names, ancestors(t.Context)...), t.Context)
	}
	for _, name := range names {
		if err := add(name, filepath.Join(t.Root, name), true); err != nil {
			return nil, err
		}
	}
	list := make(Listing, 0, len(found))
	bytes := int64(0)
	for _, e := range found {
		list = append(list, e)
		bytes += e.size
	}
	if len(list) > MaxEntries || bytes > MaxBytes {
		return nil, model.Errorf(model.Invalid, "it has %d files and directories of %s together; at most %d of %s are kept", len(list), model.SizeText(bytes), MaxEntries, model.SizeText(MaxBytes)).
			WithHint("leave out what the image does not need: .dockerignore")
	}
	slices.SortFunc(list, func(a, b Entry) int { return byPath(a.Path, b.Path) })
	return list, nil
}

// without are the files of Without that are there. A link to one may be in the list,
// and what it leads to may lie in the context.
func (t Tree) without() map[file]bool {
	known := map[file]bool{}
	for _, name := range t.Without {
		if st, err := os.Stat(name); err == nil {
			known[fileOf(st)] = true
		}
	}
	return known
}

// byPath orders paths so that a directory is followed by all that is in it.
func byPath(a, b string) int {
	return cmp.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
}

// walk calls each for what a build sees of the context: its path from there, and
// where it is.
func (t Tree) walk(ctx context.Context, each func(rel, from string) error) error {
	dir := filepath.Join(t.Root, t.Context)
	cannot := func(err error) error { return model.Errorf(model.Invalid, "cannot read %s: %w", dir, err) }
	tree, err := fsutil.NewFS(dir)
	if err != nil {
		return cannot(err)
	}
	patterns, err := t.patterns()
	if err != nil {
		return err
	}
	if tree, err = fsutil.NewFilterFS(tree, &fsutil.FilterOpt{ExcludePatterns: patterns}); err != nil {
		return cannot(err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return cannot(err)
	}
	return tree.Walk(ctx, "", func(rel string, d fs.DirEntry, err error) error {
		if err != nil {
			return cannot(err)
		}
		if base := path.Base(rel); strings.EqualFold(base, ".git") || base == OriginFile {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return each(filepath.ToSlash(rel), filepath.Join(real, rel))
	})
}

func (t Tree) patterns() ([]string, error) {
	if t.ignored == "" {
		return nil, nil
	}
	f, err := os.Open(t.ignored)
	if err != nil {
		return nil, model.Errorf(model.Invalid, "cannot read %s: %w", t.ignored, reason(err))
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		return nil, model.Errorf(model.Invalid, "cannot read %s: %w", t.ignored, err)
	}
	return patterns, nil
}

// look lists one entry.
func look(rel, from string, follow bool) (Entry, error) {
	stat := os.Lstat
	if follow {
		stat = os.Stat
	}
	st, err := stat(from)
	if err != nil {
		return Entry{}, cannotKeep(rel, reason(err))
	}
	return entryOf(rel, from, st)
}

// entryOf makes an entry of what is at a path.
func entryOf(rel, from string, st fs.FileInfo) (e Entry, err error) {
	if left := leftOut(path.Base(rel)); left != "" {
		return e, cannotKeep(rel, errors.New(left))
	}
	e = Entry{Path: rel, from: from, mode: st.Mode(), file: fileOf(st)}
	e.times[0] = st.ModTime()
	if own, ok := st.Sys().(*syscall.Stat_t); ok {
		e.times[1] = time.Unix(own.Ctim.Unix())
	}
	switch st.Mode().Type() {
	case 0:
		e.size = st.Size()
		if st.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			err = fmt.Errorf("it is a program that runs with more than whoever starts it has (%s)", st.Mode())
		}
	case fs.ModeDir:
	case fs.ModeSymlink:
		e.link, err = os.Readlink(from)
	default:
		err = fmt.Errorf("it is no file, directory or link (%s)", st.Mode())
	}
	if err != nil {
		return e, cannotKeep(rel, reason(err))
	}
	return e, nil
}

func cannotKeep(rel string, err error) error {
	return model.Errorf(model.Invalid, "cannot keep %s: %w", clip(rel), err)
}

// Differs returns the first path in which a later listing of the same tree differs
// from this one; "": it is the same. What a directory has is told by what is in it.
func (l Listing) Differs(later Listing) string {
	for i := range min(len(l), len(later)) {
		a, b := l[i], later[i]
		if a.Path != b.Path {
			return min(a.Path, b.Path)
		}
		if !a.same(b) {
			return a.Path
		}
	}
	if n := min(len(l), len(later)); n < len(l) || n < len(later) {
		return slices.Concat(l[n:], later[n:])[0].Path
	}
	return ""
}

func (e Entry) same(f Entry) bool {
	if e.mode != f.mode || e.file != f.file {
		return false
	}
	return e.mode.IsDir() || e.size == f.size && e.link == f.link && e.times[0].Equal(f.times[0]) && e.times[1].Equal(f.times[1])
}

// reason drops the operation and path of a file error: the message has them.
func reason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
