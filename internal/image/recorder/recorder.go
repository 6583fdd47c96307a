// Package recorder stands between a build and the network: it answers what the
// build's steps and ADD ask for over HTTP and HTTPS from what a lock file names,
// and fetches and notes what is to be locked.
//
// It knows nothing of BuildKit. A Recorder is one build's; a Step of it is the
// view of one step, whose requests are counted for themselves, so that a step
// that comes from a cache changes nothing for the others.
package recorder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"kiln/internal/image"
	"kiln/internal/lock"
	"kiln/internal/model"
)

// Bytes is where the bytes are that were fetched.
type Bytes interface {
	Has(ctx context.Context, d model.Digest) (bool, error)
	Open(ctx context.Context, d model.Digest) (*image.Input, error)
	New(ctx context.Context) (*image.InputWriter, error)
	Discard(ctx context.Context, d model.Digest) error
}

// Mode says what a recorder does about what it does not know.
type Mode int

// The modes.
const (
	Sealed Mode = iota // nothing is fetched
	Replay             // only bytes that the lock names are fetched, where they are not here
	Record             // everything is fetched, and noted
)

// Config is what a recorder is made from.
type Config struct {
	Mode  Mode
	Known []lock.Entry // what is answered from the lock
	File  string       // what the lock file is called in messages
	Name  string       // of the service
	Bytes Bytes
	// Transport fetches; nil: the process's own way.
	Transport http.RoundTripper
	Log       *slog.Logger
}

// Recorder is one build's network.
type Recorder struct {
	cfg   Config
	known map[request][]lock.Entry
	ca    *authority

	mu       sync.Mutex
	verified map[model.Digest]bool
	fetching map[request]*sync.Mutex // ADD's, one at a time
	notes    []note
	added    map[string]lock.Entry // what was not asked for over the proxy
	refusals []Refusal
}

// request is what is asked for, less what may differ without the answer doing so.
type request struct {
	kind lock.Kind
	name string
	rng  string
}

// note is an answer that a step got.
type note struct {
	step  string
	nth   int
	entry lock.Entry // without step and nth
}

// Refusal is something that a build did not get.
type Refusal struct {
	What    string // "GET https://…"
	Why     string
	Hint    string
	Missing bool // it is not in the lock, and recording would put it there
	Passing bool // the network did not give it; nobody has refused it
	Without bool // the step that asked for it has done without
	step    string
}

// New makes a recorder with an authority of its own.
func New(cfg Config) (*Recorder, error) {
	ca, err := newAuthority(time.Now())
	if err != nil {
		return nil, model.Errorf(model.Internal, "cannot make the authority of a build's network: %w", err)
	}
	if cfg.Transport == nil {
		cfg.Transport = &http.Transport{
			DisableCompression: true, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8,
			IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 20 * time.Second,
		}
	}
	r := &Recorder{
		cfg: cfg, known: map[request][]lock.Entry{}, ca: ca, verified: map[model.Digest]bool{},
		fetching: map[request]*sync.Mutex{}, added: map[string]lock.Entry{},
	}
	for _, e := range lock.Sorted(cfg.Known) {
		key := request{e.Kind, e.Name, e.Range}
		r.known[key] = append(r.known[key], e)
	}
	return r, nil
}

// Mode returns what the recorder does about what it does not know.
func (r *Recorder) Mode() Mode { return r.cfg.Mode }

// Authority returns the certificate by which the steps trust the recorder, PEM.
func (r *Recorder) Authority() []byte { return r.ca.pem }

// Refusals returns what the build did not get, each once.
func (r *Recorder) Refusals() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Refusal
	for _, f := range r.refusals {
		if !slices.Contains(list, f) {
			list = append(list, f)
		}
	}
	return list
}

// Absent returns the entries whose bytes are not here, and holds those that are.
func (r *Recorder) Absent(ctx context.Context) ([]lock.Entry, error) {
	var absent []lock.Entry
	here := map[model.Digest]bool{}
	for _, e := range r.cfg.Known {
		if e.Kind == lock.Base || e.Digest == "" {
			continue
		}
		is, asked := here[e.Digest]
		if !asked {
			var err error
			if is, err = r.cfg.Bytes.Has(ctx, e.Digest); err != nil {
				return nil, err
			}
			here[e.Digest] = is
		}
		if !is {
			absent = append(absent, e)
		}
	}
	return absent, nil
}

// Entry returns what the lock says of an image, or of a repository.
func (r *Recorder) Entry(kind lock.Kind, name string) (lock.Entry, bool) {
	list := r.known[request{kind: kind, name: name}]
	if len(list) == 0 {
		return lock.Entry{}, false
	}
	return list[0], true
}

// Note puts an image or a repository among what the build was made from.
func (r *Recorder) Note(e lock.Entry) {
	e.Line = 0
	r.mu.Lock()
	defer r.mu.Unlock()
	r.added[string(e.Kind)+" "+e.Name] = e
}

// Relocked returns the entries that the recorder knew, less what is not true any more:
// a repository whose bundle was lost has another one, of the same commit.
func (r *Recorder) Relocked() []lock.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.Clone(r.cfg.Known)
	for i, e := range list {
		if now, ok := r.added[string(e.Kind)+" "+e.Name]; ok && e.Kind == lock.Git {
			list[i] = now
		}
	}
	return list
}

// Refuse notes that the build did not get something, and returns that as an error.
func (r *Recorder) Refuse(f Refusal) *model.Error {
	r.mu.Lock()
	r.refusals = append(r.refusals, f)
	r.mu.Unlock()
	return f.Err()
}

// Err is the refusal as an error. Denied.
func (f Refusal) Err() *model.Error {
	e := model.Errorf(model.Denied, "%s %s", f.What, f.Why)
	if f.Hint != "" {
		return e.WithHint("%s", f.Hint)
	}
	return e
}

// missing is the refusal of what is not in the lock.
func (r *Recorder) missing(what string) Refusal {
	return Refusal{
		What: what, Why: fmt.Sprintf("is not in %s: service %s has no such entry", r.cfg.File, r.cfg.Name),
		Hint: "kiln lock update " + r.cfg.Name + " fetches and locks it", Missing: true,
	}
}

// Missing is missing for who resolves images and repositories.
func (r *Recorder) Missing(what string) *model.Error { return r.Refuse(r.missing(what)) }

// Where says where in the lock file an entry stands.
func (r *Recorder) Where(e lock.Entry) string {
	if e.Line == 0 {
		return r.cfg.File
	}
	return fmt.Sprintf("%s:%d", r.cfg.File, e.Line)
}

// Entries returns what the build was made from, as the lock file has it.
func (r *Recorder) Entries() []lock.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := slices.Collect(maps.Values(r.added))
	groups := map[[4]string][]note{}
	for _, n := range r.notes {
		e := n.entry
		key := [4]string{string(e.Kind), e.Name, e.Range, e.Accept}
		groups[key] = append(groups[key], n)
	}
	for _, g := range groups {
		list = append(list, condense(g)...)
	}
	return lock.Sorted(list)
}

// condense returns the answers to one request: one entry where all are the same,
// else one for each step, and for each time that they change in it.
func condense(notes []note) []lock.Entry {
	slices.SortStableFunc(notes, func(a, b note) int { return cmp.Or(cmp.Compare(a.step, b.step), cmp.Compare(a.nth, b.nth)) })
	if !slices.ContainsFunc(notes, func(n note) bool { return n.entry != notes[0].entry }) {
		return []lock.Entry{notes[0].entry}
	}
	var list []lock.Entry
	for i, n := range notes {
		fresh := i == 0 || notes[i-1].step != n.step
		if !fresh && notes[i-1].entry == n.entry {
			continue
		}
		e := n.entry
		if e.Step = n.step; !fresh {
			e.Nth = n.nth
		}
		list = append(list, e)
	}
	return list
}

// lookup finds what the lock says of the nth time that a step asks for something.
func (r *Recorder) lookup(key request, accept, step string, nth int) (lock.Entry, bool) {
	list := r.known[key]
	if same := where(list, func(e lock.Entry) bool { return e.Accept != "" && e.Accept == accept }); len(same) > 0 {
		list = same
	} else if any := where(list, func(e lock.Entry) bool { return e.Accept == "" }); len(any) > 0 {
		list = any
	}
	if len(list) == 0 {
		return lock.Entry{}, false
	}
	// The step's own answers; else those of all, and of the first that has any.
	of := list[0].Step
	if slices.ContainsFunc(list, func(e lock.Entry) bool { return e.Step == step }) {
		of = step
	}
	best := lock.Entry{}
	for _, e := range list {
		if e.Step == of && e.Nth <= nth {
			best = e // they are sorted
		}
	}
	return best, best.Kind != ""
}

func where[T any](list []T, is func(T) bool) []T {
	var out []T
	for _, e := range list {
		if is(e) {
			out = append(out, e)
		}
	}
	return out
}

// open opens the bytes of an entry, which are what it says: they are read whole
// once before anybody gets them.
func (r *Recorder) open(ctx context.Context, e lock.Entry) (*image.Input, error) {
	in, err := r.cfg.Bytes.Open(ctx, e.Digest)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	known := r.verified[e.Digest]
	r.mu.Unlock()
	if known {
		return in, nil
	}
	got, err := digestOf(io.NewSectionReader(in, 0, in.Size()))
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	if got != e.Digest {
		_ = in.Close()
		if r.cfg.Mode == Sealed {
			return nil, model.Errorf(model.Denied, "%s: the bytes of %s were changed on the disk: they are %s, and the lock says %s", r.Where(e), e.Name, got, e.Digest).
				WithHint("a build without --locked fetches them again, and takes them if they are the same")
		}
		r.cfg.Log.Warn("bytes that a build has fetched were changed on the disk", "digest", string(e.Digest), "is", string(got))
		if err := r.cfg.Bytes.Discard(ctx, e.Digest); err != nil {
			return nil, err
		}
		return nil, model.Errorf(model.NotFound, "%s was changed on the disk", e.Digest)
	}
	r.mu.Lock()
	r.verified[e.Digest] = true
	r.mu.Unlock()
	return in, nil
}
