package server

import (
	"testing"
	"time"

	"kiln/internal/model"
)

// TestLastWord: what was said last of an image counts, in whatever order it is
// attached.
func TestLastWord(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	bad := model.Rejection{Reason: "bad", From: "aaaaaa", At: at}
	lifted := model.Rejection{Lifted: true, From: "aaaaaa", At: at.Add(time.Minute)}
	for name, c := range map[string]struct {
		list []model.Rejection
		want *model.Rejection
	}{
		"nothing":            {nil, nil},
		"in order":           {[]model.Rejection{bad, lifted}, &lifted},
		"the other way":      {[]model.Rejection{lifted, bad}, &lifted},
		"by others as well":  {[]model.Rejection{lifted, {From: "bbbbbb", At: at.Add(time.Second)}, bad}, &lifted},
		"only that it's bad": {[]model.Rejection{bad}, &bad},
	} {
		got := Said{Rejections: c.list}.lastWord()
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
