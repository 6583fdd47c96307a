package journal

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"kiln/internal/model"
)

// maxProblems bounds a report: a journal that is damaged all over needs no
// list of it.
const maxProblems = 100

// Problem is one thing that is wrong with a journal.
type Problem struct {
	Seq  uint64 `json:"seq"` // of the event, 0 if it is not about one
	What string `json:"what"`
}

// Report is what a verification found.
type Report struct {
	Events   uint64    `json:"events"`
	First    Mark      `json:"first"`
	Last     Mark      `json:"last"`
	Signed   int       `json:"signed_heads"` // that fit the chain and are signed by the journal's key
	Problems []Problem `json:"problems"`
}

// Whole reports whether nothing is wrong.
func (r Report) Whole() bool { return len(r.Problems) == 0 }

// examiner reads a journal from its first event to its last and says what is
// wrong with it. It folds the events on the way.
type examiner struct {
	report   Report
	hashes   map[uint64]Hash // of the events that are compared at the end
	markAt   uint64          // an event whose hash is kept besides those that are signed
	snapshot *snapshot       // where the fold starts, if it fits; nil: at the first event
	state    *model.State    // nil before the snapshot
	folded   uint64          // events that were folded
	misfit   bool            // the snapshot is not of this chain
	unread   error           // why an event could not be read or folded
	unreadAt uint64
	last     []byte // raw
	end      Head
	each     func(Entry) // is given the events that fit the chain and can be read; may be nil
}

func newExaminer(markAt uint64) *examiner {
	return &examiner{
		report: Report{Problems: []Problem{}},
		hashes: map[uint64]Hash{},
		markAt: markAt,
		state:  model.NewState(),
	}
}

// startAt makes the fold start at the snapshot.
func (x *examiner) startAt(s *snapshot) { x.snapshot, x.state = s, nil }

// mark keeps the hash of the event that was read last, if it is the one.
func (x *examiner) mark(seq uint64) {
	if seq == x.end.Seq {
		x.hashes[seq] = x.end.Hash
	}
}

func (x *examiner) problem(seq uint64, format string, args ...any) {
	if len(x.report.Problems) < maxProblems {
		x.report.Problems = append(x.report.Problems, Problem{Seq: seq, What: fmt.Sprintf(format, args...)})
	}
}

func (x *examiner) unreadable(err error) {
	x.problem(x.end.Seq+1, "nothing can be read after event %d: %v", x.end.Seq, err)
}

// row takes the next stored event.
func (x *examiner) row(seq uint64, stored, raw []byte) error {
	follows := seq == x.end.Seq+1
	if !follows {
		x.problem(x.end.Seq+1, "%s missing", eventsAre(x.end.Seq+1, seq-1))
	}
	hash := padded(stored)
	fits := len(stored) == len(hash) && link(x.end.Hash, raw) == hash
	if !fits && follows {
		x.problem(seq, "event %d does not fit its hash: it was changed, or put in the place of another", seq)
	}
	x.end = Head{Seq: seq, Hash: hash}
	x.last = append(x.last[:0], raw...)
	x.report.Events++
	if x.report.Events == 1 {
		x.report.First = Mark{Head: x.end, At: stamp(raw)}
	}
	if seq%signEvery == 0 || seq == x.markAt {
		x.hashes[seq] = hash
	}
	x.fold(raw, fits)
	if x.each != nil && fits {
		if e, err := readEntry(stored, bytes.Clone(raw)); err == nil {
			x.each(e)
		}
	}
	return nil
}

// padded makes damaged hashes as long as whole ones.
func padded(stored []byte) Hash {
	var h Hash
	copy(h[:], stored)
	return h
}

func eventsAre(from, to uint64) string {
	if from == to {
		return fmt.Sprintf("event %d is", from)
	}
	return fmt.Sprintf("events %d to %d are", from, to)
}

func (x *examiner) fold(raw []byte, fits bool) {
	if x.state == nil {
		switch {
		case x.end == x.snapshot.head:
			x.state = x.snapshot.state
		case x.end.Seq >= x.snapshot.head.Seq:
			x.misfit = true
		}
		return
	}
	if x.unread != nil || !fits {
		return
	}
	x.folded++
	var e model.Event
	err := json.Unmarshal(raw, &e)
	if err == nil {
		err = x.state.Apply(e)
	}
	if err != nil {
		x.unread, x.unreadAt = err, x.end.Seq
	}
}

// foldProblem makes a problem of an event that this program cannot read.
func (x *examiner) foldProblem() {
	if x.unread != nil {
		x.problem(x.unreadAt, "the state cannot be had: %v", x.unread)
	}
}

// finish says what only the end of the journal and the files beside it show.
// Without seals (in memory) there are no such files.
func (x *examiner) finish(s *seals) {
	if x.report.Events > 0 {
		x.report.Last = Mark{Head: x.end, At: stamp(x.last)}
	}
	if x.state == nil && x.snapshot.head.Seq > x.end.Seq {
		x.misfit = true
	}
	if s == nil {
		return
	}
	x.compareHead(s.files)
	x.compareSigned(s)
	if s.keyErr != nil {
		x.problem(0, "the key cannot be read: %v", s.keyErr)
	}
}

func (x *examiner) compareHead(f headFile) {
	switch {
	case f.missing && x.end.Seq == 0: // of a new journal
	case f.missing:
		x.problem(0, "%s is missing", headName)
	case f.lost:
		x.problem(0, "%s is damaged", headName)
	case x.end.Seq < f.head.Seq:
		x.problem(x.end.Seq+1, "%s missing: acknowledged, but the journal ends before", eventsAre(x.end.Seq+1, f.head.Seq))
	case f.head.Seq > 0 && x.hashes[f.head.Seq] != f.head.Hash:
		x.problem(f.head.Seq, "event %d is not the one that was acknowledged: %s has another hash", f.head.Seq, headName)
	case f.damaged && x.end.Seq == f.head.Seq:
		x.problem(0, "%s is damaged, and what is left of it cannot show that the journal is whole", headName)
	}
}

func (x *examiner) compareSigned(s *seals) {
	signed := s.bySeq()
	for i, h := range s.signed {
		hash, read := x.hashes[h.Seq]
		switch {
		case len(s.public()) == 0 || !h.Valid(s.public()):
			x.problem(h.Seq, "line %d of %s is not signed by the journal's key", i+1, headsName)
		case !read:
			x.problem(h.Seq, "event %d was signed, but it is not there", h.Seq)
		case hash != h.Hash:
			x.problem(h.Seq, "event %d is not the one that was signed: %s has another hash", h.Seq, headsName)
		default:
			x.report.Signed++
		}
	}
	for seq := uint64(signEvery); seq <= min(s.files.head.Seq, x.end.Seq); seq += signEvery {
		if _, ok := signed[seq]; !ok {
			x.problem(seq, "%s lacks the signed head of event %d", headsName, seq)
		}
	}
}

func stamp(raw []byte) (at time.Time) {
	var e struct{ At time.Time }
	if json.Unmarshal(raw, &e) != nil { // damage, which is reported where it was found
		return at
	}
	return e.At
}

// seals are the files beside the events that vouch for them.
type seals struct {
	files       headFile
	signed      []SignedHead
	headsLength int64              // of the whole lines of heads.log
	key         ed25519.PrivateKey // nil: there is none yet
	keyErr      error
}

func readSeals(dir string) (s seals, err error) {
	if s.files, err = readHead(dir); err != nil {
		return s, err
	}
	if s.signed, s.headsLength, err = readHeads(dir); err != nil {
		return s, err
	}
	s.key, s.keyErr = readKey(dir)
	return s, nil
}

func (s *seals) public() ed25519.PublicKey {
	if s.key == nil {
		return nil
	}
	return publicKey(s.key)
}

func (s *seals) bySeq() map[uint64]SignedHead {
	m := make(map[uint64]SignedHead, len(s.signed))
	for _, h := range s.signed {
		m[h.Seq] = h
	}
	return m
}

// examination is what is known of a directory after it was read.
type examination struct {
	*examiner
	seals seals
}

// examine reads the journal in dir without changing anything. An error says
// that it could not be read at all; what is wrong with it is in the report.
// build names the program whose snapshots may be used; "": none.
func examine(ctx context.Context, dir, build string) (*examination, error) {
	x, err := examineOnce(ctx, dir, build, nil)
	if err != nil || !x.misfit || !x.report.Whole() {
		return x, err
	}
	return examineOnce(ctx, dir, "", nil) // the snapshot does not fit
}

func examineOnce(ctx context.Context, dir, build string, each func(Entry)) (*examination, error) {
	s, err := readSeals(dir)
	if err != nil {
		return nil, err
	}
	x := &examination{examiner: newExaminer(s.files.head.Seq), seals: s}
	x.each = each
	path := filepath.Join(dir, dbName)
	found, err := exists(path)
	if err != nil {
		return nil, err
	}
	if found {
		err = x.read(ctx, path, build)
	} else if !s.files.missing {
		x.problem(0, "%s is missing", dbName)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		x.unreadable(err)
	}
	x.finish(&s)
	return x, nil
}

// read takes all events of the file.
func (x *examination) read(ctx context.Context, path, build string) (err error) {
	s, err := openStoreReadOnly(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if version, err := s.version(ctx); err != nil || version == 0 {
		return err // 0: the file has only just been made
	}
	if stored, found, err := s.snapshot(ctx); err == nil && found && x.seals.key != nil {
		if snap := decodeSnapshot(x.seals.public(), build, stored); snap != nil {
			x.startAt(snap)
		}
	}
	return s.scan(ctx, 0, -1, x.row)
}
