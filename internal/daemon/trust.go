package daemon

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"

	"kiln/internal/control"
	"kiln/internal/model"
	"kiln/internal/sign"
)

var _ control.Trust = (*signer)(nil)

// verdicts are the latest looks at the signatures of images. Servers that are
// started together share one: a look that began after it was asked for stands for
// another, and no other does.
type verdicts struct {
	mu    sync.Mutex
	known map[model.Digest]*verdict
}

type verdict struct {
	mu    sync.Mutex // one look at a time
	began time.Time
	err   error
}

// of returns the image's verdict.
func (v *verdicts) of(d model.Digest) *verdict {
	v.mu.Lock()
	defer v.mu.Unlock()
	const most = 256
	if v.known == nil || len(v.known) >= most {
		v.known = map[model.Digest]*verdict{}
	}
	if v.known[d] == nil {
		v.known[d] = &verdict{}
	}
	return v.known[d]
}

// Trusted implements control.Trust: an image that was built here has a signature
// that holds, of a key that is believed. Images from elsewhere have one where the
// daemon was told to require it.
func (s *signer) Trusted(ctx context.Context, d model.Digest) error {
	asked := time.Now()
	s.signing.settled(ctx, d)
	return s.trust.of(d).look(ctx, asked, func() error { return s.trusted(ctx, d) })
}

// look returns the verdict, for who asked then. One that broke off because whoever
// asked for it gave up stands for nobody else.
func (v *verdict) look(ctx context.Context, asked time.Time, at func() error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.began.After(asked) {
		return v.err
	}
	began, err := time.Now(), at()
	if ctx.Err() == nil {
		v.began, v.err = began, err
	}
	return err
}

func (s *signer) trusted(ctx context.Context, d model.Digest) error {
	img := s.image(d)
	here := img.Source == "build" && len(img.Services) > 0
	if !here && !s.d.cfg.RequireSignature {
		return nil
	}
	ring, err := s.ring()
	if err != nil {
		return err
	}
	what := "nothing is attached to it"
	for _, repository := range s.repositories(d) {
		at, err := inRegistry(repository, d)
		if err != nil {
			return err
		}
		holds, why, err := s.signedIn(ctx, at, img, ring)
		if err != nil {
			return model.Errorf(model.Unavailable, "cannot check the signature of image %s: %w", d.Short(), err)
		}
		if holds {
			return nil
		}
		if why != "" {
			what = why
		}
	}
	return model.Errorf(model.Denied, "image %s must not be started: no signature of it holds: %s", d.Short(), what).WithHint("%s", signHint(here))
}

func signHint(here bool) string {
	if here {
		return "kiln images verify shows what is attached; the next build of it, and a new start of the daemon, sign it again"
	}
	return "the daemon runs with --require-signature: have it signed (cosign sign --key), and trust that key: kiln key trust FILE --name NAME"
}

// signedIn reports whether a signature in the repository holds, and if not why the
// last does not.
func (s *signer) signedIn(ctx context.Context, at name.Digest, img model.Image, ring sign.Keyring) (holds bool, why string, err error) {
	attached, err := sign.List(ctx, at, s.reach()...)
	if err != nil {
		return false, "", err
	}
	// What an annotation says decides nothing, but what is read first.
	slices.SortStableFunc(attached, func(a, b sign.Attachment) int { return rank(a) - rank(b) })
	for _, a := range attached {
		if a.Err == nil && a.PredicateType != sign.Signature && a.PredicateType != "" {
			continue
		}
		said := s.check(ctx, at, a, ring, memory(img))
		if said.Holds && said.Type == sign.Signature {
			return true, "", s.remember(ctx, img, said)
		}
		if said.Trouble != "" {
			why = said.Trouble
		}
	}
	return false, why, nil
}

func rank(a sign.Attachment) int {
	if a.Err == nil && a.PredicateType == sign.Signature {
		return 0
	}
	return 1
}

// remember writes down that a statement of another's was accepted: it stays good when
// that key's use ends.
func (s *signer) remember(ctx context.Context, img model.Image, said statement) error {
	if _, known := memory(img)(digest.Digest(said.Bundle)); known {
		return nil
	}
	return s.d.control.Do(ctx, "kiln", func(st *model.State, _ *model.Snapshot, _ model.Now) ([]model.Payload, error) {
		if st.Images[img.Digest] == nil {
			return nil, nil
		}
		return []model.Payload{model.ImageAttested{Digest: img.Digest, Statement: model.Statement{Bundle: said.Bundle, Type: said.Type, Key: said.Key}}}, nil
	})
}
