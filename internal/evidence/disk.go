package evidence

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"kiln/internal/model"
)

// disk writes a file. When the disk is full it gives up the reserve and goes
// on.
type disk struct {
	f       *os.File
	store   *Store
	wasFull bool
}

// create makes the file of an archive that is being written.
func (s *Store) create() (*disk, error) {
	f, err := os.CreateTemp(s.dir, "*"+unfinished)
	if full(err) && s.giveUpReserve() {
		f, err = os.CreateTemp(s.dir, "*"+unfinished)
	}
	if err != nil {
		return nil, err
	}
	return &disk{f: f, store: s}, nil
}

// spool returns a file that has no name any more.
func (s *Store) spool() (*os.File, error) {
	f, err := os.CreateTemp(s.dir, "*"+unfinished)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Write implements io.Writer.
func (d *disk) Write(p []byte) (int, error) {
	n, err := d.f.Write(p)
	if !full(err) {
		return n, err
	}
	d.wasFull = true
	if !d.store.giveUpReserve() {
		return n, err
	}
	more, err := d.f.Write(p[n:])
	return n + more, err
}

func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// giveUpReserve reports whether there was a reserve.
func (s *Store) giveUpReserve() bool {
	s.room.Lock()
	defer s.room.Unlock()
	if os.Remove(filepath.Join(s.dir, reserveName)) != nil {
		return false
	}
	s.opts.Log.Warn("the disk is full: the reserve for evidence is given up", "dir", s.dir, "bytes", s.opts.Reserve)
	return true
}

// refillLocked makes the reserve if it is not there and there is room. Without
// it all goes on; only a full disk is met unprepared.
func (s *Store) refillLocked() {
	path := filepath.Join(s.dir, reserveName)
	if info, err := os.Stat(path); err == nil && info.Size() == s.opts.Reserve {
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		err = errors.Join(allocate(f, s.opts.Reserve), f.Close())
	}
	if err != nil {
		_ = os.Remove(path)
		s.opts.Log.Warn("there is no room for the reserve for evidence", "dir", s.dir, "bytes", s.opts.Reserve, "error", err)
	}
}

// allocate gives the file real blocks. File systems without fallocate get
// bytes, which do the same.
func allocate(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = f.Write(make([]byte, size))
	}
	return err
}

// verify reads the file whole and returns its size.
func verify(f *os.File, digest string) (int64, error) {
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return 0, model.Errorf(model.Unavailable, "cannot read evidence %s: %w", digest, err)
	}
	if "sha256:"+hex.EncodeToString(sum.Sum(nil)) != digest {
		return 0, model.Errorf(model.Internal, "cannot read evidence %s: it was changed since it was written", digest)
	}
	return size, nil
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
