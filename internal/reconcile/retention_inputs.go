package reconcile

import (
	"fmt"

	"kiln/internal/model"
)

// inputs says what becomes of what a build has fetched: it stays with the images
// that were made from it, and for a while after a build has used it.
func (r *retention) inputs(o model.Object) model.Kept {
	for _, d := range sortedImages(r.s) {
		if why, held := r.images[d]; held && string(r.s.Images[d].Provenance.Inputs) == o.ID {
			return model.Kept{Object: o, Keep: true, Reason: fmt.Sprintf("image %s was made from it: %s", d.Short(), why.reason)}
		}
	}
	age := r.now.Wall.Sub(later(o.At, o.LastUse))
	if age < keepBrought {
		return model.Kept{Object: o, Keep: true, Reason: fmt.Sprintf("a build used it %s ago: what was fetched stays for %s", span(age), span(keepBrought))}
	}
	return model.Kept{Object: o, Reason: fmt.Sprintf("no image that is kept was made from it, and no build has used it for %s", span(age))}
}
