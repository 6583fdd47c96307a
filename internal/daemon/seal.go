package daemon

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/api"
	"kiln/internal/control"
	"kiln/internal/image"
	"kiln/internal/leaks"
	"kiln/internal/model"
	"kiln/internal/server"
)

// allowFile is where what is allowed to be in images is declared, beside kiln.hcl.
const allowFile = "kiln.allow"

// seal lets an image that was built be one only when nothing is in it that no
// image should have.
type seal struct {
	server.Builder
	store   *image.Store
	control *control.Control

	mu     sync.Mutex
	passed map[string]bool // images and the lists that they were searched with
}

// passedKept is how many searches are remembered.
const passedKept = 1000

// Build implements server.Builder.
func (s *seal) Build(ctx context.Context, req api.BuildRequest, session net.Conn, progress func(api.BuildEvent)) (model.Image, error) {
	allow, err := leaks.ParseAllowed(allowFile, []byte(req.Allow))
	if err != nil {
		return model.Image{}, err
	}
	img, err := s.Builder.Build(ctx, req, session, progress)
	if err != nil {
		return img, err
	}
	key := fmt.Sprintf("%s %x", img.Digest, sha256.Sum256([]byte(req.Allow)))
	s.mu.Lock()
	passed := s.passed[key]
	s.mu.Unlock()
	if passed {
		return img, nil
	}
	report, err := s.search(ctx, img, allow)
	if err == nil && report.Refused() {
		err = refusal(report)
	}
	if err != nil {
		s.discard(ctx, img.Digest)
		return img, err
	}
	for _, note := range notes(report) {
		progress(api.BuildEvent{Note: note})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.passed == nil || len(s.passed) >= passedKept {
		s.passed = map[string]bool{}
	}
	s.passed[key] = true
	return img, nil
}

// search looks into the layers that the build has made: those of its bases were
// judged with these.
func (s *seal) search(ctx context.Context, img model.Image, allow leaks.Allowed) (*leaks.Report, error) {
	value, err := s.store.Value(ctx, img.Digest)
	if err != nil {
		return nil, err
	}
	var base []v1.Hash
	for _, p := range img.Provenance.Parents {
		if layers := s.store.DiffIDs(ctx, p.Digest); len(layers) > len(base) {
			base = base[:0]
			for _, d := range layers {
				base = append(base, v1.Hash{Algorithm: string(d.Algorithm()), Hex: d.Encoded()})
			}
		}
	}
	return leaks.Search(ctx, value, base, allow)
}

// discard removes an image that is not to be one, unless the journal knows it from
// an earlier build.
func (s *seal) discard(ctx context.Context, d model.Digest) {
	known := false
	s.control.View(func(st *model.State, _ *model.Snapshot) { known = isHere(st, d) })
	if !known {
		_ = s.store.Delete(context.WithoutCancel(ctx), d) // retention removes what is left
	}
}

// toldMost is how many findings are told one by one.
const toldMost = 20

// refusal says what is in an image that has to go.
func refusal(r *leaks.Report) error {
	var told []string
	more := r.More
	for _, f := range r.Findings {
		if f.Severity != leaks.Refuse {
			continue
		}
		if len(told) == toldMost {
			more++
			continue
		}
		told = append(told, "  "+f.String()+"\n    "+f.Hint)
	}
	if more > 0 {
		told = append(told, fmt.Sprintf("  and %d more", more))
	}
	return model.Errorf(model.Invalid, "cannot seal the image: it has what no image should have\n%s", strings.Join(told, "\n")).
		WithHint("what may stay all the same is said, with its reason, in %s beside kiln.hcl: RULE PATH  # REASON", allowFile)
}

// notes are what whoever builds should know of an image that may be one.
func notes(r *leaks.Report) []string {
	var list []string
	for _, f := range r.Findings {
		list = append(list, "warning: "+f.String())
	}
	for _, a := range r.Allowed {
		list = append(list, fmt.Sprintf("allowed by %s:%d: %s", allowFile, a.Entry.Line, a.Finding))
	}
	for _, e := range r.Stale {
		list = append(list, fmt.Sprintf("%s:%d: this image does not need the entry for %s", allowFile, e.Line, e.Path))
	}
	for _, p := range r.Partial {
		list = append(list, fmt.Sprintf("warning: %s is too large to be judged by its form: its first %d bytes were", p.Path, p.Read))
	}
	if len(list) > toldMost {
		list = append(list[:toldMost], fmt.Sprintf("and %d more", len(list)-toldMost))
	}
	return list
}
