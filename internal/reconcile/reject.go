package reconcile

import (
	"fmt"

	"kiln/internal/model"
)

// RejectRequest says that an image is bad, or (Lifted) is not bad after all.
type RejectRequest struct {
	Image     model.Digest
	Rejection model.Rejection // its time counts for another instance's word only
}

// Reject marks an image as bad: from then on it is not deployed, promoted or rolled
// back to, and what brings it and can still be ended is. What serves of it goes on
// serving, and is healed: to take it out of service is a rollback. Nothing follows
// when it is as asked already.
func Reject(s *model.State, req RejectRequest, now model.Now) ([]model.Payload, error) {
	verb := "reject"
	if req.Rejection.Lifted {
		verb = "unreject"
	}
	img := s.Images[req.Image]
	if img == nil {
		return nil, model.Errorf(model.NotFound, "cannot %s image %s: there is none", verb, req.Image).WithHint("kiln images lists them")
	}
	if !req.Rejection.Lifted && req.Rejection.Reason == "" {
		return nil, model.Errorf(model.Invalid, "cannot reject image %s: the reason is missing", req.Image.Short()).WithHint("--reason says what is wrong with it")
	}
	if known := img.Rejection; img.Rejected() == !req.Rejection.Lifted &&
		(known == nil || known.Lifted || known.By == req.Rejection.By && known.Reason == req.Rejection.Reason) {
		return nil, nil
	}
	events := []model.Payload{model.ImageRejected{Digest: req.Image, Rejection: req.Rejection}}
	if req.Rejection.Lifted {
		return events, nil
	}
	for _, name := range sortedNames(s) {
		events = append(events, endBringing(s.Services[name], req, now)...)
	}
	return events, nil
}

// endBringing ends the deployments that bring an image, as far as they can be ended.
func endBringing(svc *model.Service, req RejectRequest, now model.Now) []model.Payload {
	image, by := req.Image, fmt.Sprintf("%s, who rejected image %s: %s", req.Rejection.By, req.Image.Short(), req.Rejection.Reason)
	var events []model.Payload
	for _, waits := range svc.Queue {
		if r := svc.Release(waits.To); r != nil && r.Template.Image == image {
			events = append(events, dropped(waits, "aborted by "+by+", before it began", now))
		}
	}
	d := svc.Deployment
	if d == nil || d.Committed() || d.Abort != "" {
		return events
	}
	to, from := svc.Release(d.To), svc.Release(d.From)
	if to == nil || to.Template.Image != image || from != nil && from.Template.Image == image {
		return events // what it goes back to is no better
	}
	return append(events, model.DeploymentAborting{ID: d.ID, Service: svc.Name, By: by})
}

// rejected refuses what needs an image that is bad.
func rejected(s *model.State, d model.Digest, what string) error {
	img := s.Images[d]
	if !img.Rejected() {
		return nil
	}
	by := img.Rejection.By
	if img.Rejection.From != "" {
		by += " on kiln " + img.Rejection.From
	}
	return model.Errorf(model.Precondition, "cannot %s: its image %s is rejected by %s: %s", what, d.Short(), by, img.Rejection.Reason).
		WithHint("another image; or, if it is not bad after all: kiln images unreject %s", d.Short())
}

// usable refuses what needs an image that is not to be had, or is bad.
func usable(s *model.State, d model.Digest, what string) error {
	if err := removed(s, d, what); err != nil {
		return err
	}
	return rejected(s, d, what)
}
