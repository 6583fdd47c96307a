package daemon

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"kiln/internal/api"
	"kiln/internal/image"
	"kiln/internal/leaks"
	"kiln/internal/model"
	"kiln/internal/server"
)

// seal lets an image that was built be one only when nothing is in it that no
// image should have.
type seal struct {
	server.Builder
	store *image.Store

	mu     sync.Mutex
	passed map[string]bool // images with the lists that they were searched with, and layers with what is below them
}

// passedKept is how many searches are remembered.
const passedKept = 1000

// Build implements server.Builder.
func (s *seal) Build(ctx context.Context, req api.BuildRequest, session net.Conn, progress func(api.BuildEvent)) (model.Image, error) {
	allow, err := leaks.ParseAllowed(api.AllowFile, []byte(req.Allow))
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
		return img, err // nobody knows the image, and retention removes what nobody knows
	}
	for _, note := range notes(report) {
		progress(api.BuildEvent{Note: note})
	}
	s.remember(key)
	return img, nil
}

func (s *seal) remember(keys ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		if s.passed == nil || len(s.passed) >= passedKept {
			s.passed = map[string]bool{}
		}
		s.passed[key] = true
	}
}

// search looks into the layers that the build has made: those of its bases were
// judged with these, and those below a layer that has changed in the build before,
// unless a list allows something in them.
func (s *seal) search(ctx context.Context, img model.Image, allow leaks.Allowed) (*leaks.Report, error) {
	value, err := s.store.Value(ctx, img.Digest)
	if err != nil {
		return nil, err
	}
	config, err := value.ConfigFile()
	if err != nil {
		return nil, model.Errorf(model.Unavailable, "cannot read the image that was built: %w", err)
	}
	layers := config.RootFS.DiffIDs
	base := 0
	for _, p := range img.Provenance.Parents {
		if of := s.store.DiffIDs(ctx, p.Digest); len(of) > base && begins(layers, of) {
			base = len(of)
		}
	}
	if len(allow.Entries()) > 0 {
		return leaks.Search(ctx, value, layers[:base], allow)
	}
	chains := chainsOf(layers, base)
	report, err := leaks.SearchNew(ctx, value, layers[:base], base+s.searched(chains), allow)
	if err == nil && len(report.Findings) == 0 {
		s.remember(chains...)
	}
	return report, err
}

// begins reports whether the layers begin with those of a base.
func begins(layers []v1.Hash, base []digest.Digest) bool {
	if len(base) > len(layers) {
		return false
	}
	for i, d := range base {
		if layers[i].String() != string(d) {
			return false
		}
	}
	return true
}

// chainsOf names each layer above a base with all that is below it, and with the
// base's layers as what was not searched.
func chainsOf(layers []v1.Hash, base int) []string {
	chain := fmt.Sprint("above ", layers[:base])
	chains := make([]string, 0, len(layers)-base)
	for _, l := range layers[base:] {
		chain = fmt.Sprintf("chain %x", sha256.Sum256([]byte(chain+" "+l.String())))
		chains = append(chains, chain)
	}
	return chains
}

// searched returns how many of the lowest layers were searched before.
func (s *seal) searched(chains []string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, chain := range slices.Backward(chains) {
		if s.passed[chain] {
			return i + 1
		}
	}
	return 0
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
		WithHint("what may stay all the same is said, with its reason, in %s beside kiln.hcl: RULE PATH  # REASON", api.AllowFile)
}

// notes are what whoever builds should know of an image that may be one.
func notes(r *leaks.Report) []string {
	var list []string
	for _, f := range r.Findings {
		list = append(list, "warning: "+f.String())
	}
	for _, a := range r.Allowed {
		list = append(list, fmt.Sprintf("allowed by %s:%d: %s", api.AllowFile, a.Entry.Line, a.Finding))
	}
	for _, e := range r.Stale {
		list = append(list, fmt.Sprintf("%s:%d: this image does not need the entry for %s", api.AllowFile, e.Line, e.Path))
	}
	for _, p := range r.Partial {
		list = append(list, fmt.Sprintf("warning: %s is too large to be judged by its form: its first %d bytes were", p.Path, p.Read))
	}
	if len(list) > toldMost {
		list = append(list[:toldMost], fmt.Sprintf("and %d more", len(list)-toldMost))
	}
	return list
}
