package reconcile

import (
	"testing"
	"time"

	"kiln/internal/model"
)

// TestRollbackOfAPromotion: a release says where its own image was promoted from, also
// one that takes another's template again.
func TestRollbackOfAPromotion(t *testing.T) {
	first := &model.Promotion{Instance: "abcdef", Environment: "qa", Service: "shop-qa", Release: 3}
	second := &model.Promotion{Instance: "abcdef", Environment: "qa", Service: "shop-qa", Release: 4}
	for name, promoted := range map[string]*model.Promotion{"of a promotion": first, "of a build": nil} {
		t.Run(name, func(t *testing.T) {
			s := staging("sha256:aaaaaaaaaaaaaaaa")
			svc := s.Services["shop-staging"]
			for _, r := range svc.Releases {
				r.Policy.Servers, r.Policy.Deploy.Deadline, r.TemplateHash = 1, model.Duration(time.Hour), r.Template.Hash()
			}
			svc.Releases[0].Promoted, svc.Releases[1].Promoted = promoted, second
			events, _, err := Rollback(s, RollbackRequest{Service: "shop-staging"}, model.Now{Elapsed: model.Instant(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			made, ok := events[0].(model.ReleaseCreated)
			if !ok || made.Release.RollbackOf != 1 || made.Release.Promoted != promoted {
				t.Errorf("made is %+v", events[0])
			}
		})
	}
}
