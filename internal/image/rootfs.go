package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"runtime"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/model"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ingestRootfs makes an image of one layer. Nothing in it depends on when or
// where it is made.
func (s *Store) ingestRootfs(ctx context.Context, to *ingest, r io.Reader) (ocispec.Descriptor, error) {
	layer, diffID, err := ingestLayer(ctx, to, r)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	spec := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config:   ocispec.ImageConfig{Env: []string{defaultPath}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		History:  []ocispec.History{{CreatedBy: "kiln images import"}},
	}
	config, err := writeJSON(ctx, to, ocispec.MediaTypeImageConfig, spec, nil)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return writeJSON(ctx, to, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config,
		Layers:    []ocispec.Descriptor{layer},
	}, manifestLabels(config, []ocispec.Descriptor{layer}))
}

// ingestLayer stores a tar, compressed with zstd, and checks while reading that
// it is a whole one.
func ingestLayer(ctx context.Context, to *ingest, r io.Reader) (ocispec.Descriptor, digest.Digest, error) {
	var none ocispec.Descriptor
	w, err := content.OpenWriter(ctx, to, content.WithRef("rootfs"))
	if err != nil {
		return none, "", &storeError{err}
	}
	defer w.Close()
	stored := &storeWriter{w: w}
	z, err := zstd.NewWriter(stored, zstd.WithEncoderConcurrency(2))
	if err != nil {
		return none, "", err
	}
	diff := digest.SHA256.Digester()
	end := &tail{}
	if err := walkTar(io.TeeReader(r, io.MultiWriter(diff.Hash(), end, z))); err != nil {
		_ = z.Close()
		return none, "", err
	}
	if err := z.Close(); err != nil {
		return none, "", err
	}
	if !end.marked() {
		return none, "", io.ErrUnexpectedEOF
	}
	blobLabels := map[string]string{labels.LabelUncompressed: diff.Digest().String()}
	if err := w.Commit(ctx, 0, "", content.WithLabels(blobLabels)); err != nil && !errdefs.IsAlreadyExists(err) {
		return none, "", &storeError{err}
	}
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerZstd,
		Digest:    w.Digest(),
		Size:      stored.n,
	}, diff.Digest(), nil
}

// walkTar reads a tar to the end of the stream.
func walkTar(r io.Reader) error {
	t := tar.NewReader(r)
	for {
		_, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, r) // padding after the end mark is part of the layer
	return err
}

// tail remembers whether a stream ended in two blocks of zeros, as a tar does
// that is not cut off between two of its files.
type tail struct{ zeros int64 }

const endMark = 1024

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	rest := bytes.TrimRight(p, "\x00")
	if len(rest) == 0 {
		t.zeros += int64(len(p))
	} else {
		t.zeros = int64(len(p) - len(rest))
	}
	return len(p), nil
}

func (t *tail) marked() bool { return t.zeros >= endMark }

// storeWriter counts bytes and marks failures as the store's.
type storeWriter struct {
	w io.Writer
	n int64
}

// Write implements io.Writer.
func (s *storeWriter) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.n += int64(n)
	if err != nil {
		return n, &storeError{err}
	}
	return n, nil
}

// writeJSON stores a value as a blob.
func writeJSON(ctx context.Context, to *ingest, mediaType string, v any, blobLabels map[string]string) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, model.Errorf(model.Internal, "cannot write JSON of an image: %w", err)
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	err = content.WriteBlob(ctx, to, desc.Digest.String(), bytes.NewReader(b), desc, content.WithLabels(blobLabels))
	if err != nil {
		return ocispec.Descriptor{}, &storeError{err}
	}
	return desc, nil
}
