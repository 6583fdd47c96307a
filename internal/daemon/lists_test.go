package daemon

import (
	"os"
	"strings"
	"testing"

	"kiln/internal/model"
)

// TestChangedList: nothing is judged by a list that is not the one that was named.
func TestChangedList(t *testing.T) {
	lists := knownLists{t.TempDir()}
	kept, err := lists.Keep(t.Context(), "osv.json", strings.NewReader(`[{"id":"A-1"},{"id":"A-2"}]`))
	if err != nil {
		t.Fatal(err)
	}
	named := model.VulnerabilityList{Name: "osv.json", Digest: kept.Digest}
	if report, err := lists.judge(named, nil); err != nil || report.Entries != 2 || !lists.Has(kept.Digest) {
		t.Fatalf("%d entries, %v", report.Entries, err)
	}
	if err := os.WriteFile(lists.path(kept.Digest), []byte(`[{"id":"A-1"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"was changed where it is kept", "is not here any more"} {
		if _, err := lists.judge(named, nil); model.CodeOf(err) != model.Precondition || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want: %s", err, want)
		}
		if lists.Has(kept.Digest) {
			t.Error("it is taken for the one that was named, and is not sent again")
		}
	}
}
