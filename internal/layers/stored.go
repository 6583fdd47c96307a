package layers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"

	"kiln/internal/model"
)

// stored reads a layer's bytes as they are stored, no more than its size, and
// hashes them.
type stored struct {
	ctx  context.Context
	from io.ReadCloser
	sum  hash.Hash // nil: they were compared before
	size int64     // as the manifest says
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
	if s.sum != nil {
		s.sum.Write(p[:n])
	}
	s.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// opened is a layer that is being read.
type opened struct {
	Layer
	*Walker
	raw   *stored
	plain io.Reader
	sum   hash.Hash // of the archive; nil: the stored bytes are said to be it, or it is not asked for
	close func()
	read  int64 // bytes of the archive
	out   int64 // of the archive, and of the files' holes that were read
}

// open begins to read a layer, whatever it is compressed with: what its first bytes
// say counts, as media types are often wrong.
func (w *Walker) open(ctx context.Context, l Layer) (*opened, error) {
	if l.Size < 0 {
		return nil, model.Errorf(model.Invalid, "cannot read %s: its manifest says that it has %d bytes", l, l.Size)
	}
	o := &opened{Layer: l, Walker: w}
	from, err := l.Open()
	if err != nil {
		return nil, o.wrap(sourceError(ctx, err))
	}
	o.raw = &stored{ctx: ctx, from: from, size: l.Size}
	if !l.Proven {
		o.raw.sum = sha256.New()
	}
	if !w.Unpacked && l.DiffID != l.Digest {
		o.sum = sha256.New()
	}
	o.close = func() { from.Close() }
	plain, err := Unpack(o.raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(w.limits.Window))
	if err != nil {
		err = o.verdict(err)
		o.close()
		return nil, err
	}
	o.plain, o.close = plain, func() { _ = plain.Close(); from.Close() }
	return o, nil
}

// Read implements io.Reader: the layer's archive, within the bounds.
func (o *opened) Read(p []byte) (int, error) {
	n, err := o.plain.Read(p)
	o.read += int64(n)
	if o.sum != nil {
		o.sum.Write(p[:n])
	}
	if cerr := o.add(int64(n)); cerr != nil {
		return 0, cerr
	}
	return n, err
}

// add counts what the layer has become.
func (o *opened) add(n int64) error {
	o.out += n
	o.bytes += n
	l := o.limits
	switch {
	case o.bytes > l.Bytes:
		return exceeds("the image unpacks to more than %d bytes", l.Bytes)
	case o.out > l.RatioFrom && o.out/l.Ratio > o.raw.read:
		return exceeds("%d bytes have become more than %d: the layer is made to exhaust who unpacks it", o.raw.read, o.out)
	}
	return nil
}

// finish reads what follows the archive's end, which compressed streams have their
// checksums in, and compares the layer with its digests.
func (o *opened) finish() error {
	if _, err := io.Copy(io.Discard, o); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, o.raw); err != nil {
		return err
	}
	if err := o.damage(); err != nil {
		return err
	}
	if o.Unpacked || o.sum == nil && o.read == o.raw.read {
		return nil // one that is not compressed has one digest for all
	}
	if o.sum == nil || sumOf(o.sum) != o.DiffID {
		return o.errorf("it unpacks to other bytes than the image's configuration says (%s)", o.DiffID.Short())
	}
	return nil
}

func sumOf(h hash.Hash) model.Digest {
	return model.Digest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}

// damagedError says that the bytes of a layer are not those of its digest.
type damagedError struct {
	error
	of model.Digest
}

// Damaged returns the digest of a layer whose bytes are others, if that is what the
// error of a walk says.
func Damaged(err error) (model.Digest, bool) {
	d, ok := errors.AsType[damagedError](err)
	return d.of, ok
}

// damage compares what was read, which is to be all there is, with the digest.
func (o *opened) damage() error {
	var what error
	switch {
	case o.raw.read < o.raw.size:
		what = fmt.Errorf("it is cut off: %d of its %d bytes are there", o.raw.read, o.raw.size)
	case o.raw.read > o.raw.size:
		what = fmt.Errorf("it has more than the %d bytes that its manifest says", o.raw.size)
	case o.raw.sum != nil && sumOf(o.raw.sum) != o.Digest:
		what = errors.New("it is damaged: its bytes do not match its digest")
	default:
		return nil
	}
	return o.errorf("%w", damagedError{what, o.Digest})
}

// verdict makes the error to return of what went wrong while the layer was read.
// What the source says, and damage, come before what they lead to.
func (o *opened) verdict(err error) error {
	if e, ok := errors.AsType[*model.Error](err); ok {
		return e
	}
	_, bound := errors.AsType[boundError](err)
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
	if bound {
		return model.Errorf(model.Invalid, "cannot read %s: %w", o.Layer, err).
			WithHint("an image with so much in it is not looked into; make it smaller, or see what it contains")
	}
	if damage := o.damage(); damage != nil {
		return damage
	}
	e := model.Errorf(model.Invalid, "cannot read %s: %w", o.Layer, err)
	if hint, ok := errors.AsType[hintError](err); ok {
		e = e.WithHint("%s", hint.hint)
	}
	return e
}

func (o *opened) errorf(format string, args ...any) *model.Error {
	return model.Errorf(model.Invalid, "cannot read %s: "+format, append([]any{o.Layer}, args...)...)
}

func (o *opened) wrap(err error) error {
	return model.Errorf(model.CodeOf(err), "cannot read %s: %w", o.Layer, err)
}
