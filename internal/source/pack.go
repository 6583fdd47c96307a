package source

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"kiln/internal/model"
)

// Pack writes what is listed as an archive. The same listing gives the same bytes.
// instead has the content of files that are to have another one than they have on
// disk, or are not there.
//
// Conflict: a file is not any more what it was when it was listed. Invalid: it cannot
// be read, or the archive is larger than MaxArchive.
func (l Listing) Pack(ctx context.Context, w io.Writer, instead map[string][]byte) error {
	bounded := &limited{w: w, left: MaxArchive}
	packed, err := zstd.NewWriter(bounded, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20), zstd.WithEncoderCRC(true))
	if err != nil {
		return model.Errorf(model.Internal, "cannot pack: %w", err)
	}
	out := tar.NewWriter(packed)
	for _, e := range l.with(instead) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := e.pack(out, instead); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	return packed.Close()
}

// with is the listing with entries for what is only in instead.
func (l Listing) with(instead map[string][]byte) Listing {
	all := slices.Clone(l)
	for name := range instead {
		for _, missing := range append(ancestors(name), name) {
			if slices.ContainsFunc(all, func(e Entry) bool { return e.Path == missing }) {
				continue
			}
			e := Entry{Path: missing, mode: fs.ModeDir | 0o755, times: [2]time.Time{time.Unix(0, 0)}}
			if missing == name {
				e.mode = 0o644
			}
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return byPath(a.Path, b.Path) })
	return all
}

func (e Entry) pack(out *tar.Writer, instead map[string][]byte) error {
	h := &tar.Header{Name: e.Path, Mode: int64(e.mode.Perm()), ModTime: e.times[0].UTC(), Format: tar.FormatPAX}
	switch e.mode.Type() {
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
		if e.mode&fs.ModeSetgid != 0 {
			h.Mode |= 0o2000
		}
		if e.mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		return out.WriteHeader(h)
	case fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		return out.WriteHeader(h)
	default: // a regular file: nothing else is listed
	}
	h.Typeflag, h.Size = tar.TypeReg, e.size
	if text, ok := instead[e.Path]; ok {
		h.Size = int64(len(text))
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(out, bytes.NewReader(text))
		return err
	}
	return e.packFile(out, h)
}

// packFile copies a file, which has to be what was listed when that is done.
func (e Entry) packFile(out *tar.Writer, h *tar.Header) error {
	f, err := os.Open(e.from)
	if err != nil {
		return model.Errorf(model.Invalid, "cannot read %s: %w", clip(e.Path), reason(err))
	}
	defer f.Close()
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(f, e.size))
	if err != nil {
		return err
	}
	var now Entry
	st, err := f.Stat()
	if err == nil {
		now, err = entryOf(e.Path, e.from, st)
	}
	if err != nil || n != e.size || !e.same(now) {
		return model.Errorf(model.Conflict, "%s was changed meanwhile", clip(e.Path))
	}
	return nil
}

// limited refuses what is past its bound.
type limited struct {
	w    io.Writer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, model.Errorf(model.Invalid, "packed it has more than %s", model.SizeText(MaxArchive)).
			WithHint("leave out what the image does not need: .dockerignore")
	}
	return l.w.Write(p)
}
