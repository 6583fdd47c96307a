package journal

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"kiln/internal/model"
)

// Options of a journal. The zero value works.
type Options struct {
	Log *slog.Logger
	// OnSignedHead hears of every signed head, so that a copy of it leaves the
	// machine. It must return soon.
	OnSignedHead func(SignedHead)
	// SnapshotEvery is how many events apart snapshots of the fold are; 0: 1,000.
	SnapshotEvery uint64

	reach func(step) error // tests: called at each step
}

var errClosed = errors.New("it is closed")

// step is a point at which a crash makes a difference.
type step string

const (
	stepKey   step = "key"      // of a new journal: the key is there
	stepStore step = "store"    // and the empty store
	stepNew   step = "new head" // and journal.head
	stepTail  step = "tail"     // of one that is longer than its head: the signed heads are there

	stepAdmitted  step = "admitted"  // nothing is stored
	stepCommitted step = "committed" // the events are durable
	stepSigned    step = "signed"    // and the signed head, if one was due
	stepHead      step = "head"      // and journal.head
	stepSnapshot  step = "snapshot"  // and the snapshot, if one was due
)

// Journal is the event log in a directory. Its methods may be called at once.
type Journal struct {
	dir  string
	opts Options
	lock *os.File

	mu          sync.Mutex
	store       *store
	headFile    *headWriter
	key         ed25519.PrivateKey
	headsLength int64
	build       string
	snapshotAt  uint64 // the last event of the newest snapshot
	ledger      ledger
	bare        bool          // there is no reserve
	failed      error         // why nothing can be appended any more
	changed     chan struct{} // closed by the next append
}

// Open opens the journal in dir and makes it if there is none. It refuses one
// that another process holds (Conflict) and one that is not whole, which it
// leaves as it is (Precondition).
func Open(dir string, opts Options) (*Journal, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.SnapshotEvery == 0 {
		opts.SnapshotEvery = 1000
	}
	if opts.reach == nil {
		opts.reach = func(step) error { return nil }
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot open journal %s: %w", dir, err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	j := &Journal{dir: dir, opts: opts, lock: lock, build: buildID(), changed: make(chan struct{})}
	if err := j.open(context.Background()); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

func (j *Journal) open(ctx context.Context) error {
	x, err := examine(ctx, j.dir, j.build)
	if err != nil {
		return model.Errorf(model.Unavailable, "cannot read journal %s: %w", j.dir, err)
	}
	if err := x.refusal(j.dir); err != nil {
		for _, p := range x.report.Problems {
			j.opts.Log.Error("journal damaged", "dir", j.dir, "seq", p.Seq, "problem", p.What)
		}
		return err
	}
	j.ledger = ledger{head: x.end, state: x.state}
	j.key, j.headsLength = x.seals.key, x.seals.headsLength
	if x.snapshot != nil {
		j.snapshotAt = x.snapshot.head.Seq
	}
	if err := j.openFiles(ctx, x); err != nil {
		return model.Errorf(model.Unavailable, "cannot open journal %s: %w", j.dir, err)
	}
	j.opts.Log.Info("journal opened", "dir", j.dir, "events", x.report.Events, "folded", x.folded, "signed_heads", x.report.Signed)
	j.snapshotIfDue(ctx)
	return nil
}

// openFiles makes what is missing of a new journal and finishes what a crash
// left unfinished.
func (j *Journal) openFiles(ctx context.Context, x *examination) (err error) {
	if j.key == nil {
		if j.key, err = createKey(j.dir); err != nil {
			return err
		}
	}
	if err := j.opts.reach(stepKey); err != nil {
		return err
	}
	if j.store, err = openStore(ctx, filepath.Join(j.dir, dbName)); err != nil {
		return err
	}
	if err := j.opts.reach(stepStore); err != nil {
		return err
	}
	if x.seals.files.missing {
		if err := errors.Join(syncDir(j.dir), createHead(j.dir)); err != nil {
			return err
		}
	}
	if err := j.opts.reach(stepNew); err != nil {
		return err
	}
	if j.headFile, err = openHead(j.dir, x.seals.files); err != nil {
		return err
	}
	j.growHeads()
	j.makeReserve()
	return j.acknowledgeTail(ctx, x)
}

// acknowledgeTail makes events part of the journal that were stored when a
// crash came before their acknowledgement.
func (j *Journal) acknowledgeTail(ctx context.Context, x *examination) error {
	if x.end == x.seals.files.head {
		return nil
	}
	tail, err := j.entries(ctx, x.seals.files.head.Seq, x.end.Seq)
	if err != nil {
		return err
	}
	if err := j.signDue(tail, x.seals.bySeq()); err != nil {
		return err
	}
	if err := j.opts.reach(stepTail); err != nil {
		return err
	}
	return j.headFile.write(x.end)
}

// entries returns all events in (after, upTo].
func (j *Journal) entries(ctx context.Context, after, upTo uint64) ([]Entry, error) {
	var entries []Entry
	err := j.store.scan(ctx, after, int(upTo-after), func(_ uint64, hash, raw []byte) error {
		e, err := readEntry(hash, raw)
		entries = append(entries, e)
		return err
	})
	return entries, err
}

// Close gives the directory up. What was acknowledged is durable without it.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lock == nil {
		return nil
	}
	j.failed = model.Errorf(model.Unavailable, "cannot append to the journal: %w", errClosed)
	var errs []error
	if j.store != nil {
		errs = append(errs, j.store.close())
	}
	if j.headFile != nil {
		errs = append(errs, j.headFile.file.Close())
	}
	errs = append(errs, j.lock.Close())
	j.lock = nil
	return errors.Join(errs...)
}

// Load returns the state after the last acknowledged event. It is the
// caller's own.
func (j *Journal) Load(ctx context.Context) (*model.State, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.refoldLocked(ctx); err != nil {
		return nil, err
	}
	return copyState(j.ledger.state)
}

// Head returns the place of the last acknowledged event.
func (j *Journal) Head() Head {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ledger.head
}

// Changed returns a channel that is closed by the next append. Whoever follows
// the journal takes the channel, reads to the end, then waits.
func (j *Journal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

// Events returns up to limit acknowledged events after the given one, in their
// order; none if there are no more.
func (j *Journal) Events(ctx context.Context, after uint64, limit int) ([]Entry, error) {
	head := j.Head()
	if after >= head.Seq || limit <= 0 {
		return nil, nil
	}
	upTo := min(head.Seq, after+uint64(limit))
	entries, err := j.entries(ctx, after, upTo)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot read the journal after event %d: %w", after, err)
	}
	return entries, nil
}

// refusal returns why the journal must not be used, nil if it may.
func (x *examination) refusal(dir string) error {
	problems := x.report.Problems
	switch {
	case len(problems) == 0 && x.unread == nil:
		return nil
	case len(problems) == 0:
		return model.Errorf(model.Precondition, "cannot open journal %s: %w", dir, x.unread).
			WithHint("The journal is whole, but this kiln cannot read it. Start the kiln that wrote it, or a newer one.")
	}
	more := ""
	if n := len(problems) - 1; n > 0 {
		more = fmt.Sprintf("; found besides: %d more", n)
	}
	return model.Errorf(model.Precondition, "cannot open journal %s: %s%s", dir, problems[0].What, more).
		WithHint("Servers and traffic go on without the daemon. Nothing in %s was changed. Put it back from a backup: "+
			"kiln restore FILE --data-dir %s --journal; the damaged one is kept beside it, and what runs is taken over. "+
			"The log lists everything that is wrong with it.", dir, filepath.Dir(dir))
}

// exists reports whether there is a file at path.
func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
