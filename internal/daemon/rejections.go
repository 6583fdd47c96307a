package daemon

import (
	"context"
	"encoding/json"
	"slices"

	"kiln/internal/model"
)

// rejection is what a statement of model.RejectionType says.
type rejection struct {
	model.Rejection
	Rejected bool             `json:"rejected"`
	Instance model.InstanceID `json:"instance"`
}

// Rejected implements server.Word.
func (s *signer) Rejected(ctx context.Context, d model.Digest) error {
	var said *model.Rejection
	s.d.control.View(func(st *model.State, _ *model.Snapshot) {
		if img := st.Images[d]; unsaid(st, img) {
			known := *img.Rejection
			said = &known
		}
	})
	if said == nil {
		return nil
	}
	if len(s.repositories(d)) == 0 {
		return model.Errorf(model.Precondition, "cannot sign what is said of image %s: it is not here any more, and so in no repository", d.Short())
	}
	predicate, err := json.Marshal(rejection{Rejection: *said, Rejected: !said.Lifted, Instance: s.d.instance})
	if err != nil {
		return model.Errorf(model.Internal, "%w", err)
	}
	_, _, err = s.attestFor(ctx, said.By, d, model.RejectionType, predicate)
	return err
}

// unsaid reports whether this instance's last word about an image is not signed yet with
// a key of its own that is believed.
func unsaid(st *model.State, img *model.Image) bool {
	own := func(id string) bool { k := st.Key(id); return k != nil && k.Own && k.Revoked == nil }
	return img != nil && img.Rejection != nil && img.Rejection.From == "" &&
		!slices.ContainsFunc(img.Statements, func(a model.Statement) bool {
			return a.Type == model.RejectionType && own(a.Key) && !a.At.Before(img.Rejection.At)
		})
}

// rejectOld signs what a daemon before has written down and not signed any more.
func (s *signer) rejectOld(ctx context.Context) {
	var todo []model.Digest
	s.d.control.View(func(st *model.State, _ *model.Snapshot) {
		for d, img := range st.Images {
			if unsaid(st, img) && img.RemovedAt.IsZero() {
				todo = append(todo, d)
			}
		}
	})
	slices.Sort(todo)
	for _, d := range todo {
		if err := s.Rejected(ctx, d); err != nil && ctx.Err() == nil {
			s.d.cfg.Log.Warn("what is said of an image cannot be signed", "image", string(d), "error", err)
		}
	}
}
