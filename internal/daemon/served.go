package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
	"kiln/internal/server"
	"kiln/internal/sign"
)

var _ server.Witness = (*signer)(nil)

// served is what a statement of model.ServedType says.
type served struct {
	Environment string           `json:"environment"`
	Service     string           `json:"service"` // as it is called on that kiln
	For         model.Duration   `json:"for"`
	At          time.Time        `json:"at"`
	Instance    model.InstanceID `json:"instance"`
}

// clocksDiffer is how far the clocks of two machines may be apart: a statement that is
// of later than that from now is not believed.
const clocksDiffer = 5 * time.Minute

// readServed reads what a statement says whose signature holds.
//
// Invalid: it says nothing that could be so.
func readServed(predicate json.RawMessage, now time.Time) (served, error) {
	var p served
	if err := json.Unmarshal(predicate, &p); err != nil {
		return p, model.Errorf(model.Invalid, "it cannot be read: %w", err)
	}
	switch {
	case !model.ValidServiceName(p.Environment) || !model.ValidServiceName(p.Service) || !model.ValidInstanceID(string(p.Instance)):
		return p, model.Errorf(model.Invalid, "it names no environment, service and kiln: %q, %q, %q", p.Environment, p.Service, p.Instance)
	case p.For <= 0:
		return p, model.Errorf(model.Invalid, "it is of no time in service: %s", p.For)
	case p.At.IsZero():
		return p, model.Errorf(model.Invalid, "it does not say when it was made")
	case p.At.After(now.Add(clocksDiffer)):
		return p, model.Errorf(model.Invalid, "it was made at %s, and it is %s now", stampOf(p.At), stampOf(now)).
			WithHint("is the clock of one of the two machines wrong?")
	default:
		return p, nil
	}
}

func stampOf(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Serve implements server.Witness.
func (s *signer) Serve(ctx context.Context, d model.Digest, by string, req api.ServedRequest) (api.Served, error) {
	if len(s.repositories(d)) == 0 {
		return api.Served{}, model.Errorf(model.Precondition, "cannot sign, or take, how long image %s served: it is in no repository of the registry", d.Short())
	}
	if req.Bundle != nil {
		return s.takeServed(ctx, d, by, req)
	}
	had, err := s.servedHere(d, req)
	if err != nil {
		return api.Served{}, err
	}
	if req.Least > 0 { // what was said before does as well: who asks again and again does not make ever more statements
		if said, found, err := s.servedSaid(ctx, d, req); found || err != nil {
			return said, err
		}
	}
	p := served{
		Environment: req.Environment, Service: req.Service, For: model.Duration(had.Truncate(time.Second)),
		At: time.Now().UTC().Truncate(time.Millisecond), Instance: s.d.instance,
	}
	predicate, err := json.Marshal(p)
	if err != nil {
		return api.Served{}, model.Errorf(model.Internal, "%w", err)
	}
	bundle, made, err := s.attestFor(ctx, by, d, model.ServedType, predicate)
	return p.said(d, made.Key, bundle), err
}

func (p served) said(d model.Digest, key string, bundle []byte) api.Served {
	return api.Served{Image: d, Environment: p.Environment, Service: p.Service, For: p.For, At: p.At, Instance: p.Instance, Key: key, Bundle: bundle}
}

// servedHere is how long an image has served on this kiln, as its journal has it.
func (s *signer) servedHere(d model.Digest, req api.ServedRequest) (had time.Duration, err error) {
	now := s.d.clock.Now()
	s.d.control.View(func(st *model.State, _ *model.Snapshot) {
		had = reconcile.ServedFor(st, req.Service, req.Environment, d, now)
		if had >= max(time.Second, req.Least.D()) {
			return
		}
		least := ""
		if req.Least > 0 {
			least = fmt.Sprintf(" for %s", req.Least)
		}
		refuse := func(format string, args ...any) *model.Error {
			return model.Errorf(model.Precondition, "cannot say that image %s served as %s in %s%s: %s", d.Short(), req.Service, req.Environment, least, fmt.Sprintf(format, args...))
		}
		switch svc := st.Services[req.Service]; {
		case svc == nil:
			err = refuse("there never was such a service on this kiln").WithHint("kiln status lists the services")
		case had == 0:
			err = refuse("it never did").WithHint("kiln releases %s shows what did", req.Service)
		case req.Least == 0:
			err = refuse("it came into service this moment").WithHint("ask again in a second")
		default:
			had = had.Truncate(time.Second)
			err = refuse("it did for %s; %s to go", model.Duration(had), model.Duration(req.Least.D()-had)).WithHint("ask again then")
		}
	})
	return had, err
}

// servedSaid is the statement that this kiln made before, if it says as much as is
// asked for.
func (s *signer) servedSaid(ctx context.Context, d model.Digest, req api.ServedRequest) (api.Served, bool, error) {
	all, err := s.attachedOf(ctx, s.image(d), func(kind string) bool { return kind == model.ServedType })
	if err != nil {
		return api.Served{}, false, err
	}
	own := s.Key().ID
	for _, a := range all {
		if !a.Holds || a.Type != model.ServedType || a.Key != own {
			continue
		}
		p, err := readServed(a.predicate, time.Now())
		if err == nil && p.Instance == s.d.instance && p.Service == req.Service && p.Environment == req.Environment && p.For >= req.Least {
			return p.said(d, a.Key, a.text), true, nil
		}
	}
	return api.Served{}, false, nil
}

// takeServed attaches what another kiln has signed.
func (s *signer) takeServed(ctx context.Context, d model.Digest, by string, req api.ServedRequest) (api.Served, error) {
	ring, err := s.ring()
	if err != nil {
		return api.Served{}, err
	}
	p, v, err := believeServed(ring, d, req, s.d.instance, time.Now(), memory(s.image(d)))
	if err != nil {
		return api.Served{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	lacking, err := s.without(ctx, d, sign.BundleDigest(req.Bundle))
	if err == nil {
		_, err = s.attachSigned(ctx, by, d, lacking, req.Bundle, model.ServedType, v.Key.ID())
	}
	return p.said(d, v.Key.ID(), req.Bundle), err
}

// without are the repositories with the image where a bundle is not attached to it.
func (s *signer) without(ctx context.Context, d model.Digest, bundle digest.Digest) (lacking []string, err error) {
	for _, repository := range s.repositories(d) {
		at, err := inRegistry(repository, d)
		if err != nil {
			return nil, err
		}
		here, err := sign.List(ctx, at, s.reach()...)
		if err != nil {
			return nil, err
		}
		if !lists(here, bundle) {
			lacking = append(lacking, repository)
		}
	}
	return lacking, nil
}

// believeServed checks what another kiln is said to have signed: a key that is believed
// has signed it, about this image, and it says what the request does.
func believeServed(ring sign.Keyring, d model.Digest, req api.ServedRequest, own model.InstanceID, now time.Time, remembered sign.Memory) (served, sign.Verified, error) {
	refuse := func(err error) *model.Error {
		hint := cmp.Or(model.HintOf(err), "ask the kiln where it served again: kiln promote does")
		if errors.Is(err, sign.ErrUnknownKey) {
			hint = "if that kiln is to be believed: kiln key there prints its key, and kiln key trust FILE --name NAME here has this one believe it"
		}
		return model.Errorf(model.CodeOf(err), "cannot take how long image %s served in %s: %w", d.Short(), req.Environment, err).WithHint("%s", hint)
	}
	v, err := ring.Verify(req.Bundle, digest.Digest(d), model.ServedType, now, remembered)
	if err != nil {
		return served{}, v, refuse(err)
	}
	p, err := readServed(v.Statement.Predicate, now)
	switch {
	case err != nil:
	case p.Environment != req.Environment || p.Service != req.Service:
		err = model.Errorf(model.Invalid, "it is of %s in environment %s, not of %s in %s", p.Service, p.Environment, req.Service, req.Environment)
	case p.Instance == own:
		err = model.Errorf(model.Invalid, "it is this kiln's own word").WithHint("of what served here the journal tells")
	}
	if err != nil {
		return served{}, v, refuse(err)
	}
	return p, v, nil
}
