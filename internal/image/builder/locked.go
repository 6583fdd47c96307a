package builder

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"kiln/internal/image"
	"kiln/internal/image/recorder"
	"kiln/internal/lock"
	"kiln/internal/model"
)

// The networks of a build.
const (
	NetworkNone   = "none"   // nothing is reached
	NetworkLocked = "locked" // what the lock file names, and what is added to it
	NetworkOpen   = "open"   // the outside; "" is the same
)

// Lock is what a build knows of the lock file.
type Lock struct {
	File    string `json:"file"` // what it is called in messages
	Service string `json:"service"`
	Text    string `json:"text,omitempty"`
	// Sealed builds from the lock file alone: nothing is fetched.
	Sealed bool `json:"sealed,omitempty"`
	// Update fetches anew what matches one of Only, everything where there is none.
	Update bool     `json:"update,omitempty"`
	Only   []string `json:"only,omitempty"`
}

// surroundings are a build's network while one attempt at it runs.
type surroundings struct {
	net           *buildNetwork // nil: the build has no lock
	token         string
	steps         stepNetwork
	added         bool // ADD fetches
	containerfile string
	store         *image.Store
	inputs        *image.Inputs
	dir           string // for files that are needed for a moment
}

// plan is how a build is tried: again with more to be fetched, where what is
// recorded is not enough.
type plan struct {
	known []lock.Entry
	mode  recorder.Mode
	then  *plan
}

// plans reads the lock file and says how the build is tried. nil: without it.
func (b *build) plans() (*plan, error) {
	l := b.req.Lock
	if l == nil {
		return nil, nil //nolint:nilnil // there is neither
	}
	var section *lock.Service
	if l.Text != "" {
		file, err := lock.Parse(l.File, []byte(l.Text))
		if err != nil {
			return nil, err
		}
		section = file.Service(l.Service)
	}
	var known []lock.Entry
	if section != nil {
		known = section.Entries
	}
	switch {
	case l.Update:
		return &plan{known: without(known, l.Only), mode: recorder.Record}, nil
	case l.Sealed:
		return &plan{known: known, mode: recorder.Sealed}, nil
	case section == nil:
		return &plan{mode: recorder.Record}, nil
	default:
		return &plan{known: known, mode: recorder.Replay, then: &plan{known: known, mode: recorder.Record}}, nil
	}
}

// without returns the entries that no pattern means; nil patterns mean all.
func without(entries []lock.Entry, patterns []string) []lock.Entry {
	var kept []lock.Entry
	for _, e := range entries {
		meant := len(patterns) == 0
		for _, p := range patterns {
			meant = meant || e.Matches(p)
		}
		if !meant {
			kept = append(kept, e)
		}
	}
	return kept
}

// attempts builds, as often as the plan says.
func (b *build) attempts(ctx context.Context, session string) (Result, error) {
	p, err := b.plans()
	if err != nil {
		return Result{}, err
	}
	if p == nil {
		return b.solve(ctx, session, &surroundings{steps: b.stepNetwork(), added: b.req.Network != NetworkNone, containerfile: b.req.Containerfile})
	}
	inputs, err := b.store.OpenInputs(ctx)
	if err != nil {
		return Result{}, err
	}
	defer inputs.Close(context.WithoutCancel(ctx))
	for {
		result, more, err := b.attempt(ctx, session, inputs, p)
		if err == nil || !more || p.then == nil || ctx.Err() != nil {
			return result, err
		}
		b.progress(Event{Status: Note, Log: "something is not in " + b.req.Lock.File + " yet: building again, with the network for that"})
		p = p.then
	}
}

// stepNetwork is what the request says of the steps. What is sealed reaches
// nothing that is not in the lock.
func (b *build) stepNetwork() stepNetwork {
	switch {
	case b.req.Network == NetworkNone:
		return stepsNone
	case b.req.Network == NetworkLocked, b.req.Lock != nil && b.req.Lock.Sealed:
		return stepsLocked
	default:
		return stepsOpen
	}
}

// attempt builds once. more says that the lock lacks something that could be
// fetched.
func (b *build) attempt(ctx context.Context, session string, inputs *image.Inputs, p *plan) (result Result, more bool, err error) {
	r, err := recorder.New(recorder.Config{
		Mode: p.mode, Known: p.known, File: b.req.Lock.File, Name: b.req.Lock.Service, Bytes: inputs, Log: b.log,
	})
	if err != nil {
		return Result{}, false, err
	}
	absent, err := r.Absent(ctx)
	if err != nil {
		return Result{}, false, err
	}
	if p.mode == recorder.Sealed && len(absent) > 0 {
		return Result{}, false, b.absent(r, absent)
	}
	s := &surroundings{steps: b.stepNetwork(), added: b.req.Network != NetworkNone, containerfile: b.req.Containerfile, store: b.store, inputs: inputs, dir: b.worker.root}
	s.token = b.req.Lock.Service + "-" + strings.TrimPrefix(string(lock.Digest(p.known)), "sha256:")
	if p.mode == recorder.Record {
		s.token = rand.Text() // nothing that was cached under it is used again
	}
	var closed func()
	s.net, closed, err = b.worker.networks.open(s.token, r, b.worker.runDir)
	if err != nil {
		return Result{}, false, err
	}
	defer closed()
	result, err = b.solve(ctx, session, s)
	for _, f := range r.Refusals() {
		more = more || f.Missing
		if err == nil && !f.Passing {
			b.progress(Event{Status: Note, Log: "warning: a step did without: " + f.What + " " + f.Why})
		}
	}
	if err != nil {
		return Result{}, more, err
	}
	result.Locked = r.Relocked()
	if p.mode == recorder.Record {
		result.Locked = r.Entries()
	}
	result.Inputs, err = keep(ctx, inputs, b.req.Lock.Service, result.Locked)
	return result, false, err
}

// absent says which entries have lost their bytes.
func (b *build) absent(r *recorder.Recorder, absent []lock.Entry) error {
	var told []string
	for i, e := range absent {
		if i == tailLines {
			told = append(told, fmt.Sprintf("and %d more", len(absent)-i))
			break
		}
		told = append(told, fmt.Sprintf("%s: the bytes of %s are not here: %s", r.Where(e), e.Name, e.Digest))
	}
	return model.Errorf(model.Denied, "cannot build %s from %s alone:\n%s", b.req.Lock.Service, b.req.Lock.File, strings.Join(told, "\n")).
		WithHint("a build without --locked fetches them again, and takes them if they are the same")
}

// keep keeps the bytes of the entries, as far as they are here.
func keep(ctx context.Context, inputs *image.Inputs, service string, entries []lock.Entry) (model.Digest, error) {
	var blobs []image.InputBlob
	for _, e := range entries {
		if e.Kind == lock.Base || e.Digest == "" {
			continue
		}
		here, err := inputs.Has(ctx, e.Digest)
		if err != nil {
			return "", err
		}
		if here {
			blobs = append(blobs, image.InputBlob{Digest: e.Digest, Size: e.Size})
		}
	}
	if len(blobs) == 0 {
		return "", nil
	}
	return inputs.Keep(ctx, service, blobs)
}

// source looks at what ADD names, and pins it to what the lock says.
func (s *surroundings) source(ctx context.Context, op *pb.SourceOp) error {
	web, git := isHTTP(op.Identifier), isGit(op.Identifier)
	switch {
	case !web && !git:
		return nil
	case !s.added:
		return model.Errorf(model.Denied, "cannot build: ADD of %s is refused: the image's network is \"none\"", addressOf(op)).
			WithHint("have the file in the build context, or declare image { network = \"locked\" }")
	case s.net == nil:
		return nil
	case git:
		return s.repository(ctx, op)
	}
	e, known := s.net.Entry(lock.Add, recorder.Canonical(op.Identifier))
	if !known && s.net.Mode() != recorder.Record {
		return s.net.Missing("ADD " + recorder.Canonical(op.Identifier))
	}
	if op.Attrs == nil {
		op.Attrs = map[string]string{}
	}
	op.Attrs[agentAttr] = agentPrefix + s.token
	if known && op.Attrs[pb.AttrHTTPChecksum] == "" {
		op.Attrs[pb.AttrHTTPChecksum] = string(e.Digest)
		s.net.Note(e)
	}
	return nil
}

// addressOf is what the Containerfile says, as others may read it.
func addressOf(op *pb.SourceOp) string {
	if full := op.Attrs[pb.AttrFullRemoteURL]; full != "" {
		return recorder.WithoutLogin(full)
	}
	return recorder.WithoutLogin(op.Identifier)
}

// base is what the lock says of a base image before it is looked for: the digest
// that it has to have, if any.
func (s *surroundings) base(ctx context.Context, ref string) (want model.Digest, err error) {
	if s.net == nil {
		return "", nil
	}
	e, known := s.net.Entry(lock.Base, ref)
	if !known && s.net.Mode() != recorder.Record {
		return "", s.net.Missing("base image " + image.Familiar(ref))
	}
	local, here, err := s.store.Named(ctx, ref)
	switch {
	case err != nil:
		return "", err
	case here && known && local != e.Digest:
		return "", s.otherBase(e, local)
	case here:
		return e.Digest, nil
	case s.net.Mode() == recorder.Sealed:
		return "", model.Errorf(model.Denied, "%s: the base image %s is not here, and nothing is fetched in a build with --locked: %s", s.net.Where(e), image.Familiar(ref), e.Digest).
			WithHint("kiln images import FILE --name %s, or build without --locked", image.Familiar(ref))
	}
	return e.Digest, nil
}

func (s *surroundings) otherBase(e lock.Entry, is model.Digest) error {
	name := image.Familiar(e.Name)
	return model.Errorf(model.Denied, "%s: the base image %s is another one: the lock says %s, and it is %s", s.net.Where(e), name, e.Digest, is).
		WithHint("kiln lock update --only %s locks what it is now; kiln images import FILE --name %s brings the other back", name, name)
}

// took notes a base image, which is what the lock says or refused.
func (s *surroundings) took(ref string, d model.Digest) error {
	if s.net == nil {
		return nil
	}
	if e, known := s.net.Entry(lock.Base, ref); known && e.Digest != d {
		return s.otherBase(e, d)
	}
	s.net.Note(lock.Entry{Kind: lock.Base, Name: ref, Digest: d})
	return nil
}
