package daemon

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"kiln/internal/api"
	"kiln/internal/model"
	"kiln/internal/reconcile"
	"kiln/internal/server"
	"kiln/internal/sign"
)

// Approve implements server.Word.
func (s *signer) Approve(ctx context.Context, d model.Digest, by string, req api.ApproveRequest) (api.Approval, error) {
	said := api.Approval{Image: d, Environment: req.Environment, By: by, Reason: req.Reason, At: time.Now().UTC().Truncate(time.Millisecond)}
	if len(s.repositories(d)) == 0 {
		return said, model.Errorf(model.Precondition, "cannot approve image %s: it is in no repository of the registry", d.Short())
	}
	if req.Bundle != nil {
		return s.takeApproval(ctx, d, req)
	}
	predicate, err := json.Marshal(api.ApprovalPredicate{Environment: said.Environment, By: by, Reason: said.Reason, At: said.At, Instance: s.d.instance})
	if err != nil {
		return said, model.Errorf(model.Internal, "%w", err)
	}
	_, made, err := s.attestFor(ctx, by, d, model.ApprovalType, predicate)
	said.Key = made.Key
	return said, err
}

// takeApproval attaches an approval that the approver has signed.
func (s *signer) takeApproval(ctx context.Context, d model.Digest, req api.ApproveRequest) (api.Approval, error) {
	ring, err := s.ring()
	if err != nil {
		return api.Approval{}, err
	}
	v, err := ring.Verify(req.Bundle, digest.Digest(d), model.ApprovalType, time.Now(), memory(s.image(d)))
	if err != nil {
		return api.Approval{}, model.Errorf(model.CodeOf(err), "cannot take the approval of image %s: %w", d.Short(), err).
			WithHint("the kiln believes the keys that kiln key list shows; kiln key trust adds one")
	}
	said, ok := s.approval(d, statement{Statement: api.Statement{Key: v.Key.ID(), KeyName: v.Name}, predicate: v.Statement.Predicate})
	if !ok || said.Environment != req.Environment {
		return api.Approval{}, model.Errorf(model.Invalid, "cannot take the approval of image %s: it is for environment %q, not for %q", d.Short(), said.Environment, req.Environment)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err = s.attachSigned(ctx, said.By, d, s.repositories(d), req.Bundle, model.ApprovalType, v.Key.ID())
	return said, err
}

// Said implements server.Word.
func (s *signer) Said(ctx context.Context, d model.Digest) (server.Said, error) {
	s.signing.settled(ctx, d)
	img := s.image(d)
	all, err := s.attachedOf(ctx, img, func(kind string) bool {
		return kind != sign.SPDX && kind != sign.CycloneDX && kind != sign.Provenance
	})
	if err != nil {
		return server.Said{}, err
	}
	slices.SortStableFunc(all, func(a, b statement) int { return at(a).Compare(at(b)) })
	said := server.Said{}
	seen := map[model.Digest]bool{}
	for _, a := range all {
		if !a.Holds || seen[a.Bundle] {
			continue
		}
		seen[a.Bundle] = true
		s.hear(&said, d, a)
	}
	return said, nil
}

// at is when a statement was made or came here, as the journal knows it.
func at(a statement) time.Time {
	if a.At == nil {
		return time.Time{}
	}
	return *a.At
}

// hear adds what one statement says.
func (s *signer) hear(said *server.Said, d model.Digest, a statement) {
	switch a.Type {
	case model.SignatureType:
		said.Signed = append(said.Signed, a.KeyName, a.Key)
	case model.TestResultType:
		said.Results = append(said.Results, a.Statement)
	case model.ApprovalType:
		if approval, ok := s.approval(d, a); ok {
			said.Approved = append(said.Approved, approval)
			said.Approvals = append(said.Approvals, reconcile.Approval{By: approval.By, Environment: approval.Environment})
		}
	case model.ServedType:
		// Of this kiln's own services its journal tells.
		if p, err := readServed(a.predicate, time.Now()); err == nil && p.Instance != s.d.instance {
			said.Served = append(said.Served, reconcile.Tenure{
				Key: a.Key, Instance: p.Instance, Environment: p.Environment, Service: p.Service, For: p.For, At: p.At,
			})
		}
	case model.RejectionType:
		var r rejection
		if json.Unmarshal(a.predicate, &r) == nil && r.Instance != s.d.instance && model.ValidInstanceID(string(r.Instance)) {
			r.From, r.Lifted = string(r.Instance), !r.Rejected
			if came := at(a); !came.IsZero() && r.At.After(came) {
				r.At = came // a clock that is ahead does not outdo what is said here since
			}
			said.Rejections = append(said.Rejections, r.Rejection)
		}
	}
}

// approval reads an approval. Who says so is whom this kiln has seen at its socket, or
// the name of the key that it is signed with: nobody signs in another's name.
func (s *signer) approval(d model.Digest, a statement) (api.Approval, bool) {
	var p api.ApprovalPredicate
	if json.Unmarshal(a.predicate, &p) != nil || p.Environment == "" {
		return api.Approval{}, false
	}
	out := api.Approval{Image: d, Environment: p.Environment, By: a.KeyName, Reason: p.Reason, At: p.At, Key: a.Key}
	s.d.control.View(func(st *model.State, _ *model.Snapshot) {
		if k := st.Key(a.Key); k != nil && k.Own {
			out.By = p.By
		}
	})
	return out, true
}
