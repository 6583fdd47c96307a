// Package layers reads the layers of images
// (https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md): it unpacks
// them, walks their entries within bounds, and compares them with their digests.
package layers

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// MaxWindow is how far back a zstd stream may refer, which is memory: what the format
// asks decoders to take at least is 8 MiB (RFC 8878, section 3.1.1.1.2); its tool
// writes 128 MiB when told to.
const MaxWindow = 128 << 20 // bytes

// buffer is how much is read at a time.
const buffer = 64 << 10 // bytes

// Unpack returns the plain stream, whatever compressed it: gzip, zstd, or nothing.
// What its first bytes say counts, as media types are often wrong. Closing it does
// not close r. The options are zstd's, beside MaxWindow.
func Unpack(r io.Reader, options ...zstd.DOption) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, buffer)
	magic, err := b.Peek(4)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, err
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}): // RFC 1952, section 2.3.1
		return gzip.NewReader(b)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), // RFC 8878, section 3.1.1
		len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.HasPrefix(magic[1:], []byte{0x2a, 0x4d, 0x18}): // a frame to be skipped comes first
		d, err := zstd.NewReader(b, append([]zstd.DOption{zstd.WithDecoderMaxWindow(MaxWindow)}, options...)...)
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}
