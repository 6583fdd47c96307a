package daemon

import (
	"testing"
	"time"

	"kiln/internal/model"
)

// TestUnsaid: what this kiln says of an image is said once it has signed it itself,
// with a key that counts, whatever others say.
func TestUnsaid(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	st := model.NewState()
	st.Keys = []*model.SigningKey{
		{Name: "kiln-1", ID: "own", Own: true}, {Name: "kiln-0", ID: "lost", Own: true, Revoked: &model.Revoked{Reason: "lost"}}, {Name: "alice", ID: "other"},
	}
	here, there := &model.Rejection{By: "ann", At: at}, &model.Rejection{By: "ann", From: "bbbbbb", At: at}
	for name, c := range map[string]struct {
		said   *model.Rejection
		signed []model.Statement
		want   bool
	}{
		"nothing is said":      {nil, nil, false},
		"another kiln's":       {there, nil, false},
		"not signed":           {here, nil, true},
		"signed":               {here, []model.Statement{{Type: model.RejectionType, Key: "own", At: at}}, false},
		"an earlier word":      {here, []model.Statement{{Type: model.RejectionType, Key: "own", At: at.Add(-1)}}, true},
		"something else":       {here, []model.Statement{{Type: model.SignatureType, Key: "own", At: at}}, true},
		"another's word since": {here, []model.Statement{{Type: model.RejectionType, Key: "other", At: at}}, true},
		"with a lost key":      {here, []model.Statement{{Type: model.RejectionType, Key: "lost", At: at}}, true},
	} {
		if got := unsaid(st, &model.Image{Rejection: c.said, Statements: c.signed}); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if unsaid(st, nil) {
		t.Error("of no image")
	}
}
