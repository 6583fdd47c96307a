package journal

import "context"

// Step is a point at which tests crash a journal.
type Step = step

// OpeningSteps and AppendSteps are all of them.
var (
	OpeningSteps = []Step{stepKey, stepStore, stepNew}
	AppendSteps  = []Step{stepAdmitted, stepCommitted, stepSigned, stepHead, stepSnapshot}
)

// The steps that tests name.
const (
	StepAdmitted  = stepAdmitted
	StepCommitted = stepCommitted
	StepSigned    = stepSigned
	StepTail      = stepTail
)

// Reaching returns the options with a function that is called at each step.
func (o Options) Reaching(reach func(Step) error) Options {
	o.reach = reach
	return o
}

// Checkpoint moves the write-ahead log into the database file, and leaves the
// log as it is.
func (j *Journal) Checkpoint(ctx context.Context) error {
	_, err := j.store.db.ExecContext(ctx, `PRAGMA wal_checkpoint(PASSIVE)`)
	return err
}

// SQL runs a statement on the journal's store.
func (j *Journal) SQL(ctx context.Context, statement string, args ...any) error {
	_, err := j.store.db.ExecContext(ctx, statement, args...)
	return err
}

// ForgeSnapshot stores a snapshot that is signed, of another chain.
func (j *Journal) ForgeSnapshot(ctx context.Context) error {
	head := j.ledger.head
	head.Hash[0] ^= 1
	state, err := copyState(j.ledger.state)
	if err != nil {
		return err
	}
	state.Instance = "forged"
	snap, err := encodeSnapshot(j.key, head, j.build, state)
	if err != nil {
		return err
	}
	return j.store.replaceSnapshot(ctx, snap)
}

// Examine returns how many events opening the journal folds.
func Examine(ctx context.Context, dir string) (folded uint64, err error) {
	x, err := examine(ctx, dir, buildID())
	if err != nil {
		return 0, err
	}
	return x.folded, nil
}

// WriteHeadFile makes h what journal.head says.
func WriteHeadFile(dir string, h Head) error {
	return writeFile(dir+"/"+headName, append(encodeSlot(h), blankSlot()...), 0o600)
}

// Link is the rule of the chain.
func Link(prev Hash, raw []byte) Hash { return link(prev, raw) }

// SlotSize is that of a slot of journal.head.
const SlotSize = slotSize

// Pragma returns a setting of the journal's store.
func (j *Journal) Pragma(ctx context.Context, name string) (value string, err error) {
	err = j.store.db.QueryRowContext(ctx, `PRAGMA `+name).Scan(&value)
	return value, err
}
