package contents

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"kiln/internal/layers"
	"kiln/internal/model"
)

// budget is what is left of the bounds of one image.
type budget struct {
	limits  Limits
	entries int
	bytes   int64 // of archives
	files   int64 // bytes of the files in them, which sparse files make more than the archives have
}

// The classes of what can be wrong with a layer, beyond what archive/tar says.
var (
	errBytes   = errors.New("it unpacks to more than the bound")
	errRatio   = errors.New("it unpacks to so many times its size that it can only be meant to harm")
	errEntries = errors.New("it has more entries than the bound")
)

// stored reads a layer's bytes as they are stored, no more than its size, and
// hashes them.
type stored struct {
	ctx  context.Context
	from io.ReadCloser
	sum  hash.Hash
	size int64 // as the manifest says
	read int64
	err  error // why the source ended early
}

func (s *stored) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		s.err = context.Cause(s.ctx)
		return 0, s.err
	}
	if left := s.size + 1 - s.read; int64(len(p)) > left { // one more shows that there is too much
		p = p[:left]
	}
	if len(p) == 0 {
		return 0, io.EOF
	}
	n, err := s.from.Read(p)
	s.sum.Write(p[:n])
	s.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// opened is a layer that is being read.
type opened struct {
	Layer
	raw    *stored
	plain  io.Reader
	close  func()
	budget *budget
	out    int64 // bytes unpacked
}

// openLayer begins to read a layer, whatever it is compressed with: what its first
// bytes say counts, as media types are often wrong.
func openLayer(ctx context.Context, at int, l v1.Layer, b *budget) (*opened, error) {
	digest, err := l.Digest()
	if err != nil {
		return nil, manifestError(ctx, err)
	}
	o := &opened{Layer: layerNamed(at, digest), budget: b}
	if !model.ValidDigest(digest.String()) {
		return nil, o.errorf("its digest is not sha256")
	}
	size, err := l.Size()
	if err != nil {
		return nil, o.wrap(sourceError(ctx, err))
	}
	from, err := l.Compressed()
	if err != nil {
		return nil, o.wrap(sourceError(ctx, err))
	}
	o.raw = &stored{ctx: ctx, from: from, sum: sha256.New(), size: size}
	o.close = func() { from.Close() }
	if err := o.decompress(); err != nil {
		err = o.verdict(err)
		o.close()
		return nil, err
	}
	return o, nil
}

func (o *opened) decompress() error {
	plain, err := layers.Unpack(o.raw, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	closeRaw := o.close
	o.plain, o.close = plain, func() { _ = plain.Close(); closeRaw() }
	return nil
}

// Read implements io.Reader: the layer's archive, within the bounds.
func (o *opened) Read(p []byte) (int, error) {
	n, err := o.plain.Read(p)
	o.out += int64(n)
	o.budget.bytes += int64(n)
	l := o.budget.limits
	if o.budget.bytes > l.Bytes {
		return 0, errBytes
	}
	if o.out > l.RatioFrom && o.out/l.Ratio > o.raw.read {
		return 0, errRatio
	}
	return n, err
}

// finish reads what follows the archive's end, which compressed streams have their
// checksums in, and compares the layer with its digest.
func (o *opened) finish() error {
	if _, err := io.Copy(io.Discard, o); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, o.raw); err != nil {
		return err
	}
	return o.damage()
}

// damage compares what was read, which is to be all there is, with the digest.
func (o *opened) damage() error {
	sum := "sha256:" + hex.EncodeToString(o.raw.sum.Sum(nil))
	switch {
	case o.raw.read < o.raw.size:
		return o.errorf("it is cut off: %d of its %d bytes are there", o.raw.read, o.raw.size)
	case o.raw.read > o.raw.size:
		return o.errorf("it has more than the %d bytes that its manifest says", o.raw.size)
	case sum != string(o.Digest):
		return o.errorf("it is damaged: its bytes do not match its digest")
	}
	return nil
}

// verdict makes the error to return of what went wrong while the layer was read.
// What the source says, and damage, come before what they lead to.
func (o *opened) verdict(err error) error {
	if e, ok := errors.AsType[*model.Error](err); ok {
		return e
	}
	bound := errors.Is(err, errBytes) || errors.Is(err, errRatio) || errors.Is(err, errEntries)
	if !bound && o.raw.err == nil {
		_, _ = io.Copy(io.Discard, o.raw) // its error is in raw.err
	}
	if o.raw.err != nil {
		if o.raw.read == o.raw.size { // the source compares digests too
			if damage := o.damage(); damage != nil {
				return damage
			}
		}
		return o.wrap(sourceError(o.raw.ctx, o.raw.err))
	}
	if !bound {
		if damage := o.damage(); damage != nil {
			return damage
		}
		return model.Errorf(model.Invalid, "cannot read %s: %w", o, err)
	}
	return model.Errorf(model.Invalid, "cannot read %s: %w", o, err).
		WithHint("an image with so much in it is not looked into; make it smaller, or see what it contains")
}

// String names the layer in messages.
func (l Layer) String() string { return fmt.Sprintf("layer %d (%s)", l.Index, l.Digest.Short()) }

func (o *opened) errorf(format string, args ...any) *model.Error {
	return model.Errorf(model.Invalid, "cannot read %s: "+format, append([]any{o.Layer}, args...)...)
}

func (o *opened) wrap(err error) error {
	return model.Errorf(model.CodeOf(err), "cannot read %s: %w", o, err)
}

// layerNamed names a layer of an image whose digests were checked, or will be.
func layerNamed(at int, digest v1.Hash) Layer {
	return Layer{Index: at, Digest: model.Digest(digest.String())}
}

func manifestError(ctx context.Context, err error) error {
	err = sourceError(ctx, err)
	return model.Errorf(model.CodeOf(err), "cannot read the image's manifest: %w", err)
}

// sourceError gives what comes from where the image is kept a class, unless it has
// one: it may be there later.
func sourceError(ctx context.Context, err error) error {
	if _, ok := errors.AsType[*model.Error](err); ok {
		return err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return model.Errorf(model.Unavailable, "%w", err)
}
