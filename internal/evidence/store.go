package evidence

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// The defaults of Options.
const (
	DefaultQuota   = 256 << 20
	DefaultReserve = 2 << 20
)

// Options of a Store. The zero value works.
type Options struct {
	Quota   int64 // bytes of all archives together; 0: DefaultQuota
	Reserve int64 // bytes that are given up when the disk is full; 0: DefaultReserve
	Log     *slog.Logger
}

// Store keeps archives in a directory of its own. Its methods may be called at
// once.
type Store struct {
	dir  string
	opts Options

	mu sync.Mutex
}

// Archive is one that is kept.
type Archive struct {
	Digest string    `json:"digest"` // sha256:…
	Size   int64     `json:"size"`   // bytes
	At     time.Time `json:"at"`     // when it was written
}

const (
	reserveName = "reserve"
	unfinished  = ".new"
)

// Open opens the store in dir and makes it if there is none.
func Open(dir string, opts Options) (*Store, error) {
	if opts.Quota == 0 {
		opts.Quota = DefaultQuota
	}
	if opts.Reserve == 0 {
		opts.Reserve = DefaultReserve
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot open the evidence in %s: %w", dir, err)
	}
	s := &Store{dir: dir, opts: opts}
	if err := s.sweep(); err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot open the evidence in %s: %w", dir, err)
	}
	s.refillLocked()
	return s, nil
}

// sweep removes what a crash left of an archive that was being written.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), unfinished) {
			if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Write keeps the evidence of a server that has ended, durably, and returns
// its record with the archive's digest. Either evidence may be nil. What could
// not be kept is in the record's Missing, and is no error: the only error is
// that ctx has ended.
func (s *Store) Write(ctx context.Context, record model.DeathRecord, alive, dead *engine.Evidence) (model.DeathRecord, error) {
	if err := ctx.Err(); err != nil {
		return record, model.Errorf(model.Unavailable, "cannot keep the evidence of server %s: %w", record.Server, err)
	}
	content := merge(record, alive, dead)
	record.Missing = append(slices.Clone(record.Missing), content.Missing...)
	if alive == nil && dead == nil {
		if len(record.Missing) == 0 {
			record.Missing = []string{"evidence: none was collected"}
		}
		return record, nil
	}
	packed, digest, err := pack(content)
	if err == nil {
		err = s.keep(packed, digest)
	}
	if err != nil {
		s.opts.Log.Warn("evidence not kept", "server", string(record.Server), "bytes", len(packed), "error", err)
		record.Missing = append(record.Missing, "the archive of its evidence: "+words(err))
		return record, nil
	}
	record.Evidence = digest
	return record, nil
}

func words(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "the disk is full"
	case errors.Is(err, unix.EROFS):
		return "the disk is read-only"
	default:
		return err.Error()
	}
}

// keep stores an archive. When the disk is full it gives up the reserve.
func (s *Store) keep(packed []byte, digest string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.makeRoomLocked(int64(len(packed))); err != nil {
		return err
	}
	path := filepath.Join(s.dir, fileName(digest))
	err := writeFile(path, packed)
	if full(err) && s.giveUpReserveLocked() {
		return writeFile(path, packed)
	}
	if err == nil {
		s.refillLocked()
	}
	return err
}

func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// makeRoomLocked removes the oldest archives until size more bytes are within
// the quota.
func (s *Store) makeRoomLocked(size int64) error {
	if size > s.opts.Quota {
		return model.Errorf(model.Precondition, "its %d bytes are more than the quota of %d", size, s.opts.Quota)
	}
	archives, err := s.list()
	if err != nil {
		return err
	}
	total := size
	for _, a := range archives {
		total += a.Size
	}
	for _, a := range archives {
		if total <= s.opts.Quota {
			break
		}
		if err := os.Remove(filepath.Join(s.dir, fileName(a.Digest))); err != nil {
			return err
		}
		total -= a.Size
		s.opts.Log.Info("evidence removed to stay within its quota", "digest", a.Digest, "bytes", a.Size, "written_at", a.At, "quota", s.opts.Quota)
	}
	return nil
}

// giveUpReserveLocked reports whether there was a reserve.
func (s *Store) giveUpReserveLocked() bool {
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

// Read returns what the archive with the digest holds (Content), as it was
// written.
func (s *Store) Read(_ context.Context, digest string) (json.RawMessage, error) {
	if !model.ValidDigest(digest) {
		return nil, model.Errorf(model.Invalid, "cannot read evidence %q: that is not a digest", digest)
	}
	packed, err := os.ReadFile(filepath.Join(s.dir, fileName(digest)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, model.Errorf(model.NotFound, "cannot read evidence %s: it is not here any more", digest).
			WithHint("The oldest evidence makes room for the newest. The death record itself stays.")
	}
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot read evidence %s: %w", digest, err)
	}
	if digestOf(packed) != digest {
		return nil, model.Errorf(model.Internal, "cannot read evidence %s: it was changed since it was written", digest)
	}
	content, err := unpack(packed)
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot unpack evidence %s: %w", digest, err)
	}
	return content, nil
}

// List returns the archives that are kept, oldest first.
func (s *Store) List(context.Context) ([]Archive, error) {
	archives, err := s.list()
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot list the evidence: %w", err)
	}
	return archives, nil
}

func (s *Store) list() ([]Archive, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	archives := []Archive{}
	for _, e := range entries {
		digest := digestIn(e.Name())
		if digest == "" {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		archives = append(archives, Archive{Digest: digest, Size: info.Size(), At: info.ModTime().UTC()})
	}
	slices.SortFunc(archives, func(a, b Archive) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Digest, b.Digest))
	})
	return archives, nil
}

// writeFile makes the whole file appear at once and durably, or not at all.
func writeFile(path string, content []byte) error {
	f, err := os.OpenFile(path+unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(path+unfinished, path)
	}
	if err != nil {
		return errors.Join(err, ignoreAbsent(os.Remove(path+unfinished)))
	}
	return syncDir(filepath.Dir(path))
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
