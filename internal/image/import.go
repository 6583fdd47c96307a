package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"path"
	"regexp"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kiln/internal/layers"
	"kiln/internal/model"
)

// Progress says how far an import or a pull has come.
type Progress struct {
	Phase string `json:"phase"` // "reading", "unpacking"
	Bytes int64  `json:"bytes"` // read so far
}

// Import reads an image from a stream, records it and unpacks it, so that it
// is ready to be built on. The stream is a root filesystem, an OCI layout or a
// docker archive, as a tar, plain or compressed with gzip or zstd. name is how
// FROM finds it; "" takes the name in the archive, if there is one.
//
// The same content gives the same digest. Invalid: the stream is not such an
// image, or is cut off, or its digests do not fit; nothing of it is kept.
func (s *Store) Import(ctx context.Context, r io.Reader, name string, progress func(Progress)) (model.Image, error) {
	if name != "" {
		full, err := Normalize(name)
		if err != nil {
			return model.Image{}, err
		}
		name = full
	}
	in := &input{ctx: ctx, r: r, progress: progress}
	var img model.Image
	err := s.leased(ctx, func(ctx context.Context, to *ingest) error {
		desc, names, err := s.ingest(ctx, to, in, name)
		if err != nil {
			return in.explain(err)
		}
		progress(Progress{Phase: "unpacking", Bytes: in.n})
		img, err = s.admit(ctx, desc, "import", names)
		return err
	})
	return img, err
}

// admit judges an image whose content is in the store, unpacks it, which compares its
// layers with the configuration, and records it.
func (s *Store) admit(ctx context.Context, desc ocispec.Descriptor, source string, names []string) (model.Image, error) {
	if err := s.judge(ctx, desc); err != nil {
		return model.Image{}, err
	}
	return s.record(ctx, desc, source, names)
}

// record unpacks what is not unpacked of an image that was judged, and records it.
func (s *Store) record(ctx context.Context, desc ocispec.Descriptor, source string, names []string) (model.Image, error) {
	if err := s.unpack(ctx, desc); err != nil {
		return model.Image{}, err
	}
	if err := s.pin(ctx, desc, source, names...); err != nil {
		return model.Image{}, err
	}
	d, err := s.Show(ctx, desc.Digest.String())
	return d.Image, err
}

// ingest writes the content of a stream to the store.
func (s *Store) ingest(ctx context.Context, to *ingest, in *input, name string) (ocispec.Descriptor, []string, error) {
	plain, err := decompress(in)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	defer plain.Close()
	archive, whole, err := sniff(plain)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	if archive {
		return s.ingestArchive(ctx, to, whole, name)
	}
	desc, err := s.ingestRootfs(ctx, to, whole)
	if name == "" {
		return desc, nil, err
	}
	return desc, []string{name}, err
}

// input counts what is read, and remembers a failure to read, so that it is
// not mistaken for a defect of the archive.
type input struct {
	ctx      context.Context
	r        io.Reader
	n, told  int64
	progress func(Progress)
	err      error
}

const progressEvery = 4 << 20

// Read implements io.Reader.
func (in *input) Read(p []byte) (int, error) {
	if err := in.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := in.r.Read(p)
	in.n += int64(n)
	if err != nil && err != io.EOF {
		in.err = err
	}
	if in.n-in.told >= progressEvery {
		in.told = in.n
		in.progress(Progress{Phase: "reading", Bytes: in.n})
	}
	return n, err
}

// explain says what went wrong with the stream.
func (in *input) explain(err error) error {
	var coded *model.Error
	var failed *storeError
	switch {
	case in.ctx.Err() != nil:
		return context.Cause(in.ctx)
	case in.err != nil:
		return model.Errorf(model.Unavailable, "cannot read the image: after %d bytes: %w", in.n, in.err)
	case errors.As(err, &failed):
		return unavailable("store the image", failed.err)
	case errors.As(err, &coded):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return model.Errorf(model.Invalid, "cannot import the image: the archive is cut off after %d bytes", in.n)
	case errors.Is(err, tar.ErrHeader):
		return model.Errorf(model.Invalid, "cannot import the image: this is not a tar archive, or it is damaged").
			WithHint("give a root filesystem, an OCI layout or a docker archive as tar, plain or compressed with gzip or zstd")
	default:
		return model.Errorf(model.Invalid, "cannot import the image: %w", err)
	}
}

// storeError is a failure of the store, not of what is stored.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

// decompress returns the plain stream, whatever compressed it.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(6)
	if err != nil && len(magic) == 0 {
		return nil, err
	}
	if bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}) || bytes.HasPrefix(magic, []byte("BZh")) {
		return nil, model.Errorf(model.Invalid, "cannot import the image: it is compressed with xz or bzip2, which is not supported").
			WithHint("decompress it first: xz -dc FILE | kiln images import -")
	}
	return layers.Unpack(b)
}

// archiveEntry matches the names with which image archives begin: those of the
// OCI layout and of docker save, old and new, and of other tools that write
// the like.
var archiveEntry = regexp.MustCompile(`^(blobs(/.*)?|oci-layout|index\.json|manifest\.json|repositories|(sha256:)?[0-9a-f]{64}(\.json|\.tar(\.gz)?|/.*)?)$`)

// sniff reads as far as the first entry that tells an image archive from a root
// filesystem, and returns the whole stream again.
func sniff(r io.Reader) (archive bool, whole io.Reader, err error) {
	var seen bytes.Buffer
	t := tar.NewReader(io.TeeReader(r, &seen))
	for {
		h, err := t.Next()
		if err == io.EOF {
			return false, nil, model.Errorf(model.Invalid, "cannot import the image: the archive is empty")
		}
		if err != nil {
			return false, nil, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if name == "" {
			continue // the directory itself says nothing
		}
		return archiveEntry.MatchString(name), io.MultiReader(&seen, r), nil
	}
}
