package daemon

import (
	"testing"
	"time"

	"kiln/internal/model"
)

// TestResultsStand: what came of checks counts as long as its signature does.
func TestResultsStand(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	st := model.NewState()
	st.Keys = []*model.SigningKey{
		{Name: "kiln-1", ID: "lost", Own: true, Revoked: &model.Revoked{Reason: "lost"}},
		{Name: "kiln-2", ID: "late", Own: true, Revoked: &model.Revoked{Reason: "lost", Since: at.Add(time.Minute)}},
		{Name: "kiln-3", ID: "own", Own: true},
		{Name: "alice", ID: "other"},
	}
	signed := func(key string, when time.Time) model.Statement {
		return model.Statement{Type: model.TestResultType, Key: key, At: when}
	}
	checked := &model.CheckedImage{At: at}
	for name, c := range map[string]struct {
		checked *model.CheckedImage
		said    []model.Statement
		want    bool
	}{
		"never asked":               {nil, []model.Statement{signed("own", at)}, false},
		"not signed":                {checked, nil, false},
		"signed":                    {checked, []model.Statement{signed("own", at)}, true},
		"something else":            {checked, []model.Statement{{Type: model.SignatureType, Key: "own", At: at}}, false},
		"revoked":                   {checked, []model.Statement{signed("lost", at)}, false},
		"revoked since":             {checked, []model.Statement{signed("late", at)}, true},
		"another's":                 {checked, []model.Statement{signed("other", at)}, false},
		"what came of it, not more": {checked, []model.Statement{signed("lost", at), signed("own", at.Add(time.Second))}, false},
	} {
		if got := resultStands(st, &model.Image{Statements: c.said}, c.checked); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
