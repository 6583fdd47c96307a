package image

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

// settle makes an image whose bytes depend on its content alone: times in its
// layers that are later than epoch become epoch. The layers of its bases are
// as they are.
//
// BuildKit can do this too (rewrite-timestamp), but writes every layer anew in
// every build. Here a layer refers to what it became, so that only those are
// written which the build has made.
func (s *Store) settle(ctx context.Context, to *ingest, built ocispec.Descriptor, bases []model.Digest, epoch time.Time) (ocispec.Descriptor, error) {
	m, spec, err := s.config(ctx, built)
	if err != nil {
		return built, unavailable("read the image that was built", err)
	}
	if len(spec.RootFS.DiffIDs) != len(m.Layers) {
		return built, model.Errorf(model.Internal, "cannot record the image: it has %d layers and %d digests of them", len(m.Layers), len(spec.RootFS.DiffIDs))
	}
	for i := s.inherited(ctx, m, bases); i < len(m.Layers); i++ {
		layer, diffID, err := s.settleLayer(ctx, to, m.Layers[i], epoch)
		if err != nil {
			return built, unavailable("settle the times in layer "+m.Layers[i].Digest.String(), err)
		}
		m.Layers[i], spec.RootFS.DiffIDs[i] = layer, diffID
	}
	if m.Config, err = s.settleConfig(ctx, to, m.Config, spec.RootFS); err != nil {
		return built, err
	}
	return writeJSON(ctx, to, ocispec.MediaTypeImageManifest, m, manifestLabels(m.Config, m.Layers))
}

// inherited returns how many of an image's layers, from the lowest, are those
// of a base. A base that cannot be read counts as none: its layers are settled
// as well.
func (s *Store) inherited(ctx context.Context, m ocispec.Manifest, bases []model.Digest) int {
	most := 0
	for _, d := range bases {
		info, err := s.client.ContentStore().Info(ctx, digest.Digest(d))
		if err != nil {
			continue
		}
		base, err := s.manifest(ctx, ocispec.Descriptor{Digest: info.Digest, Size: info.Size})
		if err != nil || len(base.Layers) > len(m.Layers) {
			continue
		}
		same := 0
		for same < len(base.Layers) && base.Layers[same].Digest == m.Layers[same].Digest {
			same++
		}
		if same == len(base.Layers) {
			most = max(most, same)
		}
	}
	return most
}

// settledLabel is the label by which a layer refers to what it became. It is a
// reference that containerd's collector follows.
func settledLabel(epoch time.Time) string {
	return fmt.Sprintf("%s%d", settledPrefix, epoch.Unix())
}

// settleLayer returns the layer that desc becomes, which is written once.
func (s *Store) settleLayer(ctx context.Context, to *ingest, desc ocispec.Descriptor, epoch time.Time) (ocispec.Descriptor, digest.Digest, error) {
	store := s.client.ContentStore()
	source, err := store.Info(ctx, desc.Digest)
	if err != nil {
		return desc, "", err
	}
	if known, ok := source.Labels[settledLabel(epoch)]; ok {
		info, err := store.Info(ctx, digest.Digest(known))
		if err == nil && info.Labels[labels.LabelUncompressed] != "" {
			return layerOf(info.Digest, info.Size), digest.Digest(info.Labels[labels.LabelUncompressed]), nil
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return desc, "", err
		}
	}
	layer, diffID, err := s.rewriteLayer(ctx, to, desc, epoch)
	if err != nil {
		return desc, "", err
	}
	key := settledLabel(epoch)
	_, err = store.Update(ctx, content.Info{Digest: desc.Digest, Labels: map[string]string{key: layer.Digest.String()}}, "labels."+key)
	return layer, diffID, err
}

func layerOf(d digest.Digest, size int64) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: d, Size: size}
}

// rewriteLayer writes a layer anew with its times bounded.
func (s *Store) rewriteLayer(ctx context.Context, to *ingest, desc ocispec.Descriptor, epoch time.Time) (ocispec.Descriptor, digest.Digest, error) {
	r, err := s.client.ContentStore().ReaderAt(ctx, desc)
	if err != nil {
		return desc, "", err
	}
	defer r.Close()
	plain, err := decompress(content.NewReader(r))
	if err != nil {
		return desc, "", err
	}
	defer plain.Close()
	w, err := content.OpenWriter(ctx, to, content.WithRef("settle-"+desc.Digest.String()))
	if err != nil {
		return desc, "", err
	}
	defer w.Close()
	stored := &storeWriter{w: w}
	buffered := bufio.NewWriterSize(stored, 256<<10)
	z, err := zstd.NewWriter(buffered, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return desc, "", err
	}
	diff := digest.SHA256.Digester()
	if err := boundTimes(io.MultiWriter(diff.Hash(), z), plain, epoch); err != nil {
		_ = z.Close()
		return desc, "", err
	}
	if err := z.Close(); err != nil {
		return desc, "", err
	}
	if err := buffered.Flush(); err != nil {
		return desc, "", err
	}
	blobLabels := map[string]string{labels.LabelUncompressed: diff.Digest().String()}
	if err := w.Commit(ctx, stored.n, "", content.WithLabels(blobLabels)); err != nil && !errdefs.IsAlreadyExists(err) {
		return desc, "", err
	}
	return layerOf(w.Digest(), stored.n), diff.Digest(), nil
}

// boundTimes copies a tar; times later than epoch become epoch.
func boundTimes(w io.Writer, r io.Reader, epoch time.Time) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return out.Close()
		}
		if err != nil {
			return err
		}
		for _, at := range []*time.Time{&h.ModTime, &h.AccessTime, &h.ChangeTime} {
			if at.After(epoch) {
				*at = epoch
			}
		}
		for key := range h.PAXRecords { // those that the fields above carry
			if key == "mtime" || key == "atime" || key == "ctime" || strings.HasPrefix(key, "LIBARCHIVE.creationtime") {
				delete(h.PAXRecords, key)
			}
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}

// settleConfig writes a configuration anew with other layers, and nothing else
// changed, also of what kiln does not know.
func (s *Store) settleConfig(ctx context.Context, to *ingest, desc ocispec.Descriptor, rootfs ocispec.RootFS) (ocispec.Descriptor, error) {
	var fields map[string]json.RawMessage
	if err := readJSON(ctx, s.client.ContentStore(), desc, &fields); err != nil {
		return desc, unavailable("read the configuration that was built", err)
	}
	b, err := json.Marshal(rootfs)
	if err != nil {
		return desc, model.Errorf(model.Internal, "cannot write JSON of an image: %w", err)
	}
	fields["rootfs"] = b
	return writeJSON(ctx, to, ocispec.MediaTypeImageConfig, fields, nil)
}
