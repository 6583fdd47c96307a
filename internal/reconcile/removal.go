package reconcile

import (
	"fmt"

	"kiln/internal/model"
)

// idsNamed is how many objects an event names.
const idsNamed = 20

// Removal is what is written down before objects are removed: an event for each
// image that was not removed before, one for each other kind of objects.
func Removal(s *model.State, kept []model.Kept) []model.Payload {
	var events []model.Payload
	sums := map[model.ObjectKind]*model.ObjectsRemoved{}
	var kinds []model.ObjectKind
	for _, k := range kept {
		if k.Keep {
			continue
		}
		if k.Kind == model.ObjectImage {
			d := model.Digest(k.ID)
			if img := s.Images[d]; img == nil || img.RemovedAt.IsZero() {
				events = append(events, model.ImageRemoved{Digest: d, Bytes: k.Bytes, Reason: k.Reason})
			}
			continue
		}
		sum := sums[k.Kind]
		if sum == nil {
			sum = &model.ObjectsRemoved{Object: k.Kind, Reason: k.Reason}
			sums[k.Kind] = sum
			kinds = append(kinds, k.Kind)
		}
		sum.Count++
		sum.Bytes += k.Bytes
		if len(sum.IDs) < idsNamed || k.Kind == model.ObjectSecret || k.Kind == model.ObjectConfig {
			sum.IDs = append(sum.IDs, k.ID)
		}
	}
	for _, kind := range kinds {
		events = append(events, *sums[kind])
	}
	return events
}

// PinRequest asks that an image is kept, or need not be any more.
type PinRequest struct {
	Image  model.Digest
	Pinned bool
	By     string
	Reason string
}

// Pin marks an image to be kept, whatever retention says. Nothing follows when
// it is as asked already.
func Pin(s *model.State, req PinRequest) ([]model.Payload, error) {
	verb := "pin"
	if !req.Pinned {
		verb = "unpin"
	}
	img := s.Images[req.Image]
	if img == nil {
		return nil, model.Errorf(model.NotFound, "cannot %s image %s: there is none", verb, req.Image).WithHint("kiln images lists them")
	}
	if req.Pinned {
		if err := removed(s, req.Image, "pin image "+req.Image.Short()); err != nil {
			return nil, err
		}
	}
	same := img.Pinned != nil == req.Pinned
	if same && (!req.Pinned || img.Pinned.Reason == req.Reason && img.Pinned.By == req.By) {
		return nil, nil
	}
	return []model.Payload{model.ImagePinned{Digest: req.Image, Pinned: req.Pinned, By: req.By, Reason: req.Reason}}, nil
}

// removed refuses what needs an image whose content retention has removed.
func removed(s *model.State, d model.Digest, what string) error {
	img := s.Images[d]
	if img == nil || img.RemovedAt.IsZero() {
		return nil
	}
	return model.Errorf(model.Precondition, "cannot %s: its image %s was removed on %s, for nothing held it any more", what, d.Short(), stamp(img.RemovedAt)).
		WithHint("%s", again(s, img))
}

// again says how an image that was removed is to be had again.
func again(s *model.State, img *model.Image) string {
	switch commit := commitOf(s, img); {
	case img.Source == "build" && commit != "":
		return fmt.Sprintf("build it again, from its commit: git checkout %s && kiln deploy", commit)
	case img.Source == "build":
		return "build it again from its source, with kiln deploy"
	case img.Source == "import":
		return "bring it again: kiln images import"
	default:
		return "bring it again: kiln images pull " + img.Source
	}
}

// commitOf returns the commit that an image was built from, as far as known.
func commitOf(s *model.State, img *model.Image) string {
	if img.Provenance.Commit != "" {
		return img.Provenance.Commit
	}
	for _, name := range sortedNames(s) {
		for _, r := range s.Services[name].Releases {
			if r.Template.Image == img.Digest && r.Provenance.Commit != "" {
				return r.Provenance.Commit
			}
		}
	}
	return ""
}
