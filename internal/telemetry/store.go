package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/compression"
)

// store is the database on disk. One goroutine appends; any number ask.
type store struct {
	db      *tsdb.DB
	series  map[uint64]*series // by the hash of the labels
	last    int64              // when was last appended; 0: not yet
	suspend func() bool        // nothing is deleted while it says so
}

// series is a time series that this process appends to.
type series struct {
	labels labels.Labels
	ref    storage.SeriesRef
	at     int64 // of the last sample
}

// How far back in time samples may come, as after the wall clock was set back,
// and how long a series that has ended is remembered.
const (
	lateness = 48 * time.Hour
	forget   = 10 * time.Minute
	segment  = 8 << 20 // bytes of one file of the database's log
)

// openStore opens the database, or makes it. One that cannot be opened is put
// aside: metrics never keep the daemon from its work. One that lacks room only
// stays as it is.
func openStore(dir string, retention time.Duration, maxBytes int64, suspend func() bool, log *slog.Logger) (*store, error) {
	s := &store{series: map[uint64]*series{}, suspend: suspend}
	err := roomy(dir)
	if err == nil {
		err = s.open(dir, retention, maxBytes, log)
	}
	switch {
	case err == nil:
		return s, nil
	case full(err):
		return nil, err
	}
	aside := dir + ".damaged"
	log.Error("cannot open the metrics; they are put aside and begin anew", "error", err, "aside", aside)
	if err := errors.Join(os.RemoveAll(aside), rename(dir, aside)); err != nil {
		return nil, fmt.Errorf("cannot put the metrics aside: %w", err)
	}
	if err := s.open(dir, retention, maxBytes, log); err != nil {
		return nil, err
	}
	return s, nil
}

// roomy returns an error where there is no room to open the database. What a full
// disk has torn is mended by copying a segment, and lost where that finds no room.
func roomy(dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return nil //nolint:nilerr // there is none yet, or opening it says what is wrong
	}
	if int64(st.Bavail)*st.Bsize < 2*segment {
		return fmt.Errorf("cannot open %s: %w", dir, syscall.ENOSPC)
	}
	return nil
}

// full reports whether the disk has no room.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *store) open(dir string, retention time.Duration, maxBytes int64, log *slog.Logger) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	o := tsdb.DefaultOptions()
	o.RetentionDuration = retention.Milliseconds()
	o.MaxBytes = maxBytes
	o.MaxBlockDuration = min(retention/10, 31*24*time.Hour).Milliseconds()
	o.MaxBlockDuration = max(o.MaxBlockDuration, o.MinBlockDuration)
	// Far fewer series than a Prometheus has, on a machine that has other work.
	o.StripeSize = 512
	o.WALSegmentSize = segment
	o.WALCompression = compression.Snappy
	o.WALReplayConcurrency = 1
	o.HeadChunksWriteBufferSize = 64 << 10
	o.OutOfOrderTimeWindow = lateness.Milliseconds()
	o.NoLockfile = true // the journal's lock keeps a second daemon out
	var db atomic.Pointer[tsdb.DB]
	o.BlocksToDelete = func(blocks []*tsdb.Block) map[ulid.ULID]struct{} {
		if opened := db.Load(); opened != nil && !s.suspend() {
			return tsdb.DefaultBlocksToDelete(opened)(blocks)
		}
		merged := map[ulid.ULID]struct{}{}
		for _, b := range blocks {
			if b.Meta().Compaction.Deletable { // its content is in another block
				merged[b.Meta().ULID] = struct{}{}
			}
		}
		return merged
	}
	opened, err := tsdb.Open(dir, quiet(log), nil, o, nil)
	if err != nil {
		return err
	}
	db.Store(opened)
	s.db = opened
	return nil
}

// quiet passes on what went wrong in the database; what it says of its daily
// work is for those who debug.
func quiet(log *slog.Logger) *slog.Logger {
	return slog.New(atLeast{log.Handler(), slog.LevelWarn})
}

// append writes the samples with the time. Series that were there at the last
// time and are not any more are marked as ended; a counter that was not there
// began at 0 then, so that what it counted in its first interval counts.
func (s *store) append(ctx context.Context, now time.Time, fams *families) error {
	at := now.UnixMilli()
	app := s.db.Appender(ctx)
	var errs []error
	for _, f := range fams.list {
		for i := range f.samples {
			if err := s.appendOne(app, f.kind, &f.samples[i], at); err != nil && len(errs) == 0 {
				errs = append(errs, err)
			}
		}
	}
	for hash, known := range s.series {
		switch {
		case known.at == s.last && known.at != at:
			if _, err := app.Append(known.ref, known.labels, at, math.Float64frombits(value.StaleNaN)); err != nil && len(errs) == 0 {
				errs = append(errs, err)
			}
		case at-known.at > forget.Milliseconds():
			delete(s.series, hash)
		}
	}
	s.last = at
	return errors.Join(append(errs, app.Commit())...)
}

func (s *store) appendOne(app storage.Appender, k kind, x *sample, at int64) error {
	hash := x.labels.Hash()
	known := s.series[hash]
	if known == nil || !labels.Equal(known.labels, x.labels) {
		known = &series{labels: x.labels}
		s.series[hash] = known
		if k != gauge && s.last != 0 && s.last < at {
			ref, err := app.Append(0, x.labels, s.last, 0)
			if err != nil {
				return err
			}
			known.ref = ref
		}
	}
	ref, err := app.Append(known.ref, known.labels, at, x.value)
	known.ref, known.at = ref, at
	return err
}

// close ends the database; what was appended is on disk already.
func (s *store) close() error { return s.db.Close() }
