package local

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// layerFresh is how old a look at a layer may be to stand for another: the
// servers that are looked at together share their layers.
const layerFresh = 2 * time.Second

// layer is a directory of files that the servers of an image stand on. What is
// found in one is found in every server above it.
type layer struct {
	mu    sync.Mutex // one look at a time
	dir   string
	list  string // file that says what is in it, by stat
	sum   uint64 // of the list's content; 0: not known yet
	at    time.Time
	found []model.Finding // without servers
	whole []model.Finding // what the last look at every byte has found
	proof string          // with what every byte of the list's files was compared; "": with nothing
	began time.Time       // when the last look began that found it whole
}

func (c Config) layersDir() string { return filepath.Join(c.DataDir, "layers") }

// layerOf returns the layer in the directory.
func (e *Engine) layerOf(dir string) (*layer, error) {
	e.drift.mu.Lock()
	defer e.drift.mu.Unlock()
	if l := e.drift.layers[dir]; l != nil {
		return l, nil
	}
	name, err := layerName(dir)
	if err != nil {
		return nil, err
	}
	l := &layer{dir: dir, list: filepath.Join(e.layersDir(), name)}
	if e.drift.layers == nil {
		e.drift.layers = map[string]*layer{}
	}
	e.drift.layers[dir] = l
	return l, nil
}

// layerName names a directory, not by its number alone: another may come to have
// that.
func layerName(dir string) (string, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return "", fmt.Errorf("cannot look at layer %s: %w", dir, err)
	}
	return shortHash(dir, strconv.FormatUint(st.Ino, 10), fmt.Sprint(st.Btime.Sec, st.Btime.Nsec)), nil
}

// forgetLayers lets go of what is known of layers that no server stands on, and of
// the lists of those that are gone. The others' lists stay: a server may stand on
// them again.
func (e *Engine) forgetLayers() {
	used := map[string]bool{}
	for _, r := range e.records() {
		for _, dir := range r.Lowers {
			used[dir] = true
		}
	}
	snapshots, err := namesIn(filepath.Join(e.DataDir, "containerd", "io.containerd.snapshotter.v1.overlayfs", "snapshots"))
	if err != nil {
		return
	}
	e.drift.mu.Lock()
	defer e.drift.mu.Unlock()
	there := map[string]bool{}
	for _, snapshot := range snapshots {
		if name, err := layerName(filepath.Join(snapshot, "fs")); err == nil {
			there[name] = true
		}
	}
	for dir, l := range e.drift.layers {
		if !used[dir] {
			delete(e.drift.layers, dir)
		} else {
			there[filepath.Base(l.list)] = true
		}
	}
	names, _ := namesIn(e.layersDir())
	for _, name := range names {
		if !there[strings.TrimSuffix(filepath.Base(name), proofSuffix)] {
			_ = os.Remove(name)
		}
	}
}

// inspectLayers looks at all that the server's root is made of.
func (e *Engine) inspectLayers(ctx context.Context, r *record, depth engine.Depth) ([]model.Finding, error) {
	if len(r.Lowers) == 0 {
		return nil, nil
	}
	stack, err := e.stackOf(ctx, r)
	if err != nil {
		return nil, err
	}
	var found []model.Finding
	var errs []error
	for i, dir := range r.Lowers {
		l, err := e.layerOf(dir)
		if err == nil {
			err = e.lookAt(ctx, l, stack.content(i), depth)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.mu.Lock()
		for _, f := range slices.Concat(l.found, l.whole) {
			f.Server = r.ID
			found = append(found, f)
		}
		l.mu.Unlock()
	}
	slices.SortFunc(found, func(a, b model.Finding) int { return strings.Compare(a.Key(), b.Key()) })
	return slices.CompactFunc(found, func(a, b model.Finding) bool { return a.Key() == b.Key() }), errors.Join(errs...)
}

// lookAt brings what is known of the layer up to date.
func (e *Engine) lookAt(ctx context.Context, l *layer, content layerContent, depth engine.Depth) error {
	if depth != engine.Glance {
		// Without the lock: it may take long, and glances go on meanwhile.
		found, err := content.compare(ctx, e, l.dir, nil, depth)
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.whole = found
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if depth == engine.Glance && time.Since(l.at) < layerFresh {
		return nil
	}
	if err := e.compareByStat(ctx, l, content); err != nil {
		return err
	}
	l.at = time.Now()
	return nil
}

// compareByStat finds what was touched since the layer was first seen, and
// looks at the bytes of that: a file that was touched and is the same is no
// drift.
func (e *Engine) compareByStat(ctx context.Context, l *layer, content layerContent) error {
	l.load()
	now, _, err := listOf(ctx, l.dir)
	if err != nil {
		return err
	}
	if sum := sumOf(now); sum == l.sum {
		l.found = nil
		return nil
	} else if l.sum == 0 {
		// The first look: what is there now is what was unpacked, as far as
		// stat can tell. The bytes are compared with the image in their turn.
		return e.keepList(l, now, sum)
	}
	was, err := os.ReadFile(l.list)
	if err != nil {
		l.proof = ""
		return e.keepList(l, now, sumOf(now))
	}
	touched := touchedPaths(was, now)
	found, err := content.compare(ctx, e, l.dir, touched, engine.Glance)
	if err != nil {
		return err
	}
	l.found = found
	l.whole = slices.DeleteFunc(slices.Clone(l.whole), func(f model.Finding) bool { return touched[f.Where] })
	if len(found) == 0 {
		return e.keepList(l, now, sumOf(now))
	}
	return nil
}

func (e *Engine) keepList(l *layer, list []byte, sum uint64) error {
	if err := os.MkdirAll(e.layersDir(), 0o700); err != nil {
		return fmt.Errorf("cannot remember a layer: %w", err)
	}
	if err := writeFile(l.list, list, false); err != nil {
		return fmt.Errorf("cannot remember a layer: %w", err)
	}
	if l.proof != "" {
		if err := writeFile(l.list+proofSuffix, []byte(strconv.FormatUint(sum, 36)+" "+l.proof), false); err != nil {
			return fmt.Errorf("cannot remember a layer: %w", err)
		}
	}
	l.sum, l.found = sum, nil
	return nil
}

func sumOf(b []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(b)
	return h.Sum64() | 1 // never 0
}

// listOf returns a line for everything in the layer: a sum of what stat says, and
// the path; and the time of the latest change.
func listOf(ctx context.Context, dir string) ([]byte, time.Time, error) {
	l := lister{ctx: ctx, buffer: make([]byte, 32<<10)}
	var st unix.Stat_t
	err := again(func() error { return unix.Lstat(dir, &st) })
	if err == nil {
		l.line(&st, "/")
		err = l.directory(dir, "")
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("cannot look at layer %s: %w", dir, err)
	}
	return l.list, time.Unix(0, l.latest), nil
}

// lister lists a tree. It is what every start of a server waits for: it asks the
// kernel for names and stats alone, each relative to its directory.
type lister struct {
	ctx    context.Context //nolint:containedctx // of one listing
	list   []byte
	latest int64
	buffer []byte // for names
}

// directory lists what is in a directory, by name. What is gone when it is looked at
// is not there.
func (l *lister) directory(path, shown string) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	names, stats, err := l.read(path)
	if err != nil {
		return err
	}
	for i, name := range names {
		below := shown + "/" + name
		l.line(&stats[i], below)
		if stats[i].Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := l.directory(path+"/"+name, below); err != nil {
				return err
			}
		}
	}
	return nil
}

// read returns the names in a directory, in order, and what stat says of each.
func (l *lister) read(path string) (names []string, stats []unix.Stat_t, err error) {
	var fd int
	err = again(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for {
		var n int
		if err := again(func() (err error) { n, err = unix.ReadDirent(fd, l.buffer); return err }); err != nil {
			return nil, nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n <= 0 {
			break
		}
		_, _, names = unix.ParseDirent(l.buffer[:n], -1, names)
	}
	slices.Sort(names)
	stats = make([]unix.Stat_t, len(names))
	there := 0
	for _, name := range names {
		err := again(func() error { return unix.Fstatat(fd, name, &stats[there], unix.AT_SYMLINK_NOFOLLOW) })
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, nil, &fs.PathError{Op: "stat", Path: path + "/" + name, Err: err}
		}
		names[there] = name
		there++
	}
	return names[:there], stats[:there], nil
}

// again makes a call again that a signal has interrupted.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// line adds a line. Its sum changes with any change of the file: the time of the last
// change cannot be set by anybody.
func (l *lister) line(st *unix.Stat_t, shown string) {
	l.latest = max(l.latest, st.Ctim.Nano())
	var b [64]byte
	e := binary.LittleEndian
	e.PutUint64(b[0:], st.Ino)
	e.PutUint64(b[8:], uint64(st.Size))
	e.PutUint64(b[16:], uint64(st.Ctim.Nano()))
	e.PutUint64(b[24:], uint64(st.Mtim.Nano()))
	e.PutUint64(b[32:], uint64(st.Mode))
	e.PutUint64(b[40:], uint64(st.Uid)<<32|uint64(st.Gid))
	e.PutUint64(b[48:], st.Rdev)
	l.list = append(strconv.AppendUint(l.list, sumOf(b[:]), 36), ' ')
	l.list = append(strconv.AppendQuote(l.list, shown), '\n')
}

// touchedPaths returns the paths of which the two lists differ, and their
// directories' names are among them when something came or went.
func touchedPaths(was, now []byte) map[string]bool {
	before, after := parseList(was), parseList(now)
	touched := map[string]bool{}
	for path, sum := range before {
		if after[path] != sum {
			touched[path] = true
		}
	}
	for path := range maps.Keys(after) {
		if _, known := before[path]; !known {
			touched[path] = true
		}
	}
	return touched
}

func parseList(list []byte) map[string]string {
	all := map[string]string{}
	lines := bufio.NewScanner(strings.NewReader(string(list)))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		sum, quoted, _ := strings.Cut(lines.Text(), " ")
		if path, err := strconv.Unquote(quoted); err == nil {
			all[path] = sum
		}
	}
	return all
}
