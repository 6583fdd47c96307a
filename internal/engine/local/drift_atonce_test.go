package local

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// TestDriftAtOnce wants each change in a server's own layer told of when it is
// made, however deep in directories that are known already.
func TestDriftAtOnce(t *testing.T) {
	w := newWorld(t)
	e := w.open(t)
	image := w.addProgram(t, ocispec.ImageConfig{Env: []string{"PATH=/bin"}}, file{name: "/usr/share/doc/text", content: "x", mode: 0o644})
	s := w.servers(t, e, image)
	d := &driftTest{t: t, servers: s, alarms: e.Alarms(t.Context())}

	t.Run("in directories of the image", d.atOnceInImages)
	t.Run("in new directories", d.atOnceInNew)
	t.Run("bounded", d.atOnceBounded)
}

func (d *driftTest) atOnceInImages(t *testing.T) {
	ref := d.serving(nil)
	root := d.writable(t, ref)
	d.drain()
	want := []string{}
	for i := range 3 {
		name := fmt.Sprintf("/usr/share/doc/%d", i)
		must(t, os.WriteFile(root+name, nil, 0o644))
		d.alarm(t, ref.ID)
		want = append(want, "file added "+name)
		d.foundAtOnce(t, ref, want...)
		d.drain()
	}
	must(t, os.Chmod(root+"/usr/share", 0o700))
	d.alarm(t, ref.ID)
	d.foundAtOnce(t, ref, append(want, "directory changed /usr/share")...)
}

// foundAtOnce looks at the server when there is alarm, and at nothing else, until
// as much is found. It wants exactly these findings of files.
func (d *driftTest) foundAtOnce(t *testing.T, ref engine.Ref, want ...string) {
	t.Helper()
	for deadline := time.After(2 * time.Second); ; {
		found, err := d.e.inspectUpper(d.recordOf(ref))
		if err != nil {
			t.Fatal(err)
		}
		if len(found) >= len(want) {
			break
		}
		select {
		case <-d.alarms:
		case <-deadline:
			t.Fatalf("found %+v and no more alarm, want %q", found, want)
		}
	}
	d.filesAre(t, ref, want...)
}

func (d *driftTest) recordOf(ref engine.Ref) *record {
	_, r := d.e.lookup(ref.ID)
	return r
}

// In directories that are new themselves nothing else would tell: what they are
// is found already.
func (d *driftTest) atOnceInNew(t *testing.T) {
	ref := d.serving(nil)
	root := d.writable(t, ref)
	must(t, os.MkdirAll(root+"/a/b/c/d", 0o755))
	d.drain()
	must(t, os.WriteFile(root+"/a/b/c/d/file", nil, 0o644))
	d.alarm(t, ref.ID)
	d.drain()
	must(t, os.Rename(root+"/a/b", root+"/a/x"), os.MkdirAll(root+"/a/x/c/e", 0o755))
	d.drain()
	must(t, os.WriteFile(root+"/a/x/c/e/file", nil, 0o644))
	d.alarm(t, ref.ID)
}

func (d *driftTest) atOnceBounded(t *testing.T) {
	ref, other := d.serving(nil), d.serving(nil)
	upper := d.recordOf(ref).Upper
	for i := range 2 * mostWatches {
		must(t, os.MkdirAll(filepath.Join(upper, fmt.Sprint(i), "deep"), 0o755))
	}
	w := d.watching(t)
	w.sync()
	if n, m := w.count(ref.ID), w.count(other.ID); n != mostWatches || m != 1 {
		t.Errorf("%d and %d directories are watched, want %d and 1", n, m, mostWatches)
	}
	for i := range 2 * mostWatches {
		must(t, os.RemoveAll(filepath.Join(upper, fmt.Sprint(i))))
	}
	w.await(t, ref.ID, 1)
	must(t, os.MkdirAll(filepath.Join(upper, "a/b"), 0o755))
	w.await(t, ref.ID, 3)
	d.e.hints.give()
	if err := d.e.Stop(t.Context(), ref, "", 0); err != nil {
		t.Fatal(err)
	}
	d.awaitExit(ref)
	w.sync()
	if n, m := w.count(ref.ID), w.count(other.ID); n != 0 || m != 1 {
		t.Errorf("%d and %d directories are watched after one has ended, want 0 and 1", n, m)
	}
}

// watching watches the servers' layers, besides the test's alarms.
func (d *driftTest) watching(t *testing.T) *upperWatch {
	t.Helper()
	a := &alarms{e: d.e, pending: map[model.ServerID]bool{}, some: make(chan struct{}, 1)}
	w, err := a.newUpperWatch()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.read()
	}()
	t.Cleanup(func() {
		_ = w.file.Close()
		<-ended
	})
	return w
}

func (w *upperWatch) count(id model.ServerID) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.layers[id] == nil {
		return 0
	}
	return len(w.layers[id].watches)
}

func (w *upperWatch) await(t *testing.T, id model.ServerID, want int) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Second)
	for w.count(id) != want {
		if time.Now().After(deadline) {
			t.Fatalf("%d directories are watched, want %d", w.count(id), want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
