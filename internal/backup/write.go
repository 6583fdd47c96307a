package backup

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/api"
	"kiln/internal/image"
	"kiln/internal/journal"
	"kiln/internal/model"
)

// rollbackWindow is how many of a service's latest releases that succeeded
// have their images in a backup, besides the one in service.
const rollbackWindow = 10

// Images reads images.
type Images interface {
	Blobs(ctx context.Context, d model.Digest) ([]image.Blob, error)
	OpenBlob(ctx context.Context, b image.Blob) (io.ReadCloser, error)
}

// Source is what a backup is made of.
type Source struct {
	Journal *journal.Journal
	Images  Images
	DataDir string
	Version string   // of this kiln
	Daemon  []string // the arguments of the daemon, for who restores
}

// Write writes an archive of the instance as it is now, and returns what is in
// it. An image that is not whole is left out, and listed as missing.
func Write(ctx context.Context, w io.Writer, src Source, req api.BackupRequest) (*api.BackupReport, error) {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot make a backup: %w", err)
	}
	out := &writer{ctx: ctx, src: src, packer: packer{tar: tar.NewWriter(z), at: time.Now().UTC().Truncate(time.Second)}}
	report, err := out.write(req)
	if err == nil {
		err = out.tar.Close()
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		if _, coded := errors.AsType[*model.Error](err); !coded {
			err = model.Errorf(model.Unavailable, "cannot make a backup: %w", err)
		}
		return nil, err
	}
	return report, nil
}

type writer struct {
	packer
	ctx context.Context
	src Source
}

func (w *writer) write(req api.BackupRequest) (*api.BackupReport, error) {
	copied, err := w.src.Journal.Copy(w.ctx)
	if err != nil {
		return nil, err
	}
	m := &manifest{
		mark: mark{format, formatVersion}, Instance: copied.State.Instance, MadeAt: w.at, Kiln: w.src.Version,
		Head: copied.Head, Daemon: w.src.Daemon, Images: []api.BackupImage{}, Missing: []api.BackupImage{},
	}
	if err := w.addJSON(markName, m.mark); err != nil {
		return nil, err
	}
	if err := w.addBytes(instanceName, []byte(m.Instance+"\n")); err != nil {
		return nil, err
	}
	if err := w.journal(copied); err != nil {
		return nil, err
	}
	if err := w.tree("certificates", certsDir); err != nil {
		return nil, err
	}
	// Without the key, which is to be kept apart.
	for _, part := range valueDirs {
		if err := w.tree(strings.TrimSuffix(part, "/"), part); err != nil {
			return nil, err
		}
	}
	if err := w.declared(); err != nil {
		return nil, err
	}
	if req.Evidence {
		if err := w.tree("evidence", evidenceDir); err != nil {
			return nil, err
		}
	}
	needed := neededImages(copied.State)
	if !req.Images {
		m.Missing, needed = needed, nil
	}
	if err := w.images(m, needed); err != nil {
		return nil, err
	}
	return w.finish(m, copied)
}

// finish writes the manifest and its signature.
func (w *writer) finish(m *manifest, copied *journal.Copy) (*api.BackupReport, error) {
	m.Files = slices.Clone(w.files)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot make a backup: %w", err)
	}
	if err := w.addBytes(manifestName, text); err != nil {
		return nil, err
	}
	if err := w.addBytes(sigName, copied.Sign(signed(m.Version, text))); err != nil {
		return nil, err
	}
	report := m.report()
	report.Key = fmt.Sprintf("%x", copied.Key())
	return report, nil
}

func (w *writer) addBytes(name string, b []byte) error {
	return w.add(name, int64(len(b)), bytes.NewReader(b))
}

func (w *writer) addJSON(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return model.Errorf(model.Internal, "cannot make a backup: %w", err)
	}
	return w.addBytes(name, append(b, '\n'))
}

func (w *writer) journal(copied *journal.Copy) error {
	seals, err := copied.Seals()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(seals)) {
		if err := w.addBytes(journalDir+name, seals[name]); err != nil {
			return err
		}
	}
	return copied.Parts(w.ctx, func(first uint64, lines []byte) error {
		return w.addBytes(fmt.Sprintf("%s%012d", eventsDir, first), lines)
	})
}

// tree adds the regular files below a directory of the data directory. What is
// being written there has a name that begins with a dot, or ends with .new or
// .tmp, and what is only kept for its room is called reserve; neither belongs
// to it.
func (w *writer) tree(dir, prefix string) error {
	root := filepath.Join(w.src.DataDir, dir)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // there is none, or it has gone meanwhile
		}
		if err != nil || !d.Type().IsRegular() || unfinished(d.Name()) {
			return err
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return w.addBytes(prefix+filepath.ToSlash(name), b)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", root, err)
	}
	return nil
}

// declared adds what is declared in files of the data directory.
func (w *writer) declared() error {
	for _, name := range declaredFiles {
		b, err := os.ReadFile(filepath.Join(w.src.DataDir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = w.addBytes(name, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func unfinished(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".new") || strings.HasSuffix(name, ".tmp") || name == "reserve"
}

// images adds the images as an OCI layout. Layers that they share are in it
// once.
func (w *writer) images(m *manifest, needed []api.BackupImage) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	written := map[model.Digest]bool{}
	for _, img := range needed {
		blobs, err := w.src.Images.Blobs(w.ctx, img.Image)
		if model.CodeOf(err) == model.NotFound {
			m.Missing = append(m.Missing, img)
			continue
		}
		if err != nil {
			return err
		}
		for _, b := range blobs {
			if written[b.Digest] {
				continue
			}
			written[b.Digest] = true
			if err := w.blob(b); err != nil {
				return err
			}
		}
		desc := ocispec.Descriptor{MediaType: blobs[0].MediaType, Digest: digest.Digest(blobs[0].Digest), Size: blobs[0].Size}
		if len(img.Names) > 0 {
			desc.Annotations = map[string]string{"io.containerd.image.name": img.Names[0]}
		}
		index.Manifests = append(index.Manifests, desc)
		m.Images = append(m.Images, img)
	}
	if len(m.Images) == 0 {
		return nil
	}
	if err := w.addJSON(imagesDir+ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}); err != nil {
		return err
	}
	return w.addJSON(imagesDir+ocispec.ImageIndexFile, index)
}

func (w *writer) blob(b image.Blob) error {
	r, err := w.src.Images.OpenBlob(w.ctx, b)
	if err != nil {
		return err
	}
	defer r.Close()
	return w.add(blobsDir+strings.TrimPrefix(string(b.Digest), "sha256:"), b.Size, r)
}

// neededImages lists the images of the releases in service, of deployments that
// run or wait, and of the latest releases that succeeded.
func neededImages(s *model.State) []api.BackupImage {
	found := map[model.Digest]*api.BackupImage{}
	for _, name := range slices.Sorted(maps.Keys(s.Services)) {
		svc := s.Services[name]
		if svc.Destroyed {
			continue
		}
		for _, number := range neededReleases(svc) {
			r := svc.Release(number)
			if r == nil {
				continue
			}
			if known := s.Images[r.Template.Image]; known != nil && !known.RemovedAt.IsZero() {
				continue // retention has removed it: the release cannot be rolled back to
			}
			img := found[r.Template.Image]
			if img == nil {
				img = &api.BackupImage{Image: r.Template.Image}
				if known := s.Images[img.Image]; known != nil {
					img.Names, img.Source, img.Size = known.Names, known.Source, known.Size
				}
				found[img.Image] = img
			}
			use := fmt.Sprintf("%s release %d", name, number)
			if number == svc.InService {
				use += " (in service)"
			}
			img.UsedBy = append(img.UsedBy, use)
		}
	}
	list := []api.BackupImage{}
	for _, img := range found {
		list = append(list, *img)
	}
	slices.SortFunc(list, func(a, b api.BackupImage) int { return cmp.Compare(a.Image, b.Image) })
	return list
}

// neededReleases returns the numbers of a service's releases that run, are to
// run, or can be rolled back to.
func neededReleases(svc *model.Service) []int {
	wanted := map[int]bool{}
	if svc.InService != 0 {
		wanted[svc.InService] = true
	}
	if svc.Deployment != nil {
		wanted[svc.Deployment.To] = true
	}
	for _, d := range svc.Queue {
		wanted[d.To] = true
	}
	succeeded := 0
	for _, d := range slices.Backward(svc.Deployments) {
		if d.Verdict == model.Succeeded && succeeded < rollbackWindow {
			wanted[d.To] = true
			succeeded++
		}
	}
	return slices.Sorted(maps.Keys(wanted))
}
