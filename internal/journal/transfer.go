package journal

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"kiln/internal/model"
)

// eventsPerPart is how many events one part of a copy has. A part is read at
// once, so that appends wait no longer than for one.
const eventsPerPart = 1000

// Copy is a journal up to an event, as a backup takes it along: not the file of
// the store, which changes all the time, but the stored bytes themselves. The
// chain shows that they are whole, wherever they are.
type Copy struct {
	Head  Head
	State *model.State // the fold up to Head
	j     *Journal
}

// Copy begins a copy of what is acknowledged now. Appends go on meanwhile, and
// are not in it.
func (j *Journal) Copy(ctx context.Context) (*Copy, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.refoldLocked(ctx); err != nil {
		return nil, err
	}
	state, err := copyState(j.ledger.state)
	return &Copy{Head: j.ledger.head, State: state, j: j}, err
}

// Parts calls each for the events in their order, a part of them at a time: the
// stored bytes of each, ended by a newline. They are checked against the chain.
func (c *Copy) Parts(ctx context.Context, each func(first uint64, lines []byte) error) error {
	at := Head{}
	for at.Seq < c.Head.Seq {
		first, lines := at.Seq+1, []byte(nil)
		limit := int(min(eventsPerPart, c.Head.Seq-at.Seq))
		err := c.j.store.scan(ctx, at.Seq, limit, func(seq uint64, hash, raw []byte) error {
			next := link(at.Hash, raw)
			if seq != at.Seq+1 || !bytes.Equal(next[:], hash) || bytes.IndexByte(raw, '\n') >= 0 {
				return model.Errorf(model.Precondition, "cannot copy the journal: event %d does not fit the chain", seq).
					WithHint("kiln audit verify says what is wrong with it")
			}
			at = Head{Seq: seq, Hash: next}
			lines = append(append(lines, raw...), '\n')
			return nil
		})
		if err == nil && at.Seq < first {
			err = model.Errorf(model.Precondition, "cannot copy the journal: event %d is missing", first)
		}
		if err == nil {
			err = each(first, lines)
		}
		if err != nil {
			return err
		}
	}
	if at != c.Head {
		return model.Errorf(model.Precondition, "cannot copy the journal: event %d is not the one that was acknowledged", at.Seq)
	}
	return nil
}

// Seals returns the files beside the events, by name: the key, its public half,
// and the signed heads up to the copy's.
func (c *Copy) Seals() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range []string{keyName, publicName} {
		b, err := os.ReadFile(filepath.Join(c.j.dir, name))
		if err != nil {
			return nil, model.Errorf(model.Unavailable, "cannot copy the journal: %w", err)
		}
		files[name] = b
	}
	signed, _, err := readHeads(c.j.dir)
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot copy the journal: %w", err)
	}
	var heads bytes.Buffer
	for _, h := range signed {
		if h.Seq > c.Head.Seq {
			continue
		}
		line, err := json.Marshal(h)
		if err != nil {
			return nil, model.Errorf(model.Internal, "cannot copy the journal: %w", err)
		}
		heads.Write(append(line, '\n'))
	}
	files[headsName] = heads.Bytes()
	return files, nil
}

// Sign signs a text with the journal's key. The text begins with what it is
// about, so that a signature stands for nothing else.
func (c *Copy) Sign(text []byte) []byte { return ed25519.Sign(c.j.key, text) }

// Key is the public half of the journal's key.
func (c *Copy) Key() []byte { return publicKey(c.j.key) }

// Chain reads a copy of a journal again, and holds it against itself.
type Chain struct {
	head   Head
	state  *model.State
	hashes map[uint64]Hash // of the events whose heads are signed
}

// NewChain returns the chain before its first event.
func NewChain() *Chain {
	return &Chain{state: model.NewState(), hashes: map[uint64]Hash{}}
}

// Add takes the next events, the stored bytes of each ended by a newline, and
// returns them as entries.
func (c *Chain) Add(lines []byte) ([]Entry, error) {
	var entries []Entry
	for line := range bytes.Lines(lines) {
		raw, whole := bytes.CutSuffix(line, []byte{'\n'})
		seq := c.head.Seq + 1
		e := Entry{Hash: link(c.head.Hash, raw), Raw: raw}
		if !whole {
			return nil, model.Errorf(model.Precondition, "event %d is cut off", seq)
		}
		if err := json.Unmarshal(raw, &e.Event); err != nil {
			return nil, model.Errorf(model.Precondition, "cannot read event %d: %w", seq, err)
		}
		if err := c.state.Apply(e.Event); err != nil {
			return nil, model.Errorf(model.Precondition, "cannot read the journal: %w", err)
		}
		c.head = Head{Seq: seq, Hash: e.Hash}
		if seq%signEvery == 0 {
			c.hashes[seq] = e.Hash
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Head is the end of what was added.
func (c *Chain) Head() Head { return c.head }

// State is the fold of what was added. It stays the chain's.
func (c *Chain) State() *model.State { return c.state }

// Signed checks the signed heads against the chain and returns their number.
// key is the public half of the key that signs them.
func (c *Chain) Signed(heads []byte, key ed25519.PublicKey) (int, error) {
	signed := map[uint64]bool{}
	for line := range bytes.Lines(heads) {
		var h SignedHead
		if err := json.Unmarshal(line, &h); err != nil || !h.Valid(key) {
			return 0, model.Errorf(model.Precondition, "line %d of %s is not signed by the journal's key", len(signed)+1, headsName)
		}
		if hash, ok := c.hashes[h.Seq]; !ok || hash != h.Hash {
			return 0, model.Errorf(model.Precondition, "event %d is not the one that was signed", h.Seq)
		}
		signed[h.Seq] = true
	}
	for seq := range c.hashes {
		if !signed[seq] {
			return 0, model.Errorf(model.Precondition, "%s lacks the signed head of event %d", headsName, seq)
		}
	}
	return len(signed), nil
}

// PublicKey returns the public half that key.pub holds.
func PublicKey(pub []byte) (ed25519.PublicKey, error) { return decodePublic(pub) }

// Rebuild is a journal that is written anew from a copy.
type Rebuild struct {
	dir   string
	store *store
	chain *Chain
}

// NewRebuild begins a journal in dir, which must not exist yet.
func NewRebuild(ctx context.Context, dir string) (*Rebuild, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot write the journal: %w", err)
	}
	s, err := openStore(ctx, filepath.Join(dir, dbName))
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot write the journal: %w", err)
	}
	return &Rebuild{dir: dir, store: s, chain: NewChain()}, nil
}

// Add writes the next events.
func (r *Rebuild) Add(ctx context.Context, lines []byte) error {
	entries, err := r.chain.Add(lines)
	if err != nil {
		return err
	}
	if err := r.store.insert(ctx, entries); err != nil {
		return model.Errorf(model.Unavailable, "cannot write the journal: %w", err)
	}
	return nil
}

// Seal writes a file that stands beside the events, as Seals names them.
func (r *Rebuild) Seal(name string, content []byte) error {
	mode := os.FileMode(0o600)
	switch name {
	case keyName, headsName:
	case publicName:
		mode = 0o644
	default:
		return model.Errorf(model.Precondition, "a journal has no file %q", name)
	}
	if err := writeFile(filepath.Join(r.dir, name), content, mode); err != nil {
		return model.Errorf(model.Unavailable, "cannot write the journal: %w", err)
	}
	return nil
}

// Chain is what was added so far.
func (r *Rebuild) Chain() *Chain { return r.chain }

// Finish makes the journal whole, and writes into it that it was restored: with
// an epoch above all that the lost part can have had, which counts daemons,
// because it counts milliseconds: also where that part began with a restore a
// moment ago. It returns that epoch.
func (r *Rebuild) Finish(ctx context.Context, version string, madeAt, now time.Time) (epoch uint64, err error) {
	head, state := r.chain.Head(), r.chain.State()
	err = writeFile(filepath.Join(r.dir, headName), append(encodeSlot(head), blankSlot()...), 0o600)
	if err = errors.Join(err, r.store.close()); err != nil {
		return 0, model.Errorf(model.Unavailable, "cannot write the journal: %w", err)
	}
	r.store = nil
	j, err := Open(r.dir, Options{}) //nolint:contextcheck // what is opened outlives the call, as everywhere
	if err != nil {
		return 0, fmt.Errorf("cannot read what was written: %w", err)
	}
	event := model.Event{
		Seq: head.Seq + 1, Epoch: max(state.Epoch+1000, uint64(max(0, now.UnixMilli()))), At: now.UTC(), Elapsed: state.Elapsed, Actor: "kiln",
		Data: model.JournalRestored{Seq: head.Seq, Hash: head.Hash.String(), MadeAt: madeAt.UTC(), Version: version},
	}
	err = j.Append(ctx, event.Epoch, head.Seq, []model.Event{event})
	if err := errors.Join(err, j.Close()); err != nil {
		return 0, err
	}
	return event.Epoch, nil
}

// Close gives up what was not finished.
func (r *Rebuild) Close() {
	if r.store != nil {
		_ = r.store.close() // it is thrown away
	}
}
