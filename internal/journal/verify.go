package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"

	"kiln/internal/model"
)

// Verify reads the whole journal and holds it against itself: every hash, the
// signed heads, journal.head, and the fold that the process works with. Appends
// go on meanwhile, and what they add is verified too.
func (j *Journal) Verify(ctx context.Context) (Report, error) {
	x := newExaminer(0)
	for {
		done, err := j.verifyPage(ctx, x)
		if err != nil {
			return Report{}, model.Errorf(model.Unavailable, "cannot verify the journal: %w", err)
		}
		if done {
			return x.report, nil
		}
	}
}

// verifyPage takes the next events, and finishes when there are no more. It
// holds the journal only as long as that takes.
func (j *Journal) verifyPage(ctx context.Context, x *examiner) (done bool, err error) {
	const page = 1000
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lock == nil {
		return true, errClosed
	}
	before := x.report.Events
	err = j.store.scan(ctx, x.end.Seq, page, x.row)
	if ctx.Err() != nil {
		return true, ctx.Err()
	}
	if err == nil && x.report.Events-before == page {
		return false, nil
	}
	if err != nil {
		x.unreadable(err)
	}
	s, err := readSeals(j.dir)
	if err != nil {
		return true, err
	}
	x.mark(s.files.head.Seq)
	x.finish(&s)
	x.foldProblem()
	if x.end.Seq == j.ledger.head.Seq && x.unread == nil && j.failed == nil {
		return true, j.compareStateLocked(x)
	}
	return true, nil
}

// compareStateLocked holds the fold of what is stored against the one in use.
func (j *Journal) compareStateLocked(x *examiner) error {
	if j.ledger.ahead || !x.report.Whole() {
		return nil
	}
	stored, err := json.Marshal(x.state)
	if err != nil {
		return err
	}
	used, err := json.Marshal(j.ledger.state)
	if err != nil {
		return err
	}
	if !bytes.Equal(stored, used) {
		x.problem(0, "the state in use is not the fold of the events")
	}
	return nil
}

// VerifyFile verifies the journal in dir, which no process may hold, and
// changes nothing of it.
func VerifyFile(ctx context.Context, dir string) (Report, error) {
	return ReadFile(ctx, dir, nil)
}

// ReadFile is VerifyFile, and passes on each event that fits the chain and can
// be read.
func ReadFile(ctx context.Context, dir string, each func(Entry)) (Report, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Report{}, model.Errorf(model.Invalid, "cannot verify journal %s: %w", dir, err)
	}
	if found, err := exists(filepath.Join(dir, headName)); err == nil && !found {
		if found, err = exists(filepath.Join(dir, dbName)); err == nil && !found {
			return Report{}, model.Errorf(model.NotFound, "there is no journal in %s", dir)
		}
	}
	lock, err := lockDir(dir)
	if err != nil {
		return Report{}, err
	}
	defer lock.Close()
	x, err := examineOnce(ctx, dir, "", each) // no snapshot: every event is read
	if err != nil {
		return Report{}, model.Errorf(model.Unavailable, "cannot verify journal %s: %w", dir, err)
	}
	x.foldProblem()
	return x.report, nil
}
