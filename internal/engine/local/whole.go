package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// What a server runs are the unpacked layers of its image, and what these have to be
// is said by the image's blobs. Before a server is started from an image both are
// found to be whole:
//
//   - Every blob of the image (manifest, configuration, layers) is read once and
//     compared with its digest, and again whenever what stat says of its file is not
//     what it said then.
//   - Every unpacked layer is compared once, byte for byte, with its blob, and a list of
//     what stat says of all that is in it is kept. Before each start the list is made
//     anew; what is not as it was then is compared byte for byte again.
//
// The time of a file's last change cannot be set by anybody, so a change through the
// file system is never passed over. What changes beneath it (a failing disk) only
// reading shows: the daily look at every byte does.
//
// Servers that are started together share a look: one that began after it was asked
// for.

// blobsOf returns all of an image that is kept as a blob, its manifest first. They are
// remembered: an image is named by the digest of its manifest.
func (e *Engine) blobsOf(ctx context.Context, record images.Image) ([]ocispec.Descriptor, error) {
	d := model.Digest(record.Target.Digest)
	e.drift.mu.Lock()
	known := e.drift.blobs[d]
	e.drift.mu.Unlock()
	if known != nil {
		return known, nil
	}
	store := e.client.ContentStore()
	var all []ocispec.Descriptor
	collect := images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if err := e.blobWhole(ctx, store, d); err != nil {
			return nil, err
		}
		all = append(all, d)
		return images.Children(ctx, store, d)
	})
	if err := images.Walk(ctx, collect, record.Target); err != nil {
		return nil, err
	}
	e.drift.mu.Lock()
	defer e.drift.mu.Unlock()
	if e.drift.blobs == nil || len(e.drift.blobs) >= maxPlans {
		e.drift.blobs = map[model.Digest][]ocispec.Descriptor{}
	}
	e.drift.blobs[d] = all
	return all, nil
}

// wholeBlobs sees to it that every blob of the image has its digest's bytes.
func (e *Engine) wholeBlobs(ctx context.Context, d model.Digest, record images.Image) error {
	if record.Target.Digest.String() != string(d) {
		return model.Errorf(model.Precondition, "image %s is not whole: its record names %s", d.Short(), record.Target.Digest)
	}
	blobs, err := e.blobsOf(ctx, record)
	for i := 0; err == nil && i < len(blobs); i++ {
		err = e.blobWhole(ctx, e.client.ContentStore(), blobs[i])
	}
	switch {
	case err == nil:
		return nil
	case errdefs.IsNotFound(err), errors.Is(err, os.ErrNotExist):
		return model.Errorf(model.NotFound, "image %s is not whole: some of it is missing: %w", d.Short(), err).
			WithHint("build or import it again")
	case errors.Is(err, errCorrupt):
		return model.Errorf(model.Precondition, "image %s is not whole: %w; build, import or pull it again", d.Short(), err).
			WithHint("the disk may be failing, or somebody has changed what is below %s", e.blobsDir())
	default:
		return containerdError(err, "verify image %s", d)
	}
}

func (c Config) blobsDir() string {
	return filepath.Join(c.DataDir, "containerd", "io.containerd.content.v1.content", "blobs")
}

// blobWhole compares a blob with its digest, unless its file is the one that was
// compared before. A blob that is something else is taken away: with it gone, whoever
// brings it again is not told that it is here.
func (e *Engine) blobWhole(ctx context.Context, store content.Store, d ocispec.Descriptor) error {
	file := filepath.Join(e.blobsDir(), d.Digest.Algorithm().String(), d.Digest.Encoded())
	stamp, err := stampOf(file)
	if err != nil {
		return err
	}
	e.drift.mu.Lock()
	known := e.drift.stamps[file]
	e.drift.mu.Unlock()
	if known == stamp {
		return nil
	}
	info, err := store.Info(ctx, d.Digest)
	if err != nil {
		return err
	}
	if info.Labels[verifiedLabel] != stamp {
		if changed, err := os.Lstat(file); err == nil && time.Since(changed.ModTime()).Abs() < clockTick {
			time.Sleep(clockTick) // as for layers
		}
		err := verifyBlob(ctx, store, d)
		if errors.Is(err, errCorrupt) {
			e.Log.Error("stored content is not what its digest says, and is removed", "digest", d.Digest.String(), "file", file)
			// The file first: containerd leaves it until it collects, and takes it for
			// whole if the blob comes again before.
			return errors.Join(err, os.Remove(file), store.Delete(ctx, d.Digest))
		}
		if err != nil {
			return err
		}
		info = content.Info{Digest: d.Digest, Labels: map[string]string{verifiedLabel: stamp}}
		if _, err := store.Update(ctx, info, "labels."+verifiedLabel); err != nil {
			return err
		}
	}
	e.drift.mu.Lock()
	defer e.drift.mu.Unlock()
	if e.drift.stamps == nil || len(e.drift.stamps) >= mostStamps {
		e.drift.stamps = map[string]string{}
	}
	e.drift.stamps[file] = stamp
	return nil
}

// mostStamps bounds what is remembered of blobs in memory; containerd remembers the
// rest.
const mostStamps = 4096

// stampOf returns what changes with any change of a file.
func stampOf(file string) (string, error) {
	info, err := os.Lstat(file)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("nothing is known of %s", file)
	}
	return fmt.Sprintf("%d-%d-%d-%d-%d", st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()), nil
}

// wholeImage sees to it that the image's blobs are whole, and its layers unpacked
// and what the blobs say.
func (e *Engine) wholeImage(ctx context.Context, d model.Digest, record images.Image, diffs []string) error {
	asked := time.Now()
	if err := e.wholeBlobs(ctx, d, record); err != nil {
		return err
	}
	if len(diffs) == 0 {
		return nil
	}
	blobs, err := e.layersOf(ctx, d)
	if err != nil {
		return err
	}
	dirs, err := e.lowersOf(ctx, diffs[len(diffs)-1])
	if err != nil {
		return err
	}
	if len(dirs) != len(blobs) {
		return model.Errorf(model.Precondition, "image %s is not whole: it has %d layers, and %d are unpacked", d.Short(), len(blobs), len(dirs))
	}
	for i, dir := range dirs {
		if err := e.wholeLayer(ctx, d, dir, layerContent{blob: &blobs[i], below: dirs[i+1:]}, asked); err != nil {
			return err
		}
	}
	return nil
}

// wholeRoot sees to it that all that a server is going to stand on is what its
// template says, and was when the start was asked for.
func (e *Engine) wholeRoot(ctx context.Context, asked time.Time, id model.ServerID, t model.Template, p *plan, lowers []string) error {
	pinned, err := e.client.ImageService().Get(ctx, pinName(t.Image))
	if err != nil {
		return containerdError(err, "look up image %s", t.Image.Short())
	}
	if err := e.wholeBlobs(ctx, t.Image, pinned); err != nil {
		return err
	}
	stack, err := e.stackOf(ctx, &record{ID: id, Template: t, Lowers: lowers, Cwd: p.cwd})
	if err != nil {
		return err
	}
	for i, dir := range lowers {
		if err := e.wholeLayer(ctx, t.Image, dir, stack.content(i), asked); err != nil {
			return err
		}
	}
	return nil
}

// lowersOf returns the directories that a file system over the snapshot stands on,
// uppermost first.
func (e *Engine) lowersOf(ctx context.Context, snapshot string) ([]string, error) {
	service := e.client.SnapshotService(snapshotter)
	unlock, err := e.locks.lock(ctx, "view")
	if err != nil {
		return nil, err
	}
	defer unlock()
	key := "kiln-view/" + shortHash("lowers", snapshot, strconv.Itoa(os.Getpid()), filepath.Base(e.RunDir))
	_ = service.Remove(ctx, key)
	mounts, err := service.View(ctx, key, snapshot, rootLabels())
	if err != nil {
		return nil, containerdError(err, "look into an image")
	}
	defer func() { _ = service.Remove(context.WithoutCancel(ctx), key) }()
	only, lowers := overlayDirs(mounts)
	if len(lowers) == 0 && only != "" {
		lowers = []string{only}
	}
	return lowers, nil
}

// wholeLayer sees to it that a directory holds what the layer says. A look that began
// after it was asked for stands for another.
func (e *Engine) wholeLayer(ctx context.Context, image model.Digest, dir string, content layerContent, asked time.Time) error {
	l, err := e.layerOf(dir)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if proof := content.proof(); l.proof != proof || !l.began.After(asked) || len(l.found)+len(l.whole) > 0 {
		if err := e.proveLocked(ctx, l, content, proof); err != nil {
			return err
		}
	}
	found := slices.Concat(l.found, l.whole)
	if len(found) == 0 {
		return nil
	}
	text := found[0].What + " " + found[0].Where + ": " + found[0].Detail
	if len(found) > 1 {
		text += fmt.Sprintf(", and %d more", len(found)-1)
	}
	return model.Errorf(model.Precondition, "image %s is not whole: what is unpacked of it was changed: %s", image.Short(), text).
		WithHint("put back what was there, or build the image anew with another content; the directory is %s", dir)
}

// proveLocked compares a layer with its content: what was touched since the last
// time, or all of it where there was none.
func (e *Engine) proveLocked(ctx context.Context, l *layer, content layerContent, proof string) error {
	began := time.Now()
	l.load()
	now, latest, err := listOf(ctx, l.dir)
	if err == nil && began.Sub(latest).Abs() < clockTick {
		// Two changes within a tick of the file system's clock look like one.
		time.Sleep(clockTick)
		now, _, err = listOf(ctx, l.dir)
	}
	if err != nil {
		return err
	}
	sum := sumOf(now)
	if l.proof == proof && l.sum == sum && len(l.whole) == 0 {
		l.found, l.began, l.at = nil, began, began
		return nil
	}
	var touched map[string]bool // nil: everything is compared
	if l.proof == proof && len(l.whole) == 0 {
		if was, err := os.ReadFile(l.list); err == nil && sumOf(was) == l.sum {
			touched = touchedPaths(was, now)
		}
	}
	found, err := content.compare(ctx, e, l.dir, touched, engine.Whole)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		l.found, l.whole = found, nil
		return nil
	}
	l.whole, l.proof, l.began, l.at = nil, proof, began, began
	return e.keepList(l, now, sum)
}

// clockTick is more than a tick of the clock that file systems take their times from:
// 10 ms where the kernel ticks a hundred times a second.
const clockTick = 20 * time.Millisecond

// load reads what an earlier process has kept of the layer.
func (l *layer) load() {
	if l.sum != 0 {
		return
	}
	b, err := os.ReadFile(l.list)
	if err != nil {
		l.proof = ""
		return
	}
	l.sum = sumOf(b)
	if kept, err := os.ReadFile(l.list + proofSuffix); err == nil {
		if sum, proof, _ := strings.Cut(string(kept), " "); sum == strconv.FormatUint(l.sum, 36) {
			l.proof = proof
		}
	}
}

// proofSuffix ends the name of the file that says against what the list of a layer
// was compared.
const proofSuffix = ".proof"

// proof names what the layer's bytes are compared with.
func (c layerContent) proof() string {
	if c.blob != nil {
		return c.blob.Digest.String()
	}
	places := slices.Sorted(slices.Values(c.places))
	return "places-" + shortHash(slices.Compact(places)...)
}

// chainsOf returns the snapshots of an image's layers, the lowest first.
func chainsOf(config ocispec.Image) []string {
	var all []string
	for i := range config.RootFS.DiffIDs {
		all = append(all, identity.ChainID(config.RootFS.DiffIDs[:i+1]).String())
	}
	return all
}
