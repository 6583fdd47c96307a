package local

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// mostWatches is how many directories of a server's own layer are watched, its
// root among them: what lies in more is looked for in turn.
const mostWatches = 64

// uppers watches the servers' own layers.
func (a *alarms) uppers(ctx context.Context) {
	w, err := a.newUpperWatch()
	if err != nil {
		a.e.Log.Warn("cannot be told of changed files at once; they are looked for in turn", "error", err)
		return
	}
	var reading sync.WaitGroup
	reading.Go(w.read)
	hints := a.e.hints.subscribe(ctx)
	for ctx.Err() == nil {
		w.sync()
		select {
		case <-ctx.Done():
		case <-hints:
		}
	}
	_ = w.file.Close() // ends the reading
	reading.Wait()
}

// upperWatch watches the layer of each running server: its root, which begins
// empty, and the directories that come to be in it. The overlay makes those on
// the way to a change, and what is changed comes after them.
type upperWatch struct {
	*alarms
	file *os.File

	mu      sync.Mutex
	layers  map[model.ServerID]*watchedLayer
	byWatch map[int32]watchedDir
}

type watchedLayer struct {
	root    string
	watches map[int32]bool
}

type watchedDir struct {
	server model.ServerID
	dir    string
}

func (a *alarms) newUpperWatch() (*upperWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return &upperWatch{
		alarms: a, file: os.NewFile(uintptr(fd), "inotify"),
		layers: map[model.ServerID]*watchedLayer{}, byWatch: map[int32]watchedDir{},
	}, nil
}

// sync makes the watched layers those of the servers that run.
func (w *upperWatch) sync() {
	wanted := map[model.ServerID]bool{}
	for _, r := range w.e.records() {
		if r.state() == model.Running && r.Upper != "" && !r.Trial {
			wanted[r.ID] = true
			w.add(r)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, layer := range w.layers {
		if wanted[id] {
			continue
		}
		for watch := range layer.watches {
			w.control(func(fd int) { _, _ = unix.InotifyRmWatch(fd, uint32(watch)) }) // it goes with the directory
			delete(w.byWatch, watch)
		}
		delete(w.layers, id)
	}
}

func (w *upperWatch) add(r *record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.layers[r.ID] != nil {
		return
	}
	w.layers[r.ID] = &watchedLayer{root: r.Upper, watches: map[int32]bool{}}
	if err := w.watchLocked(r.ID, r.Upper); err != nil {
		delete(w.layers, r.ID)
		w.e.Log.Warn("cannot be told of changed files at once; they are looked for in turn", "server", r.ID, "error", err)
		return
	}
	w.followLocked(r.ID, r.Upper)
	w.raise(r.ID) // for what it did before it was watched
}

// watchLocked watches one directory. Of one that was moved it learns the name.
func (w *upperWatch) watchLocked(id model.ServerID, dir string) error {
	const changes = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_ATTRIB |
		unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW
	watch, err := -1, os.ErrClosed
	w.control(func(fd int) { watch, err = unix.InotifyAddWatch(fd, dir, changes) })
	if err != nil {
		return err
	}
	w.layers[id].watches[int32(watch)] = true
	w.byWatch[int32(watch)] = watchedDir{server: id, dir: dir}
	return nil
}

// followLocked watches the directory and those in it, the upper ones first, as
// far as the bound allows. Each is watched before it is read: of what comes to
// be in it meanwhile, either tells.
func (w *upperWatch) followLocked(id model.ServerID, dir string) {
	layer := w.layers[id]
	for queue := []string{dir}; len(queue) > 0 && len(layer.watches) < mostWatches; queue = queue[1:] {
		if w.watchLocked(id, queue[0]) != nil {
			continue // it has gone, or the machine has no more watches: it is looked at in turn
		}
		entries, _ := os.ReadDir(queue[0]) // likewise
		for _, entry := range entries {
			if entry.IsDir() {
				queue = append(queue, filepath.Join(queue[0], entry.Name()))
			}
		}
	}
}

func (w *upperWatch) control(do func(fd int)) {
	if conn, err := w.file.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { do(int(fd)) })
	}
}

func (w *upperWatch) read() {
	buffer := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buffer)
		if err != nil {
			return // closed
		}
		for at := 0; at+unix.SizeofInotifyEvent <= n; {
			watch := int32(binary.NativeEndian.Uint32(buffer[at:]))
			mask := binary.NativeEndian.Uint32(buffer[at+4:])
			named := at + unix.SizeofInotifyEvent
			at = min(n, named+int(binary.NativeEndian.Uint32(buffer[at+12:])))
			w.heard(watch, mask, string(bytes.TrimRight(buffer[named:at], "\x00")))
		}
	}
}

// heard raises the alarm of what has happened in a watched directory; of a new
// directory when that is watched, so that what is in it already is looked at too.
func (w *upperWatch) heard(watch int32, mask uint32, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	in, known := w.byWatch[watch]
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0:
		for id, layer := range w.layers {
			w.followLocked(id, layer.root) // directories may be among what was lost
			w.raise(id)
		}
	case !known:
	case mask&unix.IN_IGNORED != 0: // it has gone
		delete(w.byWatch, watch)
		delete(w.layers[in.server].watches, watch)
	default:
		if mask&unix.IN_ISDIR != 0 && mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 {
			w.followLocked(in.server, filepath.Join(in.dir, name))
		}
		w.raise(in.server)
	}
}
