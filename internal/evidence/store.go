package evidence

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"kiln/internal/engine"
	"kiln/internal/model"
)

// The defaults of Options.
const (
	DefaultQuota   = 256 << 20
	DefaultReserve = 2 << 20
	DefaultMaxAge  = 90 * 24 * time.Hour
)

// Options of a Store. The zero value works.
type Options struct {
	Quota   int64 // bytes of all archives together; 0: DefaultQuota
	Reserve int64 // bytes that are given up when the disk is full; 0: DefaultReserve
	// Announce is told what is going to be removed to make room, and writes it
	// down. When it fails the removal goes on: a server's end does not wait.
	Announce func(ctx context.Context, removed model.ObjectsRemoved) error
	Logs     engine.Logger // where the whole log of an ended server is read; nil: its last lines are all
	History  History       // nil: the events that led to an end are not in its archive
	Metrics  Metrics       // nil: there are none
	Log      *slog.Logger
}

// Store keeps archives in a directory of its own. Its methods may be called at
// once.
type Store struct {
	dir  string
	opts Options

	room sync.Mutex // one at a time makes room, or uses or refills the reserve

	mu       sync.Mutex
	archives map[string]Archive // by digest
}

// Archive is one that is kept.
type Archive struct {
	Name   string    `json:"name,omitempty"` // of the server, or the session, that it is about; "" for those of the first kilns
	Digest string    `json:"digest"`         // sha256:…
	Size   int64     `json:"size"`           // bytes
	At     time.Time `json:"at"`             // when it was written
}

const (
	reserveName = "reserve"
	unfinished  = ".new"
	suffix      = ".tar.zst"
	oldSuffix   = ".json.zst" // of the first kilns, whose archives were no tar and had no name
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
	s := &Store{dir: dir, opts: opts, archives: map[string]Archive{}}
	if err := errors.Join(os.MkdirAll(dir, 0o700), s.load()); err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot open the evidence in %s: %w", dir, err)
	}
	s.room.Lock()
	defer s.room.Unlock()
	s.refillLocked()
	return s, nil
}

// load learns what is kept, and removes what a crash left of an archive that
// was being written.
func (s *Store) load() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), unfinished) {
			if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
			continue
		}
		a, ok := parseName(e.Name())
		if !ok {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		a.Size, a.At = info.Size(), info.ModTime().UTC()
		s.archives[a.Digest] = a
	}
	return nil
}

// fileName is NAME.DIGEST.tar.zst: of the oldest ones DIGEST.json.zst.
func (a Archive) fileName() string {
	hex := strings.TrimPrefix(a.Digest, "sha256:")
	if a.Name == "" {
		return hex + oldSuffix
	}
	return a.Name + "." + hex + suffix
}

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// parseName reads the name of an archive's file; false if it is none.
func parseName(file string) (Archive, bool) {
	if hex, old := strings.CutSuffix(file, oldSuffix); old {
		a := Archive{Digest: "sha256:" + hex}
		return a, model.ValidDigest(a.Digest)
	}
	rest, ok := strings.CutSuffix(file, suffix)
	if !ok {
		return Archive{}, false
	}
	name, hex, ok := strings.Cut(rest, ".")
	a := Archive{Name: name, Digest: "sha256:" + hex}
	return a, ok && validName.MatchString(name) && model.ValidDigest(a.Digest)
}

// Put writes an archive about the server or session with the name, durably, and
// returns its digest. Its files have the time at, when the server or session
// ended, so that the same content makes the same archive whenever it is written.
// What write adds is thrown away if it returns an error.
func (s *Store) Put(ctx context.Context, name string, at time.Time, write func(*Writer) error) (digest string, err error) {
	if !validName.MatchString(name) {
		return "", model.Errorf(model.Invalid, "cannot keep evidence of %q: that is the name of no server or session", name)
	}
	if err := ctx.Err(); err != nil {
		return "", model.Errorf(model.Unavailable, "cannot keep the evidence of %s: %w", name, err)
	}
	d, err := s.create()
	if err != nil {
		return "", err
	}
	out := seal(d, s.opts.Quota)
	err = pack(out, at, s.spool, write)
	if out.wrote != nil {
		err = out.wrote // whoever it went through may have lost what it was
	}
	if err == nil {
		err = d.f.Sync()
	}
	if err = errors.Join(err, d.f.Close()); err != nil {
		return "", errors.Join(err, ignoreAbsent(os.Remove(d.f.Name())))
	}
	a := Archive{Name: name, Digest: out.digest(), Size: out.size}
	return a.Digest, s.take(ctx, a, d)
}

// take makes a written file one of the archives.
func (s *Store) take(ctx context.Context, a Archive, d *disk) error {
	s.room.Lock()
	defer s.room.Unlock()
	s.makeRoomLocked(ctx, a.Size, s.opts.Quota, "to stay within the bound of what is kept of ended servers")
	path := filepath.Join(s.dir, a.fileName())
	info, err := os.Stat(d.f.Name())
	if err == nil {
		err = os.Rename(d.f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, ignoreAbsent(os.Remove(d.f.Name())))
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	a.At = info.ModTime().UTC()
	s.mu.Lock()
	s.archives[a.Digest] = a
	s.mu.Unlock()
	if !d.wasFull {
		s.refillLocked()
	}
	return nil
}

// makeRoomLocked removes the oldest archives until size more bytes are within
// the bound.
func (s *Store) makeRoomLocked(ctx context.Context, size, bound int64, reason string) {
	archives := s.list()
	total := size
	for _, a := range archives {
		total += a.Size
	}
	var gone []Archive
	for _, a := range archives {
		if total <= bound {
			break
		}
		gone = append(gone, a)
		total -= a.Size
	}
	s.removeAll(ctx, gone, reason)
}

// Trim removes the archives that are older than age.
func (s *Store) Trim(ctx context.Context, now time.Time, age time.Duration) {
	s.room.Lock()
	defer s.room.Unlock()
	var gone []Archive
	for _, a := range s.list() {
		if now.Sub(a.At) > age {
			gone = append(gone, a)
		}
	}
	s.removeAll(ctx, gone, "what is kept of ended servers is kept for "+words(age))
}

func words(d time.Duration) string { return model.Duration(d).String() }

// removeAll announces that the archives are removed, and removes them.
func (s *Store) removeAll(ctx context.Context, archives []Archive, reason string) {
	if len(archives) == 0 {
		return
	}
	const named, patience = 20, 5 * time.Second
	said := model.ObjectsRemoved{Object: model.ObjectEvidence, Count: len(archives), Reason: reason}
	for i, a := range archives {
		said.Bytes += a.Size
		if i < named {
			said.IDs = append(said.IDs, a.Digest)
		}
	}
	if s.opts.Announce != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		err := s.opts.Announce(ctx, said)
		cancel()
		if err != nil {
			s.opts.Log.Warn("cannot write down that evidence is removed", "archives", len(archives), "error", err)
		}
	}
	for _, a := range archives {
		if err := s.remove(a); err != nil {
			s.opts.Log.Warn("cannot remove evidence", "digest", a.Digest, "error", err)
			continue
		}
		s.opts.Log.Info("evidence removed", "digest", a.Digest, "name", a.Name, "bytes", a.Size, "written_at", a.At, "reason", reason)
	}
}

func (s *Store) remove(a Archive) error {
	if err := ignoreAbsent(os.Remove(filepath.Join(s.dir, a.fileName()))); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.archives, a.Digest)
	return nil
}

// Objects implements engine.Inventory.
func (s *Store) Objects(context.Context) ([]model.Object, error) {
	var out []model.Object
	for _, a := range s.list() {
		o := model.Object{Kind: model.ObjectEvidence, ID: a.Digest, Name: a.Name, Bytes: a.Size, At: a.At}
		if model.ValidServerID(a.Name) {
			o.Server = model.ServerID(a.Name)
		}
		out = append(out, o)
	}
	return out, nil
}

// Remove implements engine.Inventory.
func (s *Store) Remove(_ context.Context, o model.Object) error {
	s.mu.Lock()
	a, known := s.archives[o.ID]
	s.mu.Unlock()
	if !known {
		return nil
	}
	if err := s.remove(a); err != nil {
		return model.Errorf(model.Unavailable, "cannot remove evidence %s: %w", o.ID, err)
	}
	return nil
}

// List returns the archives that are kept, oldest first.
func (s *Store) List(context.Context) ([]Archive, error) { return s.list(), nil }

func (s *Store) list() []Archive {
	s.mu.Lock()
	defer s.mu.Unlock()
	archives := make([]Archive, 0, len(s.archives))
	for _, a := range s.archives {
		archives = append(archives, a)
	}
	slices.SortFunc(archives, func(a, b Archive) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Digest, b.Digest))
	})
	return archives
}

// Find returns the newest archive about the server or session; false if none
// is kept.
func (s *Store) Find(name string) (found Archive, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.archives {
		if a.Name == name && (!ok || a.At.After(found.At)) {
			found, ok = a, true
		}
	}
	return found, ok
}

// Open returns the files of the archive with the digest. Whoever asked closes
// them. That no byte of it was changed is certain when Open has returned.
func (s *Store) Open(digest string) (*Files, error) {
	if !model.ValidDigest(digest) {
		return nil, model.Errorf(model.Invalid, "cannot read evidence %q: that is not a digest", digest)
	}
	s.mu.Lock()
	a, known := s.archives[digest]
	s.mu.Unlock()
	f, err := os.Open(filepath.Join(s.dir, a.fileName()))
	if !known || errors.Is(err, fs.ErrNotExist) {
		_ = f.Close()
		return nil, model.Errorf(model.NotFound, "cannot read evidence %s: it is not here any more", digest).
			WithHint("The oldest evidence makes room for the newest. The death record itself stays.")
	}
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot read evidence %s: %w", digest, err)
	}
	x := &Files{f: f, at: a.At, legacy: a.Name == ""}
	if x.size, err = verify(f, digest); err != nil {
		_ = f.Close()
		return nil, err
	}
	return x, nil
}
