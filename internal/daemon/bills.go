package daemon

import (
	"context"

	"github.com/opencontainers/go-digest"

	"kiln/internal/contents"
	"kiln/internal/model"
	"kiln/internal/sign"
)

// maxBill is how large a list of what is in an image may be, in bytes, to be
// attached to it: as a signed statement it is half as large again, and whoever
// checks one reads it as a whole.
const maxBill = 32 << 20

// billForms are the lists of what is in an image that are attached to it, by the
// type of the statement.
var billForms = []struct {
	kind  string
	write func(contents.Bill) ([]byte, error)
}{
	{sign.SPDX, contents.Bill.SPDX},
	{sign.CycloneDX, contents.Bill.CycloneDX},
}

// list attaches signed lists of what is in an image to it, as far as they are not.
// The image is read once for both. One image is listed at a time: what is read of
// layers for it is bounded for one.
func (s *signer) list(ctx context.Context, d model.Digest) error {
	s.listing.Lock()
	defer s.listing.Unlock()
	img := s.image(d)
	attached, err := s.attached(ctx, img)
	if err != nil {
		return cannotList(d, err)
	}
	var bill *contents.Bill
	for _, form := range billForms {
		lacking := lackingOf(img, attached, form.kind, "")
		if len(lacking) == 0 {
			continue
		}
		if bill == nil {
			if bill, err = s.d.inside.bill(ctx, img); err != nil {
				return cannotList(d, err)
			}
		}
		if err := s.attachBill(ctx, d, lacking, form.kind, *bill, form.write); err != nil {
			return cannotList(d, err)
		}
	}
	return nil
}

func (s *signer) attachBill(ctx context.Context, d model.Digest, to []string, kind string, bill contents.Bill, write func(contents.Bill) ([]byte, error)) error {
	text, err := write(bill)
	if err != nil {
		return err
	}
	if len(text) > maxBill {
		return model.Errorf(model.Invalid, "the list has %s, and what is attached to an image has at most %s", model.SizeText(int64(len(text))), model.SizeText(maxBill)).
			WithHint("kiln images sbom %s prints it", d.Short())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	bundle, err := s.private().Attest(digest.Digest(d), kind, text)
	if err != nil {
		return err
	}
	_, err = s.attach(ctx, d, to, bundle, kind)
	return err
}

func cannotList(d model.Digest, err error) error {
	return model.Errorf(model.CodeOf(err), "what is in image %s cannot be attached to it: %w", d.Short(), err)
}
