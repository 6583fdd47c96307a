package evidence

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"

	"kiln/internal/model"
)

// Bounds of the writer's memory.
const (
	window    = 1 << 20 // of the compression
	spoolFrom = 1 << 20 // what is longer, and does not say how long, is spooled to disk
)

// Writer writes the files of one archive, one after the other.
type Writer struct {
	tar   *tar.Writer
	seen  map[string]bool
	at    time.Time
	spool func() (*os.File, error)
}

// File adds a file. Its name is a path as package io/fs wants it, and new in
// the archive. A reader with a method Len, or a regular file, is read as it
// comes; another that gives much is spooled first, since a header says how long
// its file is.
func (w *Writer) File(name string, r io.Reader) error {
	if !fs.ValidPath(name) || name == "." || w.seen[name] {
		return model.Errorf(model.Invalid, "cannot add %q to an archive: that is no name, or one that is there", name)
	}
	size, r, done, err := w.measure(r)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer done()
	w.seen[name] = true
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: w.at.Truncate(time.Second)}
	if err := w.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := io.CopyN(w.tar, r, size); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// measure returns how much r gives, and what to read it from.
func (w *Writer) measure(r io.Reader) (size int64, from io.Reader, done func(), err error) {
	nothing := func() {}
	switch known := r.(type) {
	case interface{ Len() int }:
		return int64(known.Len()), r, nothing, nil
	case *os.File:
		at, err := known.Seek(0, io.SeekCurrent)
		info, err2 := known.Stat()
		if err == nil && err2 == nil && info.Mode().IsRegular() {
			return max(0, info.Size()-at), r, nothing, nil
		}
	}
	head, err := io.ReadAll(io.LimitReader(r, spoolFrom))
	if err != nil {
		return 0, nil, nothing, err
	}
	if len(head) < spoolFrom {
		return int64(len(head)), bytes.NewReader(head), nothing, nil
	}
	f, err := w.spool()
	if err != nil {
		return 0, nil, nothing, err
	}
	size, err = io.Copy(f, io.MultiReader(bytes.NewReader(head), r))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return 0, nil, nothing, err
	}
	return size, f, func() { _ = f.Close() }, nil
}

// pack compresses what write adds to an archive into out.
func pack(out io.Writer, at time.Time, spool func() (*os.File, error), write func(*Writer) error) error {
	encoder, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return err
	}
	w := &Writer{tar: tar.NewWriter(encoder), seen: map[string]bool{}, at: at, spool: spool}
	if err := write(w); err != nil {
		_ = encoder.Close() // what it wrote is thrown away
		return err
	}
	if err := w.tar.Close(); err != nil {
		_ = encoder.Close()
		return err
	}
	return encoder.Close()
}

// sealed is where an archive goes: it counts the bytes, takes their digest, and
// takes no more than most of them.
type sealed struct {
	to    io.Writer
	sum   hash.Hash
	size  int64
	most  int64
	wrote error
}

func seal(to io.Writer, most int64) *sealed { return &sealed{to: to, sum: sha256.New(), most: most} }

// Write implements io.Writer.
func (s *sealed) Write(p []byte) (int, error) {
	if s.size+int64(len(p)) > s.most {
		s.wrote = model.Errorf(model.Precondition, "it is larger than the quota of %d bytes", s.most)
		return 0, s.wrote
	}
	n, err := s.to.Write(p)
	s.sum.Write(p[:n])
	s.size += int64(n)
	s.wrote = err
	return n, err
}

func (s *sealed) digest() string { return "sha256:" + hex.EncodeToString(s.sum.Sum(nil)) }
